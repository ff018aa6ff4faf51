"""The story of synthesize: look at the texts, choose, say spans of them shard by shard, hear a sample, count."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from components.shared.contracts import Interleaved
from components.shared.engine import EngineKind
from components.shared.executor import ExecutorKind, map_shards
from components.shared.manifest import EXACT, RECORDED, link, read_manifest, seal
from components.shared.places import Inputs, Outputs
from components.shared.tracking import Tracker
from components.synthesize.config import SynthesizeConfig
from components.synthesize.hearing import hear, show
from components.synthesize.metrics import MAX_STATS_ROWS, metrics_of, stats_of
from components.synthesize.probe import find_unsayable
from components.synthesize.selection import Selection, select
from components.synthesize.shard import keyed, make, placement, read_record
from components.synthesize.survey import Survey, survey
from components.text_to_token.model import TextToToken, load


def run(config: SynthesizeConfig, inputs: Inputs, outputs: Outputs, tracker: Tracker) -> dict[str, float]:
    """Make interleaved speech-text documents out of texts.

    Reads   data/collect/texts, data/text_to_token/model, data/speech_tokenizer/model
    Writes  data/synthesize/interleaved/
    Metrics num_documents, num_spans, speech_tokens (and by language), tokens (speech and text), hours, tokens_per_s (of
            what was generated in this run), tokens_per_word, coverage (share of the words that is speech), said_again
            and dropped_* of the spans and texts, engine_* (servers lost, calls that failed), wer_en and cer_zh of the
            sample that was heard
    Source  Zeng et al. 2024, section 2.3

    Raises ValueError when no text is in a language that the model can say, and for workers without a server to share.
    """
    several = config.executor.kind is ExecutorKind.ray or config.executor.num_workers > 1
    if config.engine.kind is EngineKind.sglang and not config.engine.servers and several:
        raise ValueError(
            "synthesize.engine.servers: got [], wanted the URLs of servers that the workers share "
            "(python -m components.shared.engine.serve)"
        )
    folder = inputs.folder("text_to_token", "model")
    model = load(folder)
    texts = inputs.folder("collect", "texts")
    tracker.log_dataset(texts, "texts", "train")
    found = survey(texts, folder, config, outputs.work / "survey", tracker)
    selection = _select(found, model, folder, texts, config, outputs, tracker)
    dropped = found.dropped + selection.dropped
    plan = ", ".join(f"{count:,.0f} in {language}" for language, count in selection.tokens.items())
    count = sum(chunk.num_documents for chunk in selection.chunks)
    tracker.say(f"synthesize: {count} texts, about {plan} tokens; left out {dict(dropped) or 'none'}")

    paths, rate = _make(selection, folder, config, outputs, tracker)
    records = [read_record(path) for path in paths]
    table = outputs.folder("interleaved")
    for number, path in enumerate(paths):
        link(path, table / f"part-{number:05d}.parquet")
    extra = {
        "num_codes": model.vocabulary.num_codes,
        "tokens_per_s": model.tokens_per_s,
        "text_to_token": read_manifest(folder).content_hash,
    }
    grade = EXACT if all(record.exact for record in records) else RECORDED
    seal(table, contract=Interleaved.__name__, grade=grade, extra=extra)

    heard = hear(records, inputs, tracker)
    outputs.write_stats(*stats_of(records, heard.shards))
    show(paths[0], tracker)
    return metrics_of(records, selection.chunks, dropped, model.tokens_per_s) | rate | heard.figures


def _select(
    found: Survey,
    model: TextToToken,
    folder: Path,
    texts: Path,
    config: SynthesizeConfig,
    outputs: Outputs,
    tracker: Tracker,
) -> Selection:
    """What is to be made, without the languages that the model turns out not to be able to say."""
    selection = select(found.chunks, config)
    if not selection.chunks:
        raise ValueError(f"{texts}: no text in a language that was learnt: {', '.join(model.pace.languages)}")
    unsayable = find_unsayable(selection.chunks, folder, config, outputs.work / "probe", tracker)
    if unsayable:
        selection = select(found.chunks, config, unsayable)
    if not selection.chunks:
        raise ValueError(
            f"{folder}: more than {config.max_failed_share:.0%} of the spans fail in {', '.join(unsayable)}; "
            "wanted a text-to-token model that can say one language"
        )
    return selection


def _make(
    selection: Selection, folder: Path, config: SynthesizeConfig, outputs: Outputs, tracker: Tracker
) -> tuple[list[Path], dict[str, float]]:
    """(the finished shard of each chunk, tokens_per_s of those that were made now), watched in tokens."""
    jobs = keyed(selection.chunks, folder, config)
    sizes = [round(job.chunk.tokens) for job in jobs.values()]
    shards = [outputs.work / "shards" / key for key in jobs]
    started = time.monotonic()
    made: Counter[str] = Counter()

    def watch(finished: Iterable[int], total: int) -> Iterator[int]:
        bar = tracker.progress(finished, total, "synthesize: tokens", unit="tokens", size=lambda index: sizes[index])
        for step, index in enumerate(bar, start=1):
            made.update(read_record(shards[index]).counts)
            if step % max(1, len(jobs) // MAX_STATS_ROWS) == 0:
                tracker.log_metrics({"speech_tokens": float(made["speech_tokens"]), **_rate(made, started)}, step=step)
            yield index

    paths = map_shards(
        make,
        list(jobs.values()),
        list(jobs),
        work=outputs.work,
        config=config.executor,
        progress=watch,
        sizes=sizes,
        **placement(config),
    )
    return paths, _rate(made, started) if made else {}


def _rate(made: Counter[str], started: float) -> dict[str, float]:
    return {"tokens_per_s": made["generated_tokens"] / (time.monotonic() - started)}
