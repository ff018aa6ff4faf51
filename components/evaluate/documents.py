"""Interleaved documents to read whole and to hear: what synthesis wrote, its spans marked, some of them decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from components.evaluate.config import EvaluateConfig
from components.evaluate.samples import SampleBook
from components.evaluate.selection import choose, choose_each
from components.shared.contracts import Interleaved, Segment, from_table
from components.shared.manifest import shard_paths
from components.shared.recognizer import count_errors

if TYPE_CHECKING:
    from components.speech_decoder.model import SpeechDecoder

SHELF = "interleaved"
"""Of the samples, apart from those of the decoder itself."""
MAX_SHARDS = 4
"""Shards of the table that are opened, evenly from all of them."""
MAX_ROWS = 500
"""Documents that are read of each."""
MAX_SPANS = 2
"""Spans of a document that are decoded and transcribed."""
Transcribe = Callable[[list[torch.Tensor], list[str]], list[str]]
"""Codes (tokens,) int64 of utterances and their languages -> texts."""


def show(book: SampleBook, folder: Path, decoder: SpeechDecoder, transcribe: Transcribe, config: EvaluateConfig) -> int:
    """Put documents of the table in `folder` into the book, half as many as config.num_samples; returns how many.

    The spans that are heard are numbered in the document, in brackets; what the speech tokenizer makes of them stands
    below with its errors.
    """
    documents = choose_documents(folder, max(1, config.num_samples // 2), config.seed)
    heard = [heard_spans(document, config.seed) for document in documents]
    codes = [
        torch.tensor(document.segments[i].tokens) for document, own in zip(documents, heard, strict=True) for i in own
    ]
    languages = [document.language for document, own in zip(documents, heard, strict=True) for _ in own]
    said = iter(transcribe(codes, languages))
    for document, own in zip(documents, heard, strict=True):
        texts, sounds = {"document": marked(document.segments, own)}, {}
        for number, place in enumerate(own, 1):
            segment = document.segments[place]
            texts[f"span {number} heard"] = _with_errors(segment.text, next(said), document.language)
            sounds[f"span {number}"] = (decoder.decode(segment.tokens).numpy(), decoder.sample_rate_hz)
        spoken = [segment for segment in document.segments if segment.modality == "speech"]
        count = f"{len(spoken)} span{'s' * (len(spoken) > 1)}"
        title = f"{document.corpus}: {count}, {document.num_speech_tokens} speech tokens"
        book.add(title, document.language, texts, sounds, key=document.id, shelf=SHELF)
    return len(documents)


def choose_documents(folder: Path, num: int, seed: int) -> list[Interleaved]:
    """At most `num` documents, as evenly from the languages and corpora of some shards as there are documents."""
    paths = shard_paths(folder, Interleaved)
    places = sorted({int(place) for place in np.linspace(0, len(paths) - 1, MAX_SHARDS)}) if paths else []
    rows = [row for place in places for row in _first_rows(paths[place])]
    groups = sorted({(row.language, row.corpus) for row in rows})
    each = choose_each(
        rows,
        num,
        seed=seed,
        key=lambda row: row.id,
        group=lambda row: f"{groups.index((row.language, row.corpus)):05d}",
    )
    by_group = [[row for row in each if (row.language, row.corpus) == group] for group in groups]
    turns = [own[turn] for turn in range(num) for own in by_group if turn < len(own)]
    return turns[:num]


def _first_rows(path: Path) -> list[Interleaved]:
    """At most MAX_ROWS documents of a shard, which may hold any number."""
    with pq.ParquetFile(path) as file:
        batch = next(file.iter_batches(batch_size=MAX_ROWS), None)
    return [] if batch is None else from_table(pa.Table.from_batches([batch]), Interleaved)


def heard_spans(document: Interleaved, seed: int) -> list[int]:
    """Places of the document's segments that are decoded: at most MAX_SPANS spans, in the order of the text."""
    spans = [place for place, segment in enumerate(document.segments) if segment.modality == "speech"]
    return sorted(choose(spans, MAX_SPANS, seed=seed, key=lambda place: f"{document.id}/{place}"))


def marked(segments: Sequence[Segment], heard: Sequence[int]) -> str:
    """The whole document: text as it stands, a span as ⟦its text, number of tokens⟧, those in `heard` numbered."""
    shown = ""
    for place, segment in enumerate(segments):
        if segment.modality == "text":
            shown += segment.text
            continue
        words = segment.text.strip()
        space = segment.text[: len(segment.text) - len(segment.text.lstrip())]
        number = f"{heard.index(place) + 1}: " if place in heard else ""
        shown += f"{space}⟦{number}{words}, {len(segment.tokens)} tokens⟧"
    return shown


def _with_errors(wanted: str, heard: str, language: str) -> str:
    """What was heard, and how much of it is wrong."""
    errors = count_errors(wanted, heard, language)
    unit = "characters" if language == "zh" else "words"
    return f"{heard or '(nothing)'} ({errors.errors} errors in {errors.length} {unit})"
