"""What was made, in numbers: for the tracker, for metrics.json and for the gate."""

from __future__ import annotations

from collections import Counter

from components.synthesize.saying import DROPPED_SPANS
from components.synthesize.shard import Record, failed_share
from components.synthesize.survey import Chunk

MAX_STATS_ROWS = 5000
"""Documents that the gate looks at; also the most points of a curve."""
DROPPED_TEXTS = ("no_words", "language", "unsayable", "beyond_target")


def metrics_of(
    records: list[Record], chunks: list[Chunk], dropped: Counter[str], tokens_per_s: float
) -> dict[str, float]:
    """Figures over all shards, one record a chunk; dropped: texts; tokens_per_s: of speech."""
    counts = sum((record.counts for record in records), Counter())
    metrics = {
        "num_documents": float(counts["documents"] - counts["dropped_no_speech"]),
        "num_spans": float(counts["spans"]),
        "speech_tokens": float(counts["speech_tokens"]),
        "tokens": counts["speech_tokens"] + sum(chunk.text_tokens for chunk in chunks),
        "hours": counts["speech_tokens"] / tokens_per_s / 3600,
        "said_again": float(counts["said_again"]),
        "dropped_no_speech": float(counts["dropped_no_speech"]),
        "dropped_span_share": failed_share(counts),
        **_rates(counts),
    }
    for language in sorted({chunk.language for chunk in chunks}):
        own = [record for record, chunk in zip(records, chunks, strict=True) if chunk.language == language]
        metrics[f"speech_tokens_{language}"] = float(sum(record.counts["speech_tokens"] for record in own))
    metrics |= {name: float(count) for name, count in counts.items() if name.startswith("engine_")}
    for reason in DROPPED_SPANS:
        metrics[f"dropped_span_{reason}"] = float(counts[f"dropped_{reason}"])
    for reason in DROPPED_TEXTS:
        metrics[f"dropped_{reason}"] = float(dropped[reason])
    return metrics


def stats_of(
    records: list[Record], heard: list[dict[str, float]]
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """(one record a shard with what was heard of it, one record for each of some documents of all shards)."""
    shards = [_shard_stats(record.counts) | errors for record, errors in zip(records, heard, strict=True)]
    per_shard = -(-MAX_STATS_ROWS // len(records))
    return shards, [row for record in records for row in record.rows[:per_shard]]


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
