"""The story of mix: a tokenizer, token shards of every source, a plan, a schedule, and a look at what came of it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from components.mix.achieved import Seen, count
from components.mix.config import FILLER, MixConfig, sources_of
from components.mix.documents import TRAIN, VALIDATION
from components.mix.figures import shares_figure
from components.mix.plan import Budget, check, describe, plan
from components.mix.schedule import num_windows, windows, write
from components.mix.sources import TABLES, Source, check_filler, make_shards
from components.mix.vocabulary import make_tokenizer
from components.shared.contracts import Text
from components.shared.manifest import read_manifest, read_table, seal
from components.shared.packed_data import PIECE
from components.shared.places import Inputs, Outputs
from components.shared.tokens import Vocabulary
from components.shared.tracking import Tracker

DROPPED = ("dropped_test", "dropped_empty")
MAX_STATS_ROWS = 5000


def run(config: MixConfig, inputs: Inputs, outputs: Outputs, tracker: Tracker) -> dict[str, float]:
    """Plan what pre-training reads and write it as packed token sequences.

    Reads   data/collect/texts, data/tokenize/tokens, data/synthesize/interleaved
    Writes  data/mix/tokenizer/, data/mix/shards/ (see shared.packed_data)
    Metrics planned_share_*, achieved_share_* (of all tokens), epochs_*, repeats_* (documents shown again) and
            split_documents_* (longer than a sequence, per epoch) of every source; padding_share; dropped_*
    Source  Zeng et al. 2024, section 2.4

    Raises ValueError when the budgets cannot be met, or a speech code or token id is outside the vocabulary.
    """
    check(config)
    folders = {source: inputs.folder(*TABLES[source]) for source in sources_of(config)}
    num_codes = int(read_manifest(folders["asr"]).extra["num_codes"])
    texts = (row.text for row in read_table(folders["text"], Text) if row.split == "train")
    tokenizer, num_base_tokens = make_tokenizer(config, texts, num_codes)
    vocabulary = Vocabulary.of(tokenizer, num_codes)
    tokenizer_folder = outputs.folder("tokenizer")
    tokenizer.save_pretrained(tokenizer_folder)
    seal(tokenizer_folder, extra={"num_codes": num_codes, "base": config.base, "num_base_tokens": num_base_tokens})

    made = make_shards(config, folders, tokenizer_folder, num_codes, outputs.work, tracker)
    sources = [Source.read(index, name, made[name]) for index, name in enumerate(sources_of(config))]
    for source in sources:
        if source.name == FILLER:
            check_filler(config, source)
    budgets = plan(config, {source.name: source.documents[TRAIN].num_tokens for source in sources})

    shards = outputs.folder("shards")
    for source in sources:
        source.publish(shards)
    of_train = {budget.source: budget.planned for budget in budgets}
    num_sequences = _schedule(config, sources, TRAIN, of_train, shards, tracker)
    of_validation = dict.fromkeys(of_train, config.validation_tokens)
    num_validation = _schedule(config, sources, VALIDATION, of_validation, shards, tracker)
    extra = {
        "sources": [source.name for source in sources],
        "shards": {source.name: len(source.folders) for source in sources},
        "sequence_length": config.sequence_length,
        "pad_id": vocabulary.pad,
        "num_codes": num_codes,
        "vocabulary_size": vocabulary.size,
        "budgets": of_train,
    }
    seal(shards, extra=extra)

    metrics = {"vocabulary_size": float(vocabulary.size), "num_validation_sequences": float(num_validation)}
    for reason in DROPPED:
        metrics[reason] = float(sum(source.counts[reason] for source in sources))
    if metrics["dropped_empty"]:
        tracker.say(f"mix: {metrics['dropped_empty']:.0f} rows without text or without tokens were left out")
    metrics |= _count_split(config, sources, tracker)
    return metrics | _compare(config, budgets, sources, shards, num_sequences, outputs, tracker)


def _schedule(
    config: MixConfig, sources: list[Source], split: str, budgets: dict[str, int], shards: Path, tracker: Tracker
) -> int:
    """Write the schedule of a split, a window at a time; returns the number of sequences."""
    streams = [source.stream(split, budgets[source.name], config) for source in sources]
    total = num_windows(streams, config.sequence_length, config.window_sequences)
    planned = windows(streams, config.sequence_length, config.window_sequences, config.seed)
    return write(shards, split, tracker.progress(planned, total, f"mix: windows of {split}"))


def _count_split(config: MixConfig, sources: list[Source], tracker: Tracker) -> dict[str, float]:
    """Documents of each source that no sequence holds whole; they are cut, and no token is lost."""
    counts = {source.name: source.longer_than(config.sequence_length) for source in sources}
    if any(counts.values()):
        told = ", ".join(f"{count:,} of {name}" for name, count in counts.items() if count)
        tracker.say(f"mix: cut into sequences of {config.sequence_length} tokens: {told}")
    return {f"split_documents_{name}": float(count) for name, count in counts.items()}


def _compare(
    config: MixConfig,
    budgets: list[Budget],
    sources: list[Source],
    shards: Path,
    num_sequences: int,
    outputs: Outputs,
    tracker: Tracker,
) -> dict[str, float]:
    """Log what was planned beside what the finished schedule holds; write the statistics for the gate."""
    counted = count(shards / f"{TRAIN}.pieces", [source.documents[TRAIN].count for source in sources])
    seen = {source.name: one for source, one in zip(sources, counted, strict=True)}
    total = sum(one.tokens for one in counted)
    padding = 1 - total / max(1, num_sequences * config.sequence_length)
    table = describe(budgets, seen)
    tracker.say(f"mix: how {config.total_tokens:,} tokens were filled\n{table}\npadding {padding:.2%}")
    tracker.log_text(table + "\n", "plan.txt")
    tracker.log_figure(shares_figure(budgets, {name: one.tokens for name, one in seen.items()}), "shares")
    metrics = {"num_sequences": float(num_sequences), "total_tokens": float(total), "padding_share": padding}
    planned_total = sum(budget.planned for budget in budgets)
    stats = []
    for index, budget in enumerate(budgets):
        name, one = budget.source, seen[budget.source]
        planned, got = budget.planned / planned_total, one.tokens / max(1, total)
        epochs = one.tokens / budget.available if budget.available else 0.0
        metrics |= {f"planned_share_{name}": planned, f"achieved_share_{name}": got}
        metrics |= {f"epochs_{name}": epochs, f"repeats_{name}": float(one.repeats)}
        stats.append({"source": float(index), "share_error": abs(planned - got), "padding_share": padding})
        stats[-1] |= _seen_stats(budget, one, epochs)
    outputs.write_stats(shards=stats, rows=_sample(shards, num_sequences, config.sequence_length))
    return metrics


def _seen_stats(budget: Budget, one: Seen, epochs: float) -> dict[str, float]:
    return {
        "epochs": epochs,
        "epochs_error": abs(epochs - budget.epochs),
        "seen_spread": float(one.most - one.least),
        "seen_beyond": max(0.0, one.most - math.ceil(budget.max_epochs)),
        "available_tokens": float(budget.available),
        "pieces": float(one.pieces),
    }


def _sample(shards: Path, num_sequences: int, sequence_length: int) -> list[dict[str, float]]:
    """How full sequences are, and with how many pieces, of up to MAX_STATS_ROWS spread over the run."""
    if not num_sequences:
        return []
    pieces = np.memmap(shards / f"{TRAIN}.pieces", PIECE, mode="r")
    ends = np.memmap(shards / f"{TRAIN}.sequences", "<u8", mode="r")
    chosen = range(0, num_sequences, max(1, num_sequences // MAX_STATS_ROWS))
    lengths = [pieces["length"][int(ends[number]) : int(ends[number + 1])] for number in chosen]
    return [{"fill": float(one.sum() / sequence_length), "pieces": float(len(one))} for one in lengths]
