"""What a finished schedule holds, counted from its file: tokens of every source and how often each document is seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.shared.packed_data import PIECE

_BLOCK = 1 << 20
"""Pieces that are counted at a time."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One source in the schedule."""

    tokens: int
    """Without padding."""
    pieces: int
    documents: int
    """Documents of the source, seen or not."""
    least: int
    """How often the least seen document is seen; 0 without documents."""
    most: int
    repeats: int
    """Documents shown that had been shown before, over all epochs."""


def count(pieces: Path, documents: list[np.ndarray]) -> list[Seen]:
    """Count a <split>.pieces file; documents: for each source (shards,), how many documents of the split a shard has.

    Each shard's documents of the split are its first ones. Holds two bytes a document of all sources.
    """
    starts = [np.cumsum(counts) - counts for counts in documents]
    times = [np.zeros(int(counts.sum()), np.uint16) for counts in documents]
    tokens, num_pieces = np.zeros((2, len(documents)), np.int64)
    with pieces.open("rb") as stream:
        while len(block := np.fromfile(stream, PIECE, _BLOCK)):
            for source in range(len(documents)):
                records = block[block["source"] == source]
                tokens[source] += int(records["length"].sum(dtype=np.int64))
                num_pieces[source] += len(records)
                first = records[records["start"] == 0]
                number = starts[source][first["shard"]] + first["document"]
                np.add.at(times[source], number, np.uint16(1))
    return [
        Seen(
            tokens=int(tokens[source]),
            pieces=int(num_pieces[source]),
            documents=len(seen),
            least=int(seen.min(initial=2**16 - 1)) if len(seen) else 0,
            most=int(seen.max(initial=0)),
            repeats=int(seen.sum(dtype=np.int64)) - int(np.count_nonzero(seen)),
        )
        for source, seen in enumerate(times)
    ]
