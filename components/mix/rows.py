"""Rows of the tables as parts of documents, read in batches of Arrow, so that no shard stands in memory whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.mix.config import FILLER
from components.shared.contracts import Interleaved, SpeechTokens, Text, from_table
from components.shared.formats import Part, asr_parts, tts_parts

BATCH_ROWS = 256
"""Rows that are decoded together."""
ROW_TYPES: dict[str, type] = {
    "text": Text,
    "speech": SpeechTokens,
    "asr": SpeechTokens,
    "tts": SpeechTokens,
    "interleaved": Interleaved,
    FILLER: Text,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row that a source takes from its table."""

    id: str
    split: str
    corpus: str
    parts: list[Part]
    """What its document shows; none when the row has nothing to show."""


def read_rows(path: Path, source: str, is_spoken: Callable[[str, str], bool], corpora: list[str]) -> Iterator[Row]:
    """The rows of a Parquet shard that belong to a source, in order.

    is_spoken: (id, split) -> whether an interleaved document keeps its speech; corpora: those of the filler.
    Raises ValueError when the shard does not fit its contract, or a pair is in a language without words for it.
    """
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        from_table(file.schema_arrow.empty_table(), ROW_TYPES[source])  # the columns are the contract's
        for batch in file.iter_batches(BATCH_ROWS, columns=_COLUMNS[ROW_TYPES[source]], use_threads=False):
            if source == "interleaved":
                yield from _interleaved(batch, is_spoken)
            elif ROW_TYPES[source] is Text:
                for row in _texts(batch):
                    if source != FILLER or row.corpus in corpora:
                        yield row
            else:
                yield from _spoken(batch, source, path)


_COLUMNS = {
    Text: ["id", "text", "corpus", "split"],
    SpeechTokens: ["id", "tokens", "text", "text_source", "language", "corpus", "split"],
    Interleaved: ["id", "corpus", "segments", "split"],
}


def _texts(batch: pa.RecordBatch) -> Iterator[Row]:
    columns = [batch[name].to_pylist() for name in ("id", "split", "corpus", "text")]
    for row_id, split, corpus, text in zip(*columns, strict=True):
        yield Row(row_id, split, corpus, [text] if text.strip() else [])


def _spoken(batch: pa.RecordBatch, source: str, path: Path) -> Iterator[Row]:
    """Unsupervised speech are the rows without text; the rest are pairs."""
    names = ("id", "split", "corpus", "text", "text_source", "language")
    columns = [*(batch[name].to_pylist() for name in names), codes_of(batch["tokens"])]
    for row_id, split, corpus, text, text_source, language, codes in zip(*columns, strict=True):
        is_pair = text is not None and text_source != "none"
        if is_pair == (source == "speech"):
            continue
        parts: list[Part] = [codes]
        if source != "speech":
            try:
                parts = (asr_parts if source == "asr" else tts_parts)(codes, text, language)
            except ValueError as error:
                raise ValueError(f"{path}: {source} document {row_id!r}: {error}") from error
        yield Row(row_id, split, corpus, parts if len(codes) else [])


def _interleaved(batch: pa.RecordBatch, is_spoken: Callable[[str, str], bool]) -> Iterator[Row]:
    """Documents in text and speech; one that does not keep its speech is its text, whole."""
    segments = batch["segments"].flatten()
    modalities, texts = segments.field("modality").to_pylist(), segments.field("text").to_pylist()
    codes = codes_of(segments.field("tokens"))
    ends = _ends(batch["segments"])
    columns = [batch[name].to_pylist() for name in ("id", "split", "corpus")]
    for row_id, split, corpus, start, stop in zip(*columns, ends[:-1], ends[1:], strict=True):
        if not is_spoken(row_id, split):
            yield Row(row_id, split, corpus, ["".join(texts[start:stop])] if stop > start else [])
            continue
        yield Row(
            row_id, split, corpus, [codes[i] if modalities[i] == "speech" else texts[i] for i in range(start, stop)]
        )


def codes_of(lists: pa.ListArray) -> list[np.ndarray]:
    """Each list of an Arrow column as an array of its own: (codes,), uint16, no copies."""
    values = lists.flatten().to_numpy()
    return [values[start:stop] for start, stop in pairwise(_ends(lists))]


def _ends(lists: pa.ListArray) -> list[int]:
    """Where each list begins among the flattened values, and where the last one ends."""
    return [0, *np.cumsum(lists.value_lengths().to_numpy(), dtype=np.int64).tolist()]
