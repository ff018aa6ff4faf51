"""The story of dialogues: find exchanges, choose, keep withheld facts out, give every turn its speech."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np

from components.dialogues.config import DialoguesConfig
from components.dialogues.exchanges import Draft, FactIndex, closed_world, open_domain, written
from components.dialogues.voicing import GENERATED, Voices, say_missing, seed_of, voice
from components.shared.contracts import Dialogue, Fact, SpeechTokens, Text
from components.shared.manifest import EXACT, RECORDED, read_manifest, read_table, write_table
from components.shared.places import Inputs, Outputs
from components.shared.tracking import Tracker
from components.text_to_token.model import FAULTS, load

REASONS = ("long", "withheld", "language", *FAULTS)
MAX_STATS_ROWS = 5000


def run(config: DialoguesConfig, inputs: Inputs, outputs: Outputs, tracker: Tracker) -> dict[str, float]:
    """Make spoken dialogues of what the training texts ask and answer.

    Reads   data/collect/texts, data/collect/facts, data/tokenize/tokens, data/text_to_token/model
    Writes  data/dialogues/dialogues/
    Metrics num_dialogues, num_closed_world, num_turns, generated_share (of the turns), generated_tokens,
            tokens_per_s (of the generation), dropped_* (dialogues)
    Source  Zeng et al. 2024, section 2.4

    Raises ValueError when no dialogue can be made, or a file of dialogues is malformed.
    """
    model_folder, tokens = inputs.folder("text_to_token", "model"), inputs.folder("tokenize", "tokens")
    model = load(model_folder)
    index = FactIndex(read_table(inputs.folder("collect", "facts"), Fact))
    texts = [row for row in read_table(inputs.folder("collect", "texts"), Text) if row.split == "train"]
    speakable = set(model.pace.languages)
    texts = [row for row in texts if row.language in speakable]
    dropped: Counter[str] = Counter()

    drafts = _about_facts(texts, index, config) + _open(texts, config)
    drafts += [draft for path in config.files for draft in written(Path(path))]
    drafts = [draft for draft in drafts if _fits(draft, index, config, dropped)]

    voices = Voices.of(read_table(tokens, SpeechTokens))
    started = time.perf_counter()
    num_generated, faults = say_missing(
        drafts, voices, model, config, lambda said, total: tracker.progress(said, total, "dialogues: turns")
    )
    elapsed = time.perf_counter() - started
    rows = [row for row in (voice(draft, voices, faults, dropped) for draft in drafts) if row is not None]
    if not rows:
        raise ValueError(f"dialogues: none could be made of {len(texts)} texts; dropped {dict(dropped)}")
    for row in rows:
        if seed_of(f"{config.seed} validation {row.id}") / 2**63 < config.validation_share:
            row.split = "validation"

    origins = Counter(turn.origin for row in rows for turn in row.turns)
    extra = {"num_codes": model.vocabulary.num_codes, "text_to_token": read_manifest(model_folder).content_hash}
    grade = RECORDED if origins[GENERATED] else EXACT
    write_table(outputs.folder("dialogues"), rows, Dialogue, extra=extra, grade=grade)
    metrics = {
        "num_dialogues": float(len(rows)),
        "num_closed_world": float(sum(bool(row.fact) for row in rows)),
        "num_turns": float(sum(origins.values())),
        "generated_share": origins[GENERATED] / sum(origins.values()),
        "generated_tokens": float(num_generated),
        "tokens_per_s": num_generated / elapsed if num_generated else 0.0,
    }
    metrics |= {f"dropped_{reason}": float(dropped[f"dropped_{reason}"]) for reason in REASONS}
    lost = {name: count for name, count in dropped.items() if count}
    tracker.say(f"dialogues: {len(rows)} made, turns by origin {dict(origins)}, dropped {lost or 'none'}")
    _show(rows, tracker)
    _write_stats(rows, metrics, outputs)
    return metrics


def _about_facts(texts: list[Text], index: FactIndex, config: DialoguesConfig) -> list[Draft]:
    """Dialogues about spoken facts, every fact in turn; some go on to another fact of the same subject."""
    found = closed_world((text for text in texts if text.corpus == config.closed_world), index)
    rng = np.random.default_rng([config.seed, 1])
    by_subject: dict[str, list[str]] = {}
    for fact_id, (fact, _) in sorted(found.items()):
        by_subject.setdefault(fact.subject, []).append(fact_id)
    order = [str(fact_id) for fact_id in rng.permutation(sorted(found))]
    drafts = []
    for number in range(config.num_closed_world if order else 0):
        fact, exchanges = found[order[number % len(order)]]
        chosen = [exchanges[(number // len(order)) % len(exchanges)]]
        others = [other for other in by_subject[fact.subject] if other != fact.id]
        if others and rng.random() < config.second_exchange_share:
            _, more = found[others[int(rng.integers(len(others)))]]
            chosen.append(more[int(rng.integers(len(more)))])
        key = f"{config.closed_world}-{number:06d}"
        drafts.append(Draft(id=key, language=fact.language, exchanges=tuple(chosen), fact=fact.id))
    return drafts


def _open(texts: list[Text], config: DialoguesConfig) -> list[Draft]:
    """num_open_domain dialogues of the open-domain corpora, in an order drawn from the seed."""
    chosen = [text for text in texts if text.corpus in config.open_domain]
    drafts = {draft.exchanges: draft for draft in open_domain(chosen, config.max_turn_chars)}
    ordered = sorted(drafts.values(), key=lambda draft: seed_of(f"{config.seed} {draft.id}"))
    return ordered[: config.num_open_domain]


def _fits(draft: Draft, index: FactIndex, config: DialoguesConfig, dropped: Counter[str]) -> bool:
    """Whether no turn is too long and no withheld fact is spoken of; counted when not."""
    turns = [text for exchange in draft.exchanges for text in exchange.texts]
    if max(len(text) for text in turns) > config.max_turn_chars:
        dropped["dropped_long"] += 1
        return False
    said = [" ".join(exchange.texts) for exchange in draft.exchanges]
    if any(fact.withheld for text in said for fact in index.stated(text, draft.language)):
        dropped["dropped_withheld"] += 1
        return False
    return True


def _show(rows: list[Dialogue], tracker: Tracker) -> None:
    lines = []
    for row in rows[:: max(1, len(rows) // 20)]:
        lines += [f"{row.id} ({row.language})"]
        lines += [f"  {turn.role}: {turn.text}  [{len(turn.tokens)} tokens, {turn.origin}]" for turn in row.turns]
    tracker.log_text("\n".join(lines) + "\n", "dialogues.txt")


def _write_stats(rows: list[Dialogue], metrics: dict[str, float], outputs: Outputs) -> None:
    turns = [turn for row in rows for turn in row.turns]
    stats = [
        {
            "num_turns": float(len(row.turns)),
            "tokens_per_char": sum(len(t.tokens) for t in row.turns) / sum(len(t.text) for t in row.turns),
            "shortest_turn_tokens": float(min(len(turn.tokens) for turn in row.turns)),
        }
        for row in rows[:MAX_STATS_ROWS]
    ]
    tried = metrics["num_dialogues"] + sum(metrics[f"dropped_{reason}"] for reason in REASONS)
    shard = {
        "kept_share": len(rows) / tried,
        "turns": float(len(turns)),
        "dropped_withheld": metrics["dropped_withheld"],
    }
    outputs.write_stats(shards=[shard], rows=stats)
