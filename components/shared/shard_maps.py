"""Memory maps of token shards: opened on first use in the process that reads, the least recently used closed.

A document is some kB at a place that nothing predicts. By default the kernel reads 128 kB around every page that is
touched; told that reading is random it fetches page after page and waits for each. So a shard is mapped as random and
the pages of all documents of a batch are asked for before the first is read. Measured cold on a virtual disk, 800
sequences of 8192 tokens (26 MB) of a folder of 400 MB, a process: by default 30M tokens/s and 400 MB from the disk,
random 9M and 54 MB, random and asked for 48M and 54 MB, pread 15M and 57 MB.
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

MAX_OPEN = 128
"""Shards that a process keeps mapped; a map holds a file descriptor, a shard two, and 1024 is the usual limit."""


@dataclass(frozen=True)
class Shard:
    """One shard; the arrays stay readable for as long as something holds them."""

    tokens: np.ndarray
    """(tokens,), uint32."""
    offsets: np.ndarray
    """(documents + 1,), uint64."""
    region: mmap.mmap | None
    """What `tokens` lies in; None when it is empty."""

    def place(self, document: int, start: int, length: int) -> tuple[int, int]:
        """Where tokens start .. start + length of a document stand; asks the kernel for their pages."""
        first = self.offsets.item(document) + start
        if self.region is not None:
            page = 4 * first // mmap.PAGESIZE * mmap.PAGESIZE
            self.region.madvise(mmap.MADV_WILLNEED, page, 4 * (first + length) - page)
        return first, first + length


class ShardMaps:
    """The shards that were read last."""

    def __init__(self, max_bytes: int = 0) -> None:
        """max_bytes: most that may be mapped, 0: any."""
        self._max_bytes = max_bytes
        self._shards: OrderedDict[str, Shard] = OrderedDict()
        self._bytes = 0

    def get(self, name: str, open_file: Callable[[str], BinaryIO]) -> Shard:
        """The shard whose files are <name>.bin and <name>.offsets; open_file: opens a file by its name."""
        shard = self._shards.get(name)
        if shard is not None:
            self._shards.move_to_end(name)
            return shard
        while len(self._shards) >= MAX_OPEN:
            self._close()
        tokens, region = mapped(open_file(f"{name}.bin"), "<u4")
        offsets, _ = mapped(open_file(f"{name}.offsets"), "<u8")
        self._bytes += tokens.nbytes + offsets.nbytes
        while self._max_bytes and self._bytes > self._max_bytes and self._shards:
            self._close()
        shard = self._shards[name] = Shard(tokens, offsets, region)
        return shard

    def _close(self) -> None:
        _, shard = self._shards.popitem(last=False)
        self._bytes -= shard.tokens.nbytes + shard.offsets.nbytes


def mapped(
    stream: BinaryIO, dtype: np.dtype | str, advice: int = mmap.MADV_RANDOM
) -> tuple[np.ndarray, mmap.mmap | None]:
    """A file as a read-only array, and the map below it (None for an empty file); closes the stream.

    The map has a descriptor of its own, so that a lock on the stream lasts as long as the array.
    """
    with stream:
        if stream.seek(0, 2) == 0:
            return np.empty(0, dtype), None
        region = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    region.madvise(advice)
    return np.frombuffer(region, dtype), region
