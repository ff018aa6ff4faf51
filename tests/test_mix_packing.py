"""Best-fit packing: no document is lost or cut, nothing overflows, and little is padded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.mix.schedule import windows
from components.shared.packing import best_fit, best_fit_bins
from tests.mixed import stream_of


def one_after_the_other(lengths: list[int], capacity: int) -> list[list[int]]:
    """Best fit as it is defined: longest first, each into the fullest bin with room, of equals the latest filled."""
    bins: list[list[int]] = []
    room: list[int] = []
    touched: list[int] = []
    for clock, number in enumerate(sorted(range(len(lengths)), key=lambda n: -lengths[n])):
        fitting = [place for place in range(len(bins)) if room[place] >= lengths[number]]
        if fitting:
            place = min(fitting, key=lambda p: (room[p], -touched[p]))
        else:
            place = len(bins)
            bins, room, touched = [*bins, []], [*room, capacity], [*touched, 0]
        bins[place].append(number)
        room[place] -= lengths[number]
        touched[place] = clock
    return bins


@given(st.lists(st.integers(1, 50), max_size=120))
@settings(max_examples=80, deadline=None)
def test_documents_of_one_length_are_packed_together_as_one_after_the_other(lengths: list[int]) -> None:
    bins = best_fit(np.array(lengths, np.int64), 50)
    assert bins == one_after_the_other(lengths, 50)
    assert sorted(number for one in bins for number in one) == list(range(len(lengths)))
    assert all(sum(lengths[number] for number in one) <= 50 for one in bins)


def test_a_document_longer_than_a_bin_is_refused() -> None:
    with pytest.raises(ValueError, match="a document of 51 tokens, wanted at most 50"):
        best_fit_bins(np.array([3, 51]), 50)


def test_realistic_documents_waste_less_than_one_in_a_hundred_at_8192(tmp_path: Path) -> None:
    """Pages of 100 tokens and more, lognormal with median 540, some beyond a sequence, and utterances of 30 to 400."""
    rng = np.random.default_rng(0)
    pages = np.clip(rng.lognormal(6.3, 0.9, 20_000), 100, None).astype(np.int64)
    assert (pages > 8192).any()
    total, num_sequences = 0, 0
    streams = []
    for source, lengths in enumerate((pages, rng.integers(30, 400, 10_000))):
        streams.append(stream_of(tmp_path, [lengths.tolist()], int(lengths.sum()), 8192, source=source))
    for records, sizes in windows(streams, 8192, 512, 17):
        total, num_sequences = total + int(records["length"].sum()), num_sequences + len(sizes)
    assert total == sum(stream.budget for stream in streams)
    assert 0 < 1 - total / (num_sequences * 8192) < 0.005
