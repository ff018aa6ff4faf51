"""Rows of the tables as token documents, one folder of tokens for one Parquet shard of one source."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.shared.contracts import Interleaved, SpeechTokens, Text, from_table
from components.shared.formats import Formats
from components.shared.packed_data import write_documents
from components.shared.tokens import Vocabulary, load_tokenizer

SOURCES = ("text", "speech", "asr", "tts", "interleaved")
ROW_TYPES: dict[str, type] = {
    "text": Text,
    "speech": SpeechTokens,
    "asr": SpeechTokens,
    "tts": SpeechTokens,
    "interleaved": Interleaved,
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One token shard to make."""

    source: str
    parquet: Path
    tokenizer: Path
    num_codes: int
    seed: int
    held_out_share: float
    spoken_share: float


def make_shard(job: Job, folder: Path) -> None:
    """Write the documents of a job: those for training first, then those for validation (see write_documents).

    Beside the tokens stands counts.parquet: num_train, num_validation and the rows dropped, each reason a column.
    """
    tokenizer = load_tokenizer(job.tokenizer)
    formats = Formats(tokenizer, Vocabulary.of(tokenizer, job.num_codes))
    kept: dict[str, list[tuple[str, list[int]]]] = {"train": [], "validation": []}
    dropped = {"dropped_test": 0, "dropped_empty": 0}
    rows: list[Any] = from_table(pq.read_table(job.parquet), ROW_TYPES[job.source])
    for row in rows:
        if not belongs(row, job.source):
            continue
        split = split_of(row.id, row.split, job.seed, job.held_out_share)
        if split not in kept:
            dropped["dropped_test"] += 1
        elif document := _document(row, job, formats):
            kept[split].append((row.id, document))
        else:
            dropped["dropped_empty"] += 1
    both = [*kept["train"], *kept["validation"]]
    write_documents(folder, [document for _, document in both], [name for name, _ in both])
    counts = {"num_train": len(kept["train"]), "num_validation": len(kept["validation"]), **dropped}
    pq.write_table(pa.table({name: [count] for name, count in counts.items()}), folder / "counts.parquet")


def read_counts(folder: Path) -> dict[str, int]:
    """The counts of a finished shard."""
    return pq.read_table(folder / "counts.parquet").to_pylist()[0]


def belongs(row: Any, source: str) -> bool:
    """Whether a row is one of the source's: rows without text are unsupervised speech, the rest are pairs."""
    if source == "speech":
        return row.text is None or row.text_source == "none"
    if source in ("asr", "tts"):
        return row.text is not None and row.text_source != "none"
    return True


def split_of(row_id: str, split: str, seed: int, held_out_share: float) -> str:
    """The split of a row: its own, but a share of the training rows, picked by id, is held out for validation."""
    if split == "train" and uniform(f"held out {seed} {row_id}") < held_out_share:
        return "validation"
    return split


def uniform(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) / 2**64


def _document(row: Any, job: Job, formats: Formats) -> list[int]:
    """The row's token ids, or an empty list when it has nothing to show."""
    make: dict[str, Callable[[], list[int]]] = {
        "text": lambda: formats.text_document(row.text) if row.text.strip() else [],
        "speech": lambda: formats.speech_document(row.tokens) if row.tokens else [],
        "asr": lambda: formats.asr_document(row.tokens, row.text, row.language) if row.tokens else [],
        "tts": lambda: formats.tts_document(row.tokens, row.text, row.language) if row.tokens else [],
        "interleaved": lambda: _interleaved(row, job, formats),
    }
    return make[job.source]()


def _interleaved(row: Interleaved, job: Job, formats: Formats) -> list[int]:
    if uniform(f"spoken {job.seed} {row.id}") < job.spoken_share:
        return formats.interleaved_document(row.segments) if row.segments else []
    return formats.text_document("".join(segment.text for segment in row.segments))


def document_lengths(folder: Path) -> np.ndarray:
    """Tokens of each document of a finished shard: (documents,), uint32."""
    offsets = np.fromfile(folder / "tokens.offsets", dtype="<u8")
    return np.diff(offsets).astype(np.uint32)
