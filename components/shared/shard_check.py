"""Shards held against their manifest before training: is every file the one that was planned?

sha256 runs at about 2 GB/s a core where the processor has instructions for it: the 4 TB of a trillion tokens take one
machine with 8 threads and a disk of 6 GB/s 11 minutes, 8 machines with a share each under 2 if their file system
gives 48 GB/s. Hence the memory: a file of the same path, size and mtime is not read again. What keeps all
three and changes nevertheless (a failing disk, a copy that sets times back) is not seen; removing the folder `verified`
in the stage's work folder has all read anew.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from components.shared.loader_config import Verify
from components.shared.manifest import Entry, inside, read_json, read_manifest, sha256_of, write_json
from components.shared.packed_data import check_size

FOLDER = "verified"
_THREADS = 8
_REMEMBERED_EVERY = 256
"""Files after which it is written down what was read."""


def check_shards(folder: Path, verify: Verify, work: Path) -> int:
    """Hold a folder's local files against its manifest; bytes that this process has hashed.

    work: where it is remembered what was read, of all ranks. With several ranks (torchrun's RANK and WORLD_SIZE) each
    hashes its share, on a file system that all see; the first that finds something ends the run.
    Raises ValueError with file, got and wanted when a file is missing, cut or changed.
    """
    entries = [entry for entry in read_manifest(folder).files if not entry.uri]
    for entry in entries:
        check_size(folder, entry)
    if verify is Verify.sizes:
        return 0
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    known: dict[str, list[int | str]] = {}
    for path in sorted((work / FOLDER).glob("rank-*.json")):
        known |= read_json(path)
    entries.sort(key=lambda entry: (-entry.size, entry.path))  # dealt by size, so that the shares are alike
    mine = entries[rank::world_size]  # whatever is known by now, which other ranks may see otherwise
    left = [entry for entry in mine if known.get(_key(folder, entry)) != _state(folder, entry)]
    return _hash(folder, left, work / FOLDER / f"rank-{rank}.json")


def _hash(folder: Path, entries: list[Entry], memory: Path) -> int:
    known = read_json(memory) if memory.is_file() else {}
    hashed = 0
    threads = ThreadPoolExecutor(_THREADS)  # hashing leaves the interpreter's lock
    try:
        states = {entry.path: _state(folder, entry) for entry in entries}  # before they are read, not after
        running = {threads.submit(sha256_of, inside(folder, entry.path)): entry for entry in entries}
        for done, future in enumerate(as_completed(running), start=1):
            entry = running[future]
            if (got := future.result()) != entry.sha256:
                path = folder / entry.path
                raise ValueError(f"{path}: got sha256 {got}, wanted {entry.sha256}; it was changed since mix wrote it")
            known[_key(folder, entry)] = states[entry.path]
            hashed += entry.size
            if done % _REMEMBERED_EVERY == 0:
                write_json(memory, known)
    finally:
        threads.shutdown(cancel_futures=True)
        if hashed:
            write_json(memory, known)
    return hashed


def _key(folder: Path, entry: Entry) -> str:
    return str((folder / entry.path).resolve())


def _state(folder: Path, entry: Entry) -> list[int | str]:
    stat = (folder / entry.path).stat()
    return [stat.st_size, stat.st_mtime_ns, entry.sha256]
