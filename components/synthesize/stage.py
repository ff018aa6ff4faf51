"""The story of synthesize: choose texts, say spans of them shard by shard, hear a sample, look at what came of it."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from components.shared.contracts import Interleaved, Text, from_table
from components.shared.executor import map_shards
from components.shared.manifest import EXACT, RECORDED, read_manifest, read_table, seal
from components.shared.places import Inputs, Outputs
from components.shared.tracking import Tracker
from components.synthesize.config import SynthesizeConfig
from components.synthesize.hearing import hear, show
from components.synthesize.probe import find_unsayable
from components.synthesize.selection import select
from components.synthesize.shard import DROPPED_SPANS, failed_share, keyed, make, read_record
from components.text_to_token.model import load

MAX_STATS_ROWS = 5000


def run(config: SynthesizeConfig, inputs: Inputs, outputs: Outputs, tracker: Tracker) -> dict[str, float]:
    """Make interleaved speech-text documents out of texts.

    Reads   data/collect/texts, data/text_to_token/model, data/speech_tokenizer/model
    Writes  data/synthesize/interleaved/
    Metrics num_documents, num_spans, speech_tokens, hours, tokens_per_s (of what was generated in this run),
            tokens_per_word, coverage (share of the words that is speech), said_again and dropped_* of the spans
            and texts, wer_en and cer_zh of the sample that was heard
    Source  Zeng et al. 2024, section 2.3

    Raises ValueError when no text is in a language that the model can say.
    """
    folder = inputs.folder("text_to_token", "model")
    model = load(folder)
    texts = inputs.folder("collect", "texts")
    tracker.log_dataset(texts, "texts", "train")
    dropped: Counter[str] = Counter()
    documents, expected = select(read_table(texts, Text), model, config, dropped)
    if not documents:
        raise ValueError(f"{texts}: no text in a language that was learnt: {', '.join(model.pace.languages)}")
    unsayable = find_unsayable(documents, folder, config, outputs.work / "probe", tracker)
    if unsayable:
        dropped.clear()
        documents, expected = select(read_table(texts, Text), model, config, dropped, unsayable)
    if not documents:
        raise ValueError(
            f"{folder}: more than {config.max_failed_share:.0%} of the spans fail in {', '.join(unsayable)}; "
            "wanted a text-to-token model that can say one language"
        )
    plan = ", ".join(f"{count:,.0f} in {language}" for language, count in expected.items())
    tracker.say(f"synthesize: {len(documents)} texts, about {plan} speech tokens; left out {dict(dropped) or 'none'}")

    size = config.documents_per_shard
    jobs = keyed([documents[start : start + size] for start in range(0, len(documents), size)], folder, config)
    started, ready = time.monotonic(), _count_ready(outputs.work)
    paths = map_shards(
        make,
        list(jobs.values()),
        list(jobs),
        work=outputs.work,
        config=config.executor,
        progress=lambda done, total: tracker.progress(done, total, "synthesize: shards"),
    )
    elapsed = time.monotonic() - started
    records = [read_record(path) for path in paths]
    counts = sum((record for record, _ in records), Counter())

    table = outputs.folder("interleaved")
    for number, path in enumerate(paths):
        shutil.copyfile(path, table / f"part-{number:05d}.parquet")
    grade = EXACT if all(exact for _, exact in records) else RECORDED
    extra = {
        "num_codes": model.vocabulary.num_codes,
        "tokens_per_s": model.tokens_per_s,
        "text_to_token": read_manifest(folder).content_hash,
    }
    seal(table, contract=Interleaved.__name__, grade=grade, extra=extra)

    heard = hear(paths, config, inputs, tracker)
    metrics = _metrics(counts, dropped, model.tokens_per_s)
    if not ready:
        metrics["tokens_per_s"] = counts["generated_tokens"] / elapsed
    shards = [_shard_stats(record) | errors for (record, _), errors in zip(records, heard.shards, strict=True)]
    outputs.write_stats(shards=shards, rows=_row_stats(paths))
    show(paths, tracker)
    return metrics | heard.figures


def _count_ready(work: Path) -> int:
    """Shards that an earlier run left; the rate of this run would count them."""
    return len(list((work / "shards").glob("*"))) if (work / "shards").is_dir() else 0


def _metrics(counts: Counter[str], dropped: Counter[str], tokens_per_s: float) -> dict[str, float]:
    metrics = {
        "num_documents": float(counts["documents"] - counts["dropped_no_speech"]),
        "num_spans": float(counts["spans"]),
        "speech_tokens": float(counts["speech_tokens"]),
        "hours": counts["speech_tokens"] / tokens_per_s / 3600,
        "said_again": float(counts["said_again"]),
        "dropped_no_speech": float(counts["dropped_no_speech"]),
        "dropped_span_share": failed_share(counts),
        **_rates(counts),
    }
    for reason in DROPPED_SPANS:
        metrics[f"dropped_span_{reason}"] = float(counts[f"dropped_{reason}"])
    for reason in ("no_words", "language", "unsayable", "beyond_target"):
        metrics[f"dropped_{reason}"] = float(dropped[reason])
    return metrics


def _rates(counts: Counter[str]) -> dict[str, float]:
    return {
        "coverage": counts["speech_words"] / max(1, counts["words"]),
        "tokens_per_word": counts["speech_tokens"] / max(1, counts["said_words"]),
    }


def _shard_stats(counts: Counter[str]) -> dict[str, float]:
    return {
        "documents": float(counts["documents"]),
        "speech_tokens": float(counts["speech_tokens"]),
        "dropped_span_share": failed_share(counts),
        "said_again_share": counts["said_again"] / max(1, counts["pieces"]),
        **_rates(counts),
    }


def _row_stats(paths: list[Path]) -> list[dict[str, float]]:
    """A sample of the documents, spread over all shards."""
    rows = []
    per_shard = -(-MAX_STATS_ROWS // len(paths))
    for path in paths:
        for row in from_table(pq.read_table(path), Interleaved)[:per_shard]:
            chars = sum(len(segment.text) for segment in row.segments)
            spans = [segment for segment in row.segments if segment.modality == "speech"]
            rows.append(
                {
                    "speech_share": sum(len(segment.text) for segment in spans) / chars,
                    "num_speech_spans": float(len(spans)),
                    "tokens_per_char": float(np.mean([len(s.tokens) / len(s.text) for s in spans])),
                }
            )
    return rows
