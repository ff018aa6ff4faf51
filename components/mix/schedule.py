"""The schedule: which documents stand in which sequence, a pure function of (seed, document lengths, budgets).

Every source is a stream of documents, one permutation an epoch. The streams run side by side in proportion to their
budgets: window k takes from each the documents up to the fraction (k+1)/K of its budget. A window is shuffled, packed
by best fit and its sequences shuffled again, so that memory holds one window and every stretch of the run has the mix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.mix.permutation import permute
from components.shared.packed_data import PIECE
from components.shared.packing import best_fit

_BLOCK = 1 << 16


@dataclass
class SourceStream:
    """The documents of one source in the order in which pre-training sees them."""

    source: int
    """Number of the source."""
    lengths: np.ndarray
    """(documents,), uint32: tokens of each document, all shards in a row."""
    shard: np.ndarray
    """(documents,), which shard each document is in."""
    document: np.ndarray
    """(documents,), its number in that shard."""
    budget: int
    """Tokens that the stream gives in all."""
    seed: int
    sequence_length: int
    given: int = 0
    """Tokens given so far."""
    place: int = 0
    """Documents given so far, over all epochs."""

    def take(self, until: int) -> np.ndarray:
        """The next documents, while fewer than `until` tokens were given: (pieces,), records of PIECE.

        Documents longer than a sequence come as pieces of the sequence's length.
        """
        taken = []
        while self.given < until:
            size = len(self.lengths)
            epoch, first = divmod(self.place, size)
            index = np.arange(first, min(size, first + _BLOCK))
            key = int(np.random.SeedSequence([self.seed, self.source, epoch]).generate_state(1, np.uint64)[0])
            numbers = permute(index, size, key)
            before = self.given + np.concatenate([[0], np.cumsum(self.lengths[numbers], dtype=np.int64)])
            count = int(np.searchsorted(before[:-1], until))
            taken.append(numbers[:count])
            self.given, self.place = int(before[count]), self.place + count
        return self._records(np.concatenate(taken) if taken else np.empty(0, np.int64))

    def _records(self, numbers: np.ndarray) -> np.ndarray:
        lengths = self.lengths[numbers].astype(np.int64)
        parts = -(-lengths // self.sequence_length)
        which = np.repeat(np.arange(len(numbers)), parts)
        part = np.arange(len(which)) - np.repeat(np.cumsum(parts) - parts, parts)
        records = np.zeros(len(which), PIECE)
        records["source"], records["shard"] = self.source, self.shard[numbers][which]
        records["document"] = self.document[numbers][which]
        records["start"] = part * self.sequence_length
        records["length"] = np.minimum(lengths[which] - part * self.sequence_length, self.sequence_length)
        return records


def sequences(
    streams: list[SourceStream], sequence_length: int, window_sequences: int, seed: int
) -> Iterator[np.ndarray]:
    """Every sequence in order: (pieces,), records of PIECE, of at most sequence_length tokens together."""
    total = sum(stream.budget for stream in streams)
    num_windows = max(1, round(total / (window_sequences * sequence_length)))
    for window in range(num_windows):
        rng = np.random.default_rng([seed, window])
        taken = [stream.take(stream.budget * (window + 1) // num_windows) for stream in streams]
        records = rng.permutation(np.concatenate(taken))
        bins = best_fit(records["length"], sequence_length)
        for number in rng.permutation(len(bins)):
            yield records[bins[number]]


def write(folder: Path, split: str, schedule: Iterator[np.ndarray]) -> int:
    """Write a schedule as <split>.pieces and <split>.sequences; returns the number of sequences."""
    ends = [0]
    with (folder / f"{split}.pieces").open("wb") as stream:
        for records in schedule:
            stream.write(records.tobytes())
            ends.append(ends[-1] + len(records))
    (folder / f"{split}.sequences").write_bytes(np.array(ends, dtype="<u8").tobytes())
    return len(ends) - 1
