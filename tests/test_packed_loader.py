"""The loader: the same batches for any workers and ranks, an exact resume, steps passed over, constant memory."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from components.shared.packed_data import PackedData
from components.shared.packed_loader import PackedLoader
from tests.packed_shards import write_shards


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PackedData:
    return PackedData(write_shards(tmp_path_factory.mktemp("loader") / "shards"), "train")


def read(loader: PackedLoader, count: int | None = None) -> list[dict[str, torch.Tensor]]:
    """Batches as copies; count: stop there, as a trainer that is killed."""
    return [{k: torch.as_tensor(v).clone() for k, v in batch.items()} for batch in itertools.islice(loader, count)]


def same(first: list[dict[str, torch.Tensor]], second: list[dict[str, torch.Tensor]]) -> bool:
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in zip(first, second, strict=True)
    )


def test_workers_change_nothing_and_a_resume_with_others_goes_on_exactly(data: PackedData) -> None:
    alone = read(PackedLoader(data, 4, 9, False))
    assert [int(batch["number"]) for batch in alone] == list(range(9))
    assert {v.dtype for batch in alone for v in batch.values()} == {torch.int64}
    assert same(read(PackedLoader(data, 4, 9, False, num_workers=1)), alone)
    loader = PackedLoader(data, 4, 9, False, num_workers=3)
    begun = read(loader, 4)  # three workers are up to six batches ahead of what was consumed
    state = loader.state_dict()
    assert state == {"position": 4}
    for workers in (0, 3):
        resumed = PackedLoader(data, 4, 9, False, num_workers=workers)
        resumed.load_state_dict(state)
        assert same(begun + read(resumed), alone)


def test_other_ranks_read_the_same_order(data: PackedData) -> None:
    alone = read(PackedLoader(data, 6, 4, False))
    for world_size, workers in ((2, 0), (3, 2)):
        ranks = [read(PackedLoader(data, 6, 4, False, r, world_size, num_workers=workers)) for r in range(world_size)]
        for number, batch in enumerate(alone):
            joined = torch.cat([rank[number]["token_ids"] for rank in ranks])
            assert torch.equal(joined, batch["token_ids"])


def test_steps_are_passed_over_and_a_state_means_the_same_before_and_after(data: PackedData) -> None:
    whole = read(PackedLoader(data, 2, 12, False))
    skipped = frozenset({1, 3, 99})
    loader = PackedLoader(data, 2, 12, False, accumulate_batches=3, skipped=skipped)
    left = [batch for batch in whole if int(batch["number"]) // 3 not in skipped]
    assert len(loader) == len(left) == 6
    assert same(read(loader), left)
    begun = PackedLoader(data, 2, 12, False, accumulate_batches=3)  # the step was bad, and is left out on resume
    read(begun, 3)
    loader.load_state_dict(begun.state_dict())
    assert [int(batch["number"]) for batch in loader] == [6, 7, 8]
    assert len(PackedLoader(data, 2, 11, False, accumulate_batches=3, skipped=skipped)) == 6


def test_a_pass_over_the_data_leaves_the_generator_of_dropout_alone(data: PackedData) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    read(PackedLoader(data, 4, 2, False))
    read(PackedLoader(data, 4, 2, False, num_workers=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_past_the_end_there_is_padding(data: PackedData) -> None:
    last = read(PackedLoader(data, 4, len(data) // 4 + 2, False))[-1]
    assert not last["segments"].any() and int(last["number"]) == len(data) // 4 + 1


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_worker_finds_is_said_in_one_line(tmp_path: Path, workers: int) -> None:
    bad = PackedData(write_shards(tmp_path / "shards", bad=500), "train")
    with pytest.raises(ValueError, match=r"document 'speech1/10': token id 500") as caught:
        read(PackedLoader(bad, 4, -(-len(bad) // 4), False, num_workers=workers))
    assert len(str(caught.value).splitlines()) == 1


def test_a_killed_worker_ends_the_run_as_one_that_may_go_better_next_time(data: PackedData) -> None:
    loader = iter(PackedLoader(data, 2, 5000, False, num_workers=1))
    next(loader)
    server = psutil.Process().children(recursive=True)
    (worker,) = [p for p in server if p.ppid() != os.getpid() and p.status() != psutil.STATUS_ZOMBIE]
    worker.send_signal(signal.SIGKILL)
    with pytest.raises(BrokenProcessPool, match="a worker died"):
        list(loader)


def test_a_batch_that_ranks_cannot_share_is_refused(data: PackedData) -> None:
    with pytest.raises(ValueError, match="7 sequences do not divide by 2 ranks"):
        PackedLoader(data, 7, 1, False, 0, 2)


def _anonymous(folder: Path, found: Any) -> None:
    """Put the most anonymous memory of a process that reads a whole folder."""
    peak = 0
    data = PackedData(folder, "train")
    for number, batch in enumerate(PackedLoader(data, 8, len(data) // 8, False)):
        assert batch["token_ids"].shape == (8, 2048)
        if number % 50 == 0:
            status = Path("/proc/self/status").read_text()
            peak = max(peak, int(next(line for line in status.splitlines() if "RssAnon" in line).split()[1]))
    found.put(1024 * peak)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """90 MB more of tokens, none of them kept; the pages of the maps are the kernel's to take back."""
    peaks = {}
    for name, documents in (("small", 1500), ("large", 15_000)):
        folder = write_shards(tmp_path / name, documents, shards=1, longest=1000, length=2048)
        context = multiprocessing.get_context("spawn")
        found = context.Queue()
        process = context.Process(target=_anonymous, args=(folder, found))
        process.start()
        peaks[name] = found.get(timeout=300)
        process.join()
    sizes = [(tmp_path / name / "text-00000.bin").stat().st_size for name in peaks]
    assert 3 * (sizes[1] - sizes[0]) > 75e6
    assert peaks["large"] - peaks["small"] < 8e6, peaks
