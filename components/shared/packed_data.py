"""Token shards and the index over them: which tokens sequence n holds, read at random, never in order.

A folder holds, for every source, shards <source>-00000.bin (uint32 token ids) with <source>-00000.offsets (uint64, one
more than documents) and <source>-00000.ids.parquet (what the documents were called); and, for every split, the schedule
<split>.pieces (records of PIECE) with <split>.sequences (uint64, one more than sequences). All are memory-mapped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.shared.manifest import read_manifest
from components.shared.packing import Piece, collate, pack

PIECE = np.dtype([("source", "<u2"), ("shard", "<u2"), ("document", "<u4"), ("start", "<u4"), ("length", "<u4")])
"""A stretch of one document: tokens start .. start + length of a document of a shard of a source."""
_BLOCK = 1 << 20
"""Pieces that are counted at a time."""


def write_documents(folder: Path, documents: list[list[int]], ids: list[str]) -> None:
    """One shard as a folder of its own: tokens.bin, tokens.offsets, ids.parquet."""
    folder.mkdir(parents=True)
    lengths = np.array([len(document) for document in documents], dtype=np.uint64)
    offsets = np.concatenate([np.zeros(1, np.uint64), np.cumsum(lengths, dtype=np.uint64)])
    flat = [token for document in documents for token in document]
    (folder / "tokens.bin").write_bytes(np.array(flat, dtype="<u4").tobytes())
    (folder / "tokens.offsets").write_bytes(offsets.astype("<u8").tobytes())
    pq.write_table(pa.table({"id": pa.array(ids, pa.string())}), folder / "ids.parquet")


class PackedData:
    """Random access to the packed sequences of one split."""

    def __init__(self, folder: Path, split: str) -> None:
        """folder: written by `mix`; split: train or validation. Raises ValueError when a file is missing or cut."""
        manifest = read_manifest(folder)
        for entry in manifest.files:
            path = folder / entry.path
            if not path.is_file() or path.stat().st_size != entry.size:
                raise ValueError(f"{path}: missing or not of {entry.size} bytes as planned; make it again with mix")
        self.folder = folder
        self.sources: list[str] = manifest.extra["sources"]
        self.sequence_length: int = manifest.extra["sequence_length"]
        self.pad_id: int = manifest.extra["pad_id"]
        self.vocabulary_size: int = manifest.extra["vocabulary_size"]
        self._pieces = _map(folder / f"{split}.pieces", PIECE)
        self._sequences = _map(folder / f"{split}.sequences", np.dtype("<u8"))
        counts = manifest.extra["shards"]
        self._tokens = {
            (number, shard): (
                _map(base.with_suffix(".bin"), np.dtype("<u4")),
                _map(base.with_suffix(".offsets"), "<u8"),
            )
            for number, source in enumerate(self.sources)
            for shard in range(counts[source])
            for base in [folder / f"{source}-{shard:05d}"]
        }

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self._sequences) - 1

    def pieces(self, number: int) -> np.ndarray:
        """The schedule of sequence `number`: (pieces,), records of PIECE; none past the end."""
        if number >= len(self):
            return self._pieces[:0]
        return self._pieces[int(self._sequences[number]) : int(self._sequences[number + 1])]

    def tokens(self, record: np.void) -> np.ndarray:
        """The token ids of one record of the schedule: (length,), uint32."""
        tokens, offsets = self._tokens[int(record["source"]), int(record["shard"])]
        start = int(offsets[int(record["document"])]) + int(record["start"])
        return tokens[start : start + int(record["length"])]

    def count(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and pieces that the whole schedule holds of each source: (sources,) int64 each."""
        tokens, pieces = np.zeros((2, len(self.sources)), np.int64)
        for start in range(0, len(self._pieces), _BLOCK):
            block = self._pieces[start : start + _BLOCK]
            for number in range(len(self.sources)):
                lengths = block["length"][block["source"] == number]
                tokens[number] += int(lengths.sum(dtype=np.int64))
                pieces[number] += len(lengths)
        return tokens, pieces

    def document_id(self, record: np.void) -> str:
        """What the document of a record was called in its table."""
        source = self.sources[int(record["source"])]
        path = self.folder / f"{source}-{int(record['shard']):05d}.ids.parquet"
        return pq.read_table(path)["id"][int(record["document"])].as_py()

    def sequence(self, number: int, attend_across: bool) -> dict[str, np.ndarray]:
        """Sequence `number` packed for training (see packing.pack); all padding when it is past the end."""
        pieces = [Piece(self.tokens(record), int(record["source"])) for record in self.pieces(number)]
        return pack(pieces, self.sequence_length, self.pad_id, attend_across)


def _map(path: Path, dtype: np.dtype | str) -> np.ndarray:
    if path.stat().st_size == 0:
        return np.empty(0, dtype)  # an empty file cannot be mapped
    return np.memmap(path, dtype=dtype, mode="r")


@dataclass
class PackedLoader:
    """Batches of a split in the order of the schedule; the whole state is the number of the next batch.

    Rank r of R reads the r-th part of every global batch, so the order of the data is the same on any number of ranks.
    """

    data: PackedData
    batch_size: int
    """Sequences of a global batch."""
    num_batches: int
    attend_across: bool
    rank: int = 0
    world_size: int = 1
    position: int = 0

    def __post_init__(self) -> None:
        if self.batch_size % self.world_size:
            raise ValueError(f"batch: {self.batch_size} sequences do not divide by {self.world_size} ranks")

    def __len__(self) -> int:
        """Batches of the whole run, also after a resume."""
        return self.num_batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The batches that are left; all of them when none is: a trainer stops at the last without asking for more."""
        if self.position >= self.num_batches:
            self.position = 0
        share = self.batch_size // self.world_size
        while self.position < self.num_batches:
            first = self.position * self.batch_size + self.rank * share
            batch = collate([self.data.sequence(number, self.attend_across) for number in range(first, first + share)])
            self.position += 1
            yield {**batch, "number": self.position - 1}

    def state_dict(self) -> dict[str, int]:
        """The number of the next batch."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state."""
        self.position = state["position"]
