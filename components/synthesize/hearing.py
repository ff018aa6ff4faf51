"""A sample of what was generated, as the speech tokenizer hears it and as a reader sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from components.shared.contracts import Interleaved, from_table
from components.shared.places import Inputs
from components.shared.recognizer import word_error_rate
from components.shared.tracking import Tracker
from components.synthesize.shard import Record

NUM_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Heard:
    """Error rates of the sampled spans."""

    shards: list[dict[str, float]]
    """wer (words and characters together) of every shard; empty where it has no span with words, which its gate counts
    as broken."""
    figures: dict[str, float]
    """wer_en and cer_zh over all shards, as far as the languages occur."""


def hear(records: list[Record], inputs: Inputs, tracker: Tracker) -> Heard:
    """Transcribe the sampled spans of every shard and compare them with their texts."""
    sample = [(number, sample) for number, record in enumerate(records) for sample in record.samples]
    if not sample:
        return Heard(shards=[{} for _ in records], figures={})
    from components.speech_tokenizer.model import load

    ear = load(inputs.folder("speech_tokenizer", "model"))
    codes = [torch.tensor(span.tokens, dtype=torch.long) for _, span in sample]
    languages = [span.language for _, span in sample]
    texts = ear.transcribe(codes, languages)
    errors = [
        word_error_rate([span.text], [text], span.language) for (_, span), text in zip(sample, texts, strict=True)
    ]
    shards: list[dict[str, float]] = []
    for shard in range(len(records)):
        own = [error for error, (number, _) in zip(errors, sample, strict=True) if number == shard]
        length = sum(error.length for error in own)
        shards.append({"wer": sum(error.errors for error in own) / length} if length else {})
    figures = {}
    for language in sorted(set(languages)):
        own = [error for error, spoken in zip(errors, languages, strict=True) if spoken == language]
        name = f"cer_{language}" if language == "zh" else f"wer_{language}"
        figures[name] = sum(error.errors for error in own) / max(1, sum(error.length for error in own))
    lines = [f"asked {span.text.strip()}\nheard {text}\n" for (_, span), text in zip(sample, texts, strict=True)]
    tracker.log_text("\n".join(lines), "heard.txt")
    return Heard(shards=shards, figures=figures)


def show(path: Path, tracker: Tracker) -> None:
    """A few documents of a shard to read: speech spans in brackets with their number of tokens."""
    lines = []
    with pq.ParquetFile(path) as file:
        batch = next(file.iter_batches(batch_size=NUM_SHOWN), None)
    rows = [] if batch is None else from_table(pa.Table.from_batches([batch]), Interleaved)
    for row in rows:
        parts = [
            segment.text if segment.modality == "text" else f" [{segment.text.strip()} | {len(segment.tokens)}]"
            for segment in row.segments
        ]
        lines.append(f"{row.id}\n{''.join(parts)}\n")
    tracker.log_text("\n".join(lines), "interleaved.txt")
