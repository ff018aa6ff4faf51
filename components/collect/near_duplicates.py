"""Near-duplicates among any number of documents: MinHash signatures (rensa), sorted bands on disk, ranges of hashes.

A document is dropped when an earlier one agrees with it in a whole band of its signature. Each worker of the second
step looks at one range of the hashes of all bands, so that nobody holds all documents; one byte a document on disk says
in the end which to drop. The answer depends on the order of the documents alone.
Source: Broder 1997; bands: Leskovec et al., Mining of Massive Datasets, 3.4; FineWeb's figures: Penedo et al. 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import rensa

SEED = 1
DOCUMENTS_PER_BLOCK = 2**16
"""Documents whose bands a worker of the first step holds: 7 MB with 14 bands, 30 MB while they are sorted."""
DOCUMENTS_PER_RANGE = 2**21
"""Entries of a band that a worker of the second step sorts at once, about: 100 MB."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Sorted bands of documents that follow each other."""

    folder: str
    first: int
    """Number of its first document among all."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """The hashes low to high - 1 of all blocks."""

    blocks: tuple[Block, ...]
    low: int
    high: int


def bands_of(similarity: float, num_hashes: int) -> tuple[int, int]:
    """(bands, hashes in each): of all ways to divide num_hashes the one whose threshold (1/bands)^(1/rows) is nearest.

    Raises ValueError when similarity is not between 0 and 1.
    """
    if not 0 < similarity < 1 or num_hashes < 1:
        raise ValueError(
            f"near-duplicates: got similarity {similarity}, {num_hashes} hashes; wanted 0 to 1, at least 1"
        )
    ways = [(bands, num_hashes // bands) for bands in range(1, num_hashes + 1) if num_hashes % bands == 0]
    return min(ways, key=lambda way: abs((1 / way[0]) ** (1 / way[1]) - similarity))


def signature(words: list[str], shingle: int, num_hashes: int) -> list[int]:
    """MinHash of a document's shingles: num_hashes numbers below 2^32; one shorter than a shingle is one itself."""
    shingles = [" ".join(found) for found in zip(*(words[i:] for i in range(shingle)), strict=False)]
    return rensa.RMinHash.digest_matrix_from_token_sets(
        [shingles or [" ".join(words)]], num_perm=num_hashes, seed=SEED
    ).to_rows()[0]


def band_hashes(signatures: list[list[int]], num_bands: int) -> np.ndarray:
    """One hash a band: signatures of documents -> (documents, bands) uint64; FNV-1a, mixed once more."""
    rows = np.array(signatures, np.uint64).reshape(len(signatures), num_bands, -1)
    hashes = np.full(rows.shape[:2], 0xCBF29CE484222325, np.uint64)
    for i in range(rows.shape[2]):
        hashes = (hashes ^ rows[:, :, i]) * np.uint64(0x100000001B3)
    hashes = (hashes ^ (hashes >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return hashes ^ (hashes >> np.uint64(32))


def write_block(folder: Path, hashes: np.ndarray) -> None:
    """Write the bands of documents that follow each other, (documents, bands) uint64, each band sorted by its hashes.

    hashes.npy: (bands, documents) uint64; rows.npy: (bands, documents) uint32, whose hash each one is.
    """
    rows = np.argsort(hashes.T, axis=1, kind="stable")
    folder.mkdir()
    np.save(folder / "hashes.npy", np.take_along_axis(hashes.T, rows, axis=1))
    np.save(folder / "rows.npy", rows.astype(np.uint32))


def plan_ranges(blocks: list[Block], num_documents: int) -> list[Range]:
    """Ranges of hashes for the workers of the second step."""
    count = max(1, -(-num_documents // DOCUMENTS_PER_RANGE))
    edges = [i * 2**64 // count for i in range(count + 1)]
    return [Range(blocks=tuple(blocks), low=low, high=high) for low, high in pairwise(edges)]


def find_repeats(job: Range, path: Path) -> None:
    """Write the numbers of the documents that an earlier one agrees with in a band of this range: sorted, int64."""
    bands = len(np.load(Path(job.blocks[0].folder) / "hashes.npy", mmap_mode="r"))
    found = []
    for band in range(bands):
        slices = [_slice(block, band, job) for block in job.blocks]
        hashes = np.concatenate([hashes for hashes, _ in slices])
        numbers = np.concatenate([numbers for _, numbers in slices])
        order = np.argsort(hashes, kind="stable")  # of equal hashes the earlier document stays first
        hashes, numbers = hashes[order], numbers[order]
        found.append(numbers[1:][hashes[1:] == hashes[:-1]])
    with path.open("wb") as stream:
        np.save(stream, np.unique(np.concatenate(found)))


def _slice(block: Block, band: int, job: Range) -> tuple[np.ndarray, np.ndarray]:
    """(hashes uint64, numbers int64) of one band of a block within a range."""
    hashes = np.load(Path(block.folder) / "hashes.npy", mmap_mode="r")[band]
    start = int(np.searchsorted(hashes, np.uint64(job.low)))
    stop = int(np.searchsorted(hashes, np.uint64(job.high - 1), side="right"))
    rows = np.load(Path(block.folder) / "rows.npy", mmap_mode="r")[band, start:stop]
    return np.array(hashes[start:stop]), rows.astype(np.int64) + block.first


def mark_repeats(found: list[Path], num_documents: int, path: Path) -> None:
    """Write one byte a document: 1 where any range found it repeats an earlier one; memory-mapped as it is made."""
    marks = np.lib.format.open_memmap(path, mode="w+", dtype=np.bool_, shape=(num_documents,))  # type: ignore[no-untyped-call]
    for one in found:
        marks[np.load(one)] = True
    marks.flush()


def marked(path: Path | str, start: int, stop: int) -> np.ndarray:
    """Whether each document from start to stop - 1 repeats an earlier one: (documents,) bool."""
    return np.array(np.load(path, mmap_mode="r")[start:stop])
