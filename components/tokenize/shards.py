"""One shard: read, encode, write; runs in the stage's process or in a worker."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow.parquet as pq
import torch

from components.shared.audio import WHISPER_RATE_HZ, read_wave
from components.shared.contracts import SpeechTokens, Utterance, from_table, to_table
from components.shared.manifest import inside
from components.speech_tokenizer.model import SpeechTokenizer, load
from components.tokenize.config import Dtype

READ_AT_ONCE = 64
"""Utterances whose waves are in memory together."""
DROPPED = b"dropped"
"""Key of the shard's metadata that lists what was left out: [[id, reason, message], ...]."""


@dataclass(frozen=True)
class Shard:
    """The work of one call: everything that a worker needs."""

    rows: list[Utterance]
    folder: Path
    """Of the utterances table."""
    model: Path
    device: str
    dtype: Dtype
    threads: int


@lru_cache(maxsize=1)
def _tokenizer(model: Path, device: str, dtype: Dtype) -> SpeechTokenizer:
    return load(model, device, dtype=getattr(torch, dtype.value), encoder_only=True)


def make_shard(shard: Shard, path: Path) -> None:
    """Write the speech tokens of a shard's utterances as Parquet, in their order.

    Audio that cannot be read, is empty or not finite is left out; its reason stands in the file's metadata.
    """
    tokenizer = _tokenizer(shard.model, shard.device, shard.dtype)
    made: list[SpeechTokens] = []
    dropped: list[tuple[str, str, str]] = []
    with _threads(shard.threads):
        for start in range(0, len(shard.rows), READ_AT_ONCE):
            rows, waves = [], []
            for row in shard.rows[start : start + READ_AT_ONCE]:
                try:
                    wave, _ = read_wave(inside(shard.folder, row.audio), WHISPER_RATE_HZ)
                except ValueError as error:
                    dropped.append((row.id, "unreadable_audio", str(error)))
                    continue
                rows.append(row)
                waves.append(torch.from_numpy(wave))
            for row, tokens in zip(rows, tokenizer.encode(waves), strict=True):
                made.append(_speech_tokens(row, tokens.tolist()))
    table = to_table(made, SpeechTokens).replace_schema_metadata({DROPPED: json.dumps(dropped).encode()})
    pq.write_table(table, path, compression="zstd")


def read_shard(path: Path) -> tuple[list[SpeechTokens], list[tuple[str, str, str]]]:
    """The rows of a shard, and (id, reason, message) of what was left out of it."""
    table = pq.read_table(path)
    dropped = [tuple(entry) for entry in json.loads((table.schema.metadata or {}).get(DROPPED, b"[]"))]
    return from_table(table, SpeechTokens), dropped


def reasons(dropped: list[tuple[str, str, str]]) -> Counter[str]:
    """How many were left out for which reason."""
    return Counter(reason for _, reason, _ in dropped)


def _speech_tokens(row: Utterance, tokens: list[int]) -> SpeechTokens:
    return SpeechTokens(
        id=row.id,
        tokens=tokens,
        duration_s=row.duration_s,
        text=row.text,
        text_source=row.text_source,
        language=row.language,
        speaker=row.speaker,
        corpus=row.corpus,
        license=row.license,
        split=row.split,
        origin=row.origin,
    )


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """So many threads of torch inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
