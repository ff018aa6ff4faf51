"""Shards of an object store that the schedule needs soon, fetched by a thread beside the training."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

from components.shared.packed_data import PackedData


class Prefetch:
    """Fetches what a rank's part of the batches ahead needs; does nothing where all shards are local.

    What cannot be fetched is left to the reader, who meets the same error and ends the run with it.
    """

    def __init__(self, data: PackedData, batch_size: int, rank: int, world_size: int, num_sequences: int) -> None:
        """batch_size, num_sequences: sequences of a batch and how many are looked ahead, over all ranks."""
        self._data = data
        self._batch_size, self._share = batch_size, batch_size // world_size
        self._ahead = -(-num_sequences // batch_size)
        self._ranks = range(rank, rank + 1)
        self._next = self._stop = 0
        self._wake = threading.Condition()
        self._ended = False
        self._thread: threading.Thread | None = None
        self.cache = data.cache

    def start(self, position: int) -> None:
        """Begin at a batch. Raises ValueError when the cache is too small for what lies ahead of this machine."""
        if self.cache is None:
            return
        machine = ranks_of_this_machine()
        batches = range(position, position + max(1, self._ahead))
        ahead = {
            entry.path: entry.size for number in batches for entry in self._data.files(self._part(number, machine))
        }
        largest = max(entry.size for entry in self._data.entries.values() if entry.uri)
        self.cache.check(largest, sum(ahead.values()))
        if self._ahead:
            self._next, self._stop = position, position + self._ahead
            self._thread = threading.Thread(target=self._run, daemon=True, name="prefetch")
            self._thread.start()

    def reach(self, position: int) -> None:
        """Note that the batches before `position` were read."""
        with self._wake:
            self._next, self._stop = max(self._next, position), position + self._ahead
            self._wake.notify()

    def end(self) -> None:
        """Stop after the file that is under way."""
        with self._wake:
            self._ended = True
            self._wake.notify()

    def _run(self) -> None:
        assert self.cache is not None
        for number in self._wanted():
            for entry in self._data.files(self._part(number, self._ranks)):
                if self._ended:
                    return
                try:
                    self.cache.fetch(entry)
                except (OSError, ValueError):
                    break

    def _wanted(self) -> Iterator[int]:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._ended or self._next < self._stop)
                if self._ended:
                    return
                number, self._next = self._next, self._next + 1
            yield number

    def _part(self, number: int, ranks: range) -> range:
        first = number * self._batch_size
        return range(first + ranks.start * self._share, first + ranks.stop * self._share)


def ranks_of_this_machine() -> range:
    """Ranks that torchrun started on this machine, this one among them; range(0, 1) without it."""
    rank, local, count = (
        int(os.environ.get(name, preset)) for name, preset in (("RANK", 0), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
    )
    return range(rank - local, rank - local + count)
