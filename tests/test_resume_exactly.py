"""A training that is killed and started again ends as if it had not been, on one process and on two."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from tests.training_runs import NUM_STEPS, curve, finished, start, weights

WAYS = [(1, "auto", "adamw"), (1, "auto", "muon"), (2, "ddp", "adamw"), (2, "fsdp2", "adamw")]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str, str], Path]:
    """A whole run of each way."""
    root = tmp_path_factory.mktemp("undisturbed")
    folders = {way: root / "-".join(map(str, way)) for way in WAYS}
    for (ranks, strategy, kind), folder in folders.items():
        done = start(folder, ranks, strategy=strategy, kind=kind)
        assert done.returncode == 0, done.stderr
    return folders


@pytest.mark.parametrize("way", WAYS)
def test_kill_minus_nine_costs_nothing_but_the_steps_since_the_checkpoint(
    undisturbed: dict[tuple[int, str, str], Path], way: tuple[int, str, str], tmp_path: Path
) -> None:
    ranks, strategy, kind = way
    killed = start(tmp_path, ranks, strategy=strategy, kind=kind, kill_at=7)
    assert killed.returncode != 0 and max(curve(tmp_path)) == 7
    assert finished(tmp_path) == ["step-00000004"]
    again = start(tmp_path, ranks, strategy=strategy, kind=kind)
    assert again.returncode == 0, again.stderr
    assert "step-00000004" in again.stdout
    for rank in range(ranks):
        assert curve(tmp_path, rank) == curve(undisturbed[way], rank)
    ours, theirs = weights(tmp_path), weights(undisturbed[way])
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("way", [WAYS[0], WAYS[3]])
def test_a_kill_in_the_middle_of_a_save_leaves_whole_checkpoints_only(
    undisturbed: dict[tuple[int, str, str], Path], way: tuple[int, str, str], tmp_path: Path
) -> None:
    ranks, strategy, kind = way
    how = {"strategy": strategy, "kind": kind, "checkpoint_every_steps": 2}
    unfinished: list[Path] = []
    for step in (2, 6):
        assert start(tmp_path, ranks, kill_in_save=step, **how).returncode != 0
        unfinished += (tmp_path / "checkpoints").glob(".step-*.unfinished")
    assert unfinished  # at least one kill came before the rename
    again = start(tmp_path, ranks, **how)
    assert again.returncode == 0, again.stderr
    assert curve(tmp_path) == curve(undisturbed[way])
    assert all(torch.equal(value, weights(undisturbed[way])[name]) for name, value in weights(tmp_path).items())
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_run_that_had_only_its_end_left_says_the_same(
    undisturbed: dict[tuple[int, str, str], Path], tmp_path: Path
) -> None:
    shutil.copytree(undisturbed[WAYS[0]], tmp_path / "again")
    assert start(tmp_path / "again", 1).returncode == 0
    metrics = [
        json.loads((folder / "metrics-0.json").read_text()) for folder in (tmp_path / "again", undisturbed[WAYS[0]])
    ]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize(("before", "after"), [((2, "fsdp2"), (1, "auto")), ((1, "auto"), (2, "fsdp2"))])
def test_another_number_of_ranks_goes_on_with_the_same_data(
    before: tuple[int, str], after: tuple[int, str], tmp_path: Path
) -> None:
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    assert start(whole, before[0], strategy=before[1], noisy=False).returncode == 0
    start(moved, before[0], strategy=before[1], noisy=False, kill_at=7)
    done = start(moved, after[0], strategy=after[1], noisy=False)
    assert done.returncode == 0, done.stderr
    assert sorted(curve(moved)) == list(range(1, NUM_STEPS + 1))
    for step, values in curve(whole).items():
        assert curve(moved)[step] == pytest.approx(values, rel=1e-5)
    torch.testing.assert_close(weights(moved), weights(whole), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", [(2, "ddp"), (2, "fsdp2")])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_ranks_equal_one_process_in_loss_gradient_norm_and_clipping(
    way: tuple[int, str], accumulate: int, tmp_path: Path
) -> None:
    for ranks, strategy in ((1, "auto"), way):
        done = start(tmp_path / str(ranks), ranks, strategy=strategy, noisy=False, accumulate_batches=accumulate)
        assert done.returncode == 0, done.stderr
    one, two = curve(tmp_path / "1"), curve(tmp_path / "2")
    assert min(values["gradient_norm"] for values in one.values()) > 0.5  # every step is clipped
    assert one.keys() == two.keys()
    for step, values in one.items():
        assert two[step] == pytest.approx(values, rel=1e-5)
    torch.testing.assert_close(weights(tmp_path / "2"), weights(tmp_path / "1"), rtol=1e-4, atol=1e-5)
    metrics = [(tmp_path / "2" / f"metrics-{rank}.json").read_text() for rank in (0, 1)]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize("way", [WAYS[0], WAYS[3]])
def test_a_run_that_is_told_to_end_saves_first(
    undisturbed: dict[tuple[int, str, str], Path], way: tuple[int, str, str], tmp_path: Path
) -> None:
    """One rank of two gets the signal; all end behind the same step."""
    ranks, strategy, _ = way
    told = start(tmp_path, ranks, strategy=strategy, end_at=6)
    assert told.returncode == (143 if ranks == 1 else 1)
    assert re.fullmatch(r"step-0000000[67]", finished(tmp_path)[-1])
    assert start(tmp_path, ranks, strategy=strategy).returncode == 0
    assert curve(tmp_path) == curve(undisturbed[way])
