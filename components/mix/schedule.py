"""The schedule: which documents stand in which sequence, a pure function of (seed, document lengths, budgets).

Every source is a stream of documents (order.py). The streams run side by side in proportion to their budgets: window k
takes from each the documents up to the fraction (k+1)/K of its budget. A window is shuffled, packed by best fit and its
sequences shuffled again, so that memory holds one window and every stretch of the run has the mix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from components.mix.order import SourceStream
from components.shared.packing import best_fit_bins


def num_windows(streams: list[SourceStream], sequence_length: int, window_sequences: int) -> int:
    """Windows of a schedule, at least one."""
    total = sum(stream.budget for stream in streams)
    return max(1, round(total / (window_sequences * sequence_length)))


def windows(
    streams: list[SourceStream], sequence_length: int, window_sequences: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every window in order: its records of PIECE, sequence after sequence, and (sequences,), the pieces of each.

    The pieces of a sequence have at most sequence_length tokens together.
    """
    count = num_windows(streams, sequence_length, window_sequences)
    for window in range(count):
        rng = np.random.default_rng([seed, window])
        taken = [stream.take(stream.budget * (window + 1) // count) for stream in streams]
        records = rng.permutation(np.concatenate(taken))
        order, ends = best_fit_bins(records["length"], sequence_length)
        shuffled = rng.permutation(len(ends))
        sizes = np.diff(ends, prepend=0)
        yield records[order[_runs((ends - sizes)[shuffled], sizes[shuffled])]], sizes[shuffled]


def _runs(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """start, start+1, ... start+size-1 for each (start, size), one after the other."""
    places = np.arange(int(sizes.sum()))
    return places + np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)


def write(folder: Path, split: str, schedule: Iterable[tuple[np.ndarray, np.ndarray]]) -> int:
    """Write a schedule as <split>.pieces and <split>.sequences; returns the number of sequences."""
    end, num_sequences = 0, 0
    with (folder / f"{split}.pieces").open("wb") as pieces, (folder / f"{split}.sequences").open("wb") as sequences:
        sequences.write(np.zeros(1, "<u8").data)
        for records, sizes in schedule:
            pieces.write(records.data)
            sequences.write((end + np.cumsum(sizes)).astype("<u8").data)
            end, num_sequences = end + len(records), num_sequences + len(sizes)
    return num_sequences
