"""One shard: read, encode, write; runs in the stage's process or in a worker."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow.parquet as pq
import torch
from torch import Tensor

from components.config import as_dict
from components.shared.contracts import Quarantined, SpeechTokens, Utterance, from_table, to_table
from components.shared.fingerprint import fingerprint
from components.shared.heap import return_memory
from components.shared.manifest import hash_of, read_manifest, shard_paths
from components.speech_tokenizer.model import SpeechTokenizer, load
from components.tokenize.config import Dtype, TokenizeConfig
from components.tokenize.waves import read_groups

LEFT_OUT = b"left_out"
"""Key of a shard's metadata that lists, as JSON, the rows of contracts.Quarantined that have no tokens."""
SPREADING = ("executor", "readers_per_worker")
"""Settings that do not change what is written."""

KERNELS_KEPT = "64"
"""Kernels that oneDNN keeps ready, one a shape, instead of 1024: few come back. The environment's own value holds."""


@dataclass(frozen=True)
class Piece:
    """Neighbouring rows of one Parquet file of the utterances table."""

    path: Path
    start: int
    stop: int


@dataclass(frozen=True)
class Shard:
    """The work of one call; its rows are named, not held, so that a plan of a large corpus stays small."""

    pieces: tuple[Piece, ...]
    folder: Path
    """Of the utterances table, absolute."""
    model: Path
    device: str
    dtype: Dtype
    threads: int
    readers: int


@dataclass(frozen=True)
class Planned:
    """A shard before it is made."""

    shard: Shard
    key: str
    """Hash of its rows, the content of their audio, the model, the settings that matter and the code."""
    duration_s: float


def plan(folder: Path, model: Path, device: str, config: TokenizeConfig) -> Iterator[Planned]:
    """The shards of a table in its order, so many utterances each, whatever its Parquet files hold.

    One Parquet file and the rows of one shard are in memory at a time, and the manifest, which has a line a recording.
    """
    folder, model = folder.resolve(), model.resolve()
    settings = {name: value for name, value in as_dict(config).items() if name not in SPREADING}
    common = [settings, read_manifest(model).content_hash, device, fingerprint("tokenize")]
    audio = {entry.path: entry.sha256 for entry in read_manifest(folder).files}

    def planned(rows: list[Utterance], pieces: list[Piece]) -> Planned:
        shard = Shard(
            tuple(pieces), folder, model, device, config.dtype, config.threads_per_worker, config.readers_per_worker
        )
        key = hash_of([[asdict(row) for row in rows], [audio.get(row.audio, "") for row in rows], common])
        return Planned(shard, key, sum(row.duration_s for row in rows))

    rows: list[Utterance] = []
    pieces: list[Piece] = []
    for path in shard_paths(folder, Utterance):
        table, start = pq.read_table(path), 0
        while start < table.num_rows:
            stop = min(start + config.utterances_per_shard - len(rows), table.num_rows)
            rows += from_table(table.slice(start, stop - start), Utterance)
            pieces.append(Piece(path, start, stop))
            start = stop
            if len(rows) == config.utterances_per_shard:
                yield planned(rows, pieces)
                rows, pieces = [], []
    if rows:
        yield planned(rows, pieces)


def make_shard(shard: Shard, path: Path) -> None:
    """Write the speech tokens of a shard's utterances as Parquet, in their order.

    Audio that cannot be read, is empty or not finite is left out; its reason stands in the file's metadata. Memory is
    that of two groups of recordings (waves.py) and of the shard's tokens. A recording is read and encoded whole:
    an hour of it takes 0.5 GB to read (at 24 kHz 1.1 GB) and as much again for its log-mel features.
    """
    tokenizer = _tokenizer(shard.model, shard.device, shard.dtype)
    made: list[SpeechTokens] = []
    left_out: list[Quarantined] = []
    with _threads(shard.threads):
        for group in read_groups(_rows(shard), shard.folder, shard.readers):
            rows = [row for row, wave in group if isinstance(wave, Tensor)]
            tokens = tokenizer.encode([wave for _, wave in group if isinstance(wave, Tensor)])
            made += [_speech_tokens(row, codes.tolist()) for row, codes in zip(rows, tokens, strict=True)]
            left_out += [found for _, found in group if isinstance(found, Quarantined)]
    said = json.dumps([asdict(row) for row in left_out]).encode()
    pq.write_table(to_table(made, SpeechTokens).replace_schema_metadata({LEFT_OUT: said}), path, compression="zstd")


def read_shard(path: Path) -> tuple[list[SpeechTokens], list[Quarantined]]:
    """The rows of a shard, and what was left out of it."""
    table = pq.read_table(path)
    return from_table(table, SpeechTokens), _left_out(table.schema.metadata)


def read_left_out(paths: list[Path]) -> Iterator[Quarantined]:
    """What was left out of shards, in the order of the utterances; reads no tokens."""
    for path in paths:
        yield from _left_out(pq.read_schema(path).metadata)


def num_rows(paths: list[Path]) -> int:
    """Utterances with tokens in all shards."""
    return sum(pq.read_metadata(path).num_rows for path in paths)


def _left_out(metadata: dict[bytes, bytes] | None) -> list[Quarantined]:
    return [Quarantined(**row) for row in json.loads((metadata or {}).get(LEFT_OUT, b"[]"))]


@lru_cache(maxsize=1)
def _tokenizer(model: Path, device: str, dtype: Dtype) -> SpeechTokenizer:
    # Read when oneDNN is first called.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KERNELS_KEPT)
    return_memory()
    return load(model, device, dtype=getattr(torch, dtype.value), encoder_only=True)


def _rows(shard: Shard) -> list[Utterance]:
    tables = (pq.read_table(piece.path).slice(piece.start, piece.stop - piece.start) for piece in shard.pieces)
    return [row for table in tables for row in from_table(table, Utterance)]


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
