"""Shards of an object store on a local disk: fetched whole on first use, verified, the least recently used removed.

A file's name in the cache is its sha256, so that several mixes and runs share one folder and no manifest can name a
path outside it. All processes of a machine may use the folder at once:
- a file appears by rename, after its size and sha256 were found right;
- who reads a file holds a shared lock (flock) on it, and what is locked is never removed; a killed process holds none;
- two that want the same file wait for each other (a lock file for every first two digits of the hash);
- room is made, and kept for files under way, by one process at a time.
The folder must be on a disk of the machine: locks of network file systems are another matter.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from components.shared.manifest import Entry
from components.shared.stores import Damaged, fetch

_HASH = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"\.([0-9a-f]{64})\.(\d+)\.part")
"""A file under way, with the size that it will have."""
_PARTS = 8
"""Largest files that must fit for every reader: a quarter of the cache is for files that are kept open, a quarter for
the one that a reader opens and the ones under way, so that at least half can always be removed."""


@dataclass
class ShardCache:
    """The files of a store that were used last."""

    folder: Path
    max_bytes: int
    readers: int = 1
    """PackedData of all processes of this machine that read through the cache at once."""
    waits_s: Sequence[float] = (1.0, 2.0, 4.0, 8.0, 16.0)
    """Waits before a fetch that failed is tried again."""
    fetched_bytes: int = 0
    """Bytes that this process has fetched."""

    @property
    def share_bytes(self) -> int:
        """Most bytes that one reader may keep open."""
        return self.max_bytes // (4 * self.readers)

    def check(self, largest: int, ahead: int) -> None:
        """Raise ValueError when the cache is too small to work.

        largest: bytes of the largest file; ahead: bytes of the files that the machine is about to read.
        """
        wanted = max(_PARTS * self.readers * largest, 2 * ahead)
        if self.max_bytes < wanted:
            raise ValueError(
                f"cache_gb: got {self.max_bytes / 1e9:g}, wanted at least {wanted / 1e9:.3g} in {self.folder}: the "
                f"largest shard has {largest / 1e9:.3g} GB, {self.readers} readers share it, and the sequences "
                f"ahead lie in {ahead / 1e9:.3g} GB of shards"
            )

    def open(self, entry: Entry) -> BinaryIO:
        """A file of the store, open for reading; until it and all its maps are closed it is not removed.

        Raises ConnectionError when it cannot be fetched now, ValueError when it is not there or not what was planned.
        """
        while True:
            path = self.fetch(entry)
            with contextlib.suppress(FileNotFoundError):  # removed between the two lines, as below
                stream = path.open("rb")
                fcntl.flock(stream, fcntl.LOCK_SH)
                if os.fstat(stream.fileno()).st_nlink:
                    os.utime(stream.fileno())
                    return stream
                stream.close()

    def fetch(self, entry: Entry) -> Path:
        """The path of a file of the store, after it was fetched if it was not here. Raises as `open`."""
        if not _HASH.fullmatch(entry.sha256):
            raise ValueError(f"{entry.path}: sha256: got {entry.sha256!r}, wanted 64 hexadecimal digits")
        path = self.folder / entry.sha256
        if path.is_file():
            return path
        with self._locked(entry.sha256[:2]):
            if not path.is_file():
                self._fetch(entry, path)
        return path

    def _fetch(self, entry: Entry, path: Path) -> None:
        part = self.folder / f".{entry.sha256}.{entry.size}.part"
        with self._locked("room"):
            self._make_room(entry.size)
            stream = part.open("wb")
            fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            for wait_s in (*self.waits_s, None):
                try:
                    fetch(entry, part)
                    break
                except (ConnectionError, Damaged):
                    if wait_s is None:
                        raise
                    time.sleep(wait_s)
            os.fsync(stream.fileno())
            with self._locked("room"):  # who counts what is there sees it under exactly one name
                os.replace(part, path)
            self.fetched_bytes += entry.size
        finally:
            part.unlink(missing_ok=True)
            stream.close()

    def _make_room(self, size: int) -> None:
        """Remove what was used longest ago and is not in use until `size` more bytes fit."""
        total, files = 0, []
        for path in self.folder.iterdir():
            if found := _PART.fullmatch(path.name):
                if not _remove(path):  # else its process was killed
                    total += int(found[2])
            elif _HASH.fullmatch(path.name):
                stat = path.stat()
                total += stat.st_size
                files.append((stat.st_mtime_ns, stat.st_size, path))
        for _, used, path in sorted(files):
            if total + size <= self.max_bytes:
                return
            if _remove(path):
                total -= used
        if total + size > self.max_bytes:
            raise ValueError(
                f"{self.folder}: {total / 1e9:.3g} GB are in use by running processes, {size / 1e9:.3g} GB more do not "
                f"fit into cache_gb {self.max_bytes / 1e9:g}; raise it or give each run a folder of its own"
            )

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        locks = self.folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / name).open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def _remove(path: Path) -> bool:
    """Remove a file that no process holds; False when one does."""
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass
    return True
