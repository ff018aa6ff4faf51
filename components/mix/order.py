"""In which order pre-training sees the documents of a source: one permutation an epoch, whole or group by group."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from components.mix.documents import document_lengths
from components.mix.permutation import permute
from components.shared.packed_data import PIECE

_BLOCK = 1 << 16
"""Documents that are put in order at a time."""
_OF_SHARDS = 1
"""Sets the key of an epoch's order of shards apart from those of its documents."""
MAX_SHARDS = int(np.iinfo(PIECE["shard"]).max) + 1


@dataclass(frozen=True)
class Documents:
    """The documents of one split of a source, shard after shard; arrays are (shards,), int64."""

    folders: list[Path]
    """The finished shards."""
    first: np.ndarray
    """Number in its shard of each shard's first document of the split."""
    count: np.ndarray
    """Documents of the split in each shard."""
    num_tokens: int
    """Tokens of one epoch."""

    def lengths(self, shard: int) -> np.ndarray:
        """Tokens of each document of the split in a shard: (documents,), uint32, read from disk."""
        first = int(self.first[shard])
        return document_lengths(self.folders[shard], first, first + int(self.count[shard]))


@dataclass
class SourceStream:
    """The documents of one source in the order in which pre-training sees them.

    With shuffle_shards 0 an epoch is one permutation of all documents. Else the shards are permuted, dealt into groups
    of about that many, and the documents of each group are permuted: a stretch of the run reads the shards of a group
    or two. Lengths are held for one group at a time, four bytes a document.
    """

    source: int
    """Number of the source."""
    documents: Documents
    budget: int
    """Tokens that the stream gives in all."""
    seed: int
    sequence_length: int
    shuffle_shards: int
    given: int = 0
    """Tokens given so far."""
    _blocks: Iterator[np.ndarray] | None = field(default=None, repr=False)
    _waiting: np.ndarray | None = field(default=None, repr=False)
    """Whole documents that are next in order, as records of PIECE."""

    def take(self, until: int) -> np.ndarray:
        """The next documents, while fewer than `until` tokens were given: (pieces,), records of PIECE.

        Documents longer than a sequence come as pieces of the sequence's length. With `until` a multiple of an epoch's
        tokens, every document has been given equally often.
        """
        taken = [np.empty(0, PIECE)]
        while self.given < until:
            if self._waiting is None or not len(self._waiting):
                self._blocks = self._blocks or self._order()
                self._waiting = next(self._blocks)
                continue
            before = self.given + np.concatenate([[0], np.cumsum(self._waiting["length"], dtype=np.int64)])
            count = int(np.searchsorted(before[:-1], until))
            taken.append(self._waiting[:count])
            self.given, self._waiting = int(before[count]), self._waiting[count:]
        return self._cut(np.concatenate(taken))

    def _order(self) -> Iterator[np.ndarray]:
        """Every document, epoch after epoch, in blocks of whole documents."""
        num_shards = len(self.documents.count)
        for epoch in itertools.count():
            places = permute(np.arange(num_shards), num_shards, self._key(epoch, 0, _OF_SHARDS))
            num_groups = -(-num_shards // self.shuffle_shards) if self.shuffle_shards else 1
            for number, group in enumerate(np.array_split(places, num_groups)):
                yield from self._group(np.sort(group), self._key(epoch, number))

    def _group(self, shards: np.ndarray, key: int) -> Iterator[np.ndarray]:
        lengths = np.concatenate([self.documents.lengths(int(shard)) for shard in shards])
        ends = np.cumsum(self.documents.count[shards])
        size = len(lengths)
        for first in range(0, size, _BLOCK):
            numbers = permute(np.arange(first, min(size, first + _BLOCK)), size, key)
            place = np.searchsorted(ends, numbers, side="right")
            shard = shards[place]
            records = np.zeros(len(numbers), PIECE)
            records["source"], records["shard"] = self.source, shard
            records["document"] = numbers - (ends - self.documents.count[shards])[place] + self.documents.first[shard]
            records["length"] = lengths[numbers]
            yield records

    def _key(self, epoch: int, *words: int) -> int:
        sequence = np.random.SeedSequence([self.seed, self.source, epoch, *words])
        return int(sequence.generate_state(1, np.uint64)[0])

    def _cut(self, whole: np.ndarray) -> np.ndarray:
        """Documents as pieces of at most sequence_length tokens."""
        lengths = whole["length"].astype(np.int64)
        parts = -(-lengths // self.sequence_length)
        records = np.repeat(whole, parts)
        start = (np.arange(len(records)) - np.repeat(np.cumsum(parts) - parts, parts)) * self.sequence_length
        records["start"] = start
        records["length"] = np.minimum(np.repeat(lengths, parts) - start, self.sequence_length)
        return records
