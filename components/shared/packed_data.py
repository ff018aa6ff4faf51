"""Token shards and the index over them: which tokens sequence n holds, read at random, never in order.

A folder holds, for every source, shards <source>-00000.bin (uint32 token ids) with <source>-00000.offsets (uint64, one
more than documents) and <source>-00000.ids.parquet (what the documents were called); and, for every split, the schedule
<split>.pieces (records of PIECE) with <split>.sequences (uint64, one more than sequences). All are memory-mapped. The
shards may lie in an object store instead (external.py); the schedule is always in the folder.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.shared.manifest import Entry, read_manifest
from components.shared.packing import FIELDS, LabelRule, lay_out
from components.shared.shard_cache import ShardCache
from components.shared.shard_maps import ShardMaps, mapped

PIECE = np.dtype([("source", "<u2"), ("shard", "<u2"), ("document", "<u4"), ("start", "<u4"), ("length", "<u4")])
"""A stretch of one document: tokens start .. start + length of a document of a shard of a source."""
_IDS_A_GROUP = 1 << 16
"""Document ids that are read to find one."""
_LAZY = ("_maps", "_pieces", "_sequences")
"""What every process opens for itself."""


def write_ids(path: Path, ids: Sequence[str]) -> None:
    """What the documents of a shard are called, in groups small enough to look one up."""
    pq.write_table(pa.table({"id": pa.array(ids, pa.string())}), path, row_group_size=_IDS_A_GROUP)


class PackedData:
    """Random access to the packed sequences of one split. May be sent to another process, which opens its own maps."""

    def __init__(self, folder: Path, split: str, cache: ShardCache | None = None) -> None:
        """folder: written by `mix`; split: train or validation; cache: for shards that lie in a store.

        Raises ValueError when a file is missing or cut; shard_check.py looks at the hashes.
        """
        manifest = read_manifest(folder)
        self.entries = {entry.path: entry for entry in manifest.files}
        for entry in manifest.files:
            if not entry.uri:
                check_size(folder, entry)
            elif cache is None:
                raise ValueError(f"{folder}: {entry.path} lies at {entry.uri}; wanted a cache to read it through")
        self.folder = folder
        self.split = split
        self.cache = cache if any(entry.uri for entry in manifest.files) else None
        self.sources: list[str] = manifest.extra["sources"]
        self.sequence_length: int = manifest.extra["sequence_length"]
        self.pad_id: int = manifest.extra["pad_id"]
        self.vocabulary_size: int = manifest.extra["vocabulary_size"]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _LAZY}

    @cached_property
    def _maps(self) -> ShardMaps:
        return ShardMaps(self.cache.share_bytes if self.cache else 0)

    @cached_property
    def _pieces(self) -> np.ndarray:
        return mapped(self._open(f"{self.split}.pieces"), PIECE, mmap.MADV_NORMAL)[0]

    @cached_property
    def _sequences(self) -> np.ndarray:
        return mapped(self._open(f"{self.split}.sequences"), np.dtype("<u8"), mmap.MADV_NORMAL)[0]

    def _open(self, name: str) -> BinaryIO:
        entry = self.entries.get(name)
        if entry is None:
            raise ValueError(f"{self.folder}: the schedule names {name}, the manifest does not; make it again with mix")
        if entry.uri and self.cache:
            return self.cache.open(entry)
        return (self.folder / name).open("rb")

    def _shard_name(self, source: int, shard: int) -> str:
        return f"{self.sources[source]}-{shard:05d}"

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self._sequences) - 1

    def pieces(self, number: int) -> np.ndarray:
        """The schedule of sequence `number`: (pieces,), records of PIECE; none past the end."""
        if number >= len(self):
            return self._pieces[:0]
        return self._pieces[self._sequences.item(number) : self._sequences.item(number + 1)]

    def tokens(self, record: np.void) -> np.ndarray:
        """The token ids of one record of the schedule: (length,), uint32."""
        source, shard, document, start, length = record.item()
        found = self._maps.get(self._shard_name(source, shard), self._open)
        first, stop = found.place(document, start, length)
        return found.tokens[first:stop]

    def batch(self, numbers: Sequence[int], attend_across: bool, rule: LabelRule | None = None) -> np.ndarray:
        """Sequences packed for training (see packing.pack): (FIELDS, sequences, T), int64; padding past the end.

        rule: which tokens are labels; None: every one. Raises ValueError when a token is outside the vocabulary or a
        sequence too long, ConnectionError when a store cannot be reached.
        """
        out = np.empty((len(FIELDS), len(numbers), self.sequence_length), np.int64)
        chosen = [self.pieces(number) for number in numbers]
        places: list[Iterable[tuple[np.ndarray, int, int]]] = [self._places(records) for records in chosen]
        if self.cache is None:  # whose files must not be held longer than needed
            places = [list(found) for found in places]  # all pages are asked for before the first is read
        for column, (number, records) in enumerate(zip(numbers, chosen, strict=True)):
            row, at = out[:, column], 0
            for tokens, first, stop in places[column]:
                end = at + stop - first
                if end > self.sequence_length or stop > len(tokens):
                    raise ValueError(self._unfit(number, records))
                row[0, at:end] = tokens[first:stop]
                at = end
            if at and int(row[0, :at].max()) >= self.vocabulary_size:
                raise ValueError(self._outside(records))
            lay_out(row, records["length"].astype(np.int64), records["source"], self.pad_id, attend_across)
            if rule is not None:
                rule.apply(row[1], row[4])
        return out

    def _places(self, records: np.ndarray) -> Iterator[tuple[np.ndarray, int, int]]:
        for source, shard, document, start, length in records.tolist():
            held = self._maps.get(self._shard_name(source, shard), self._open)
            yield held.tokens, *held.place(document, start, length)

    def _unfit(self, number: int, records: np.ndarray) -> str:
        total, folder = int(records["length"].sum()), self.folder
        return (
            f"{folder}: {self.split} sequence {number}: {len(records)} pieces of {total} tokens together do not fit "
            f"into {self.sequence_length} or into their documents; make it again with mix"
        )

    def _outside(self, records: np.ndarray) -> str:
        for record in records:
            tokens = self.tokens(record)
            if int(tokens.max()) >= self.vocabulary_size:
                break
        place = int(tokens.argmax())
        return (
            f"{self.folder}: source {self.sources[record['source']]}, document {self.document_id(record)!r}: token id "
            f"{int(tokens[place])} at {int(record['start']) + place}, wanted 0..{self.vocabulary_size - 1}"
        )

    def files(self, numbers: Iterable[int]) -> list[Entry]:
        """The shard files that sequences need, in the order of their first use."""
        names: dict[str, None] = {}
        for number in numbers:
            records = self.pieces(number)
            for source, shard in zip(records["source"].tolist(), records["shard"].tolist(), strict=True):
                names[self._shard_name(source, shard)] = None
        return [self.entries[f"{name}.{ending}"] for name in names for ending in ("bin", "offsets")]

    def document_id(self, record: np.void) -> str:
        """What the document of a record was called in its table."""
        source, shard, document, _, _ = record.item()
        return self._ids(source, shard, {document})[document]

    def describe(self, numbers: Iterable[int]) -> list[dict[str, Any]]:
        """What sequences hold: number and pieces (source, document: its id, start, length: tokens) of each."""
        schedule = {number: self.pieces(number).tolist() for number in numbers}
        wanted: dict[tuple[int, int], set[int]] = {}
        for records in schedule.values():
            for source, shard, document, _, _ in records:
                wanted.setdefault((source, shard), set()).add(document)
        ids = {key: self._ids(*key, documents) for key, documents in wanted.items()}
        return [
            {
                "number": number,
                "pieces": [
                    {
                        "source": self.sources[source],
                        "document": ids[source, shard][document],
                        "start": start,
                        "length": length,
                    }
                    for source, shard, document, start, length in records
                ],
            }
            for number, records in schedule.items()
        ]

    def _ids(self, source: int, shard: int, documents: set[int]) -> dict[int, str]:
        """Document numbers of a shard -> what they were called; reads the groups of ids that hold them alone."""
        found: dict[int, str] = {}
        with self._open(f"{self._shard_name(source, shard)}.ids.parquet") as stream:
            file = pq.ParquetFile(stream)
            first = 0
            for group in range(file.num_row_groups):
                stop = first + file.metadata.row_group(group).num_rows
                if inside := [document for document in documents if first <= document < stop]:
                    column = file.read_row_group(group)["id"]
                    found |= {document: column[document - first].as_py() for document in inside}
                first = stop
        return found


def check_size(folder: Path, entry: Entry) -> None:
    """Raise ValueError when a file of a folder is missing or of another size than planned."""
    path = folder / entry.path
    got = path.stat().st_size if path.is_file() else -1
    if got != entry.size:
        what = "missing" if got < 0 else f"got {got} bytes"
        raise ValueError(f"{path}: {what}, wanted {entry.size} bytes as planned; make it again with mix")
