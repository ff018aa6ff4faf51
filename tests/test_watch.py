"""The watch on the loss: sums over batches and ranks, the guard before a step, what a spike leaves behind."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.shared.loss_guard import LossGuard, WatchConfig
from components.shared.loss_sums import LossSums
from components.shared.tokens import Vocabulary, add_speech, train_bpe
from tests.test_pretrain import CONFIG, Curves, mixed, train  # noqa: F401 (a fixture)

WATCH = WatchConfig(spike_nats=1.0, memory_steps=4, skip_steps=[])


def test_a_step_far_above_the_mean_is_refused_and_does_not_move_it() -> None:
    guard = LossGuard(WATCH)
    assert [guard.look(loss, 1.0) for loss in (5.0, 4.0, 4.5, 4.5, 4.6)] == [""] * 5
    assert "nats above the mean" in guard.look(5.7, 1.0)
    assert guard.look(5.4, 1.0) == ""


def test_the_mean_is_not_trusted_before_it_has_seen_enough() -> None:
    guard = LossGuard(WATCH)
    assert [guard.look(loss, 1.0) for loss in (2.0, 9.0, 2.0)] == [""] * 3


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (3.0, math.nan), (3.0, math.inf)])
def test_what_is_not_finite_is_refused_from_the_first_step(loss: float, norm: float) -> None:
    assert "is not finite" in LossGuard(replace(WATCH, spike_nats=0.0)).look(loss, norm)


def test_a_guard_that_goes_on_judges_as_before() -> None:
    guard, later = LossGuard(WATCH), LossGuard(WATCH)
    for loss in (5.0, 4.0, 4.5, 4.5, 4.6):
        guard.look(loss, 1.0)
    later.load_state_dict(guard.state_dict())
    assert later.look(5.7, 1.0) == guard.look(5.7, 1.0) != ""


def test_settings_below_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"watch: got spike_nats -1"):
        LossGuard(replace(WATCH, spike_nats=-1))


def test_sums_are_the_means_over_all_labels_whatever_the_batches() -> None:
    vocabulary = Vocabulary.of(add_speech(train_bpe(["a cat"], 256), 8), 8)
    torch.manual_seed(0)
    labels = torch.randint(0, vocabulary.size, (6, 20))
    learnt = torch.rand(6, 20) > 0.2
    sources, nll = torch.randint(0, 3, (6, 20)), torch.rand(6, 20)
    sums = LossSums(vocabulary, ["a", "b", "never"])
    sources[sources == 2] = 0
    for part in (slice(0, 1), slice(1, 6)):
        batch = {"labels": labels[part], "sources": sources[part]}
        sums.add(batch, nll[part][learnt[part]], learnt[part])
    speech = (labels >= vocabulary.first_audio_id) & learnt
    want = {
        "loss": nll[learnt].mean(),
        "loss_text": nll[learnt & ~speech].mean(),
        "loss_speech": nll[speech].mean(),
        "loss_a_source": nll[learnt & (sources == 0)].mean(),
        "loss_b_source": nll[learnt & (sources == 1)].mean(),
    }
    assert sums.means(lambda totals: totals) == pytest.approx({name: float(value) for name, value in want.items()})
    assert sums.means(lambda totals: totals) == {}


def test_a_spike_ends_the_run_with_its_samples_written_down(mixed: Path) -> None:  # noqa: F811
    """The smallest rise over one step is a spike here, so that the run's own losses say where it must stop."""
    watch = WatchConfig(spike_nats=0.0, memory_steps=1, skip_steps=[])
    quiet = Curves()
    train(mixed, replace(CONFIG, watch=watch), quiet, "pretrain_quiet")
    limit = 1e-3
    rises = [step for step in range(2, 13) if quiet.losses[step] > quiet.losses[step - 1] + limit]
    assert rises, "a run whose every step was better than the one before"
    stopped = Curves()
    with pytest.raises(ValueError, match=rf"step {rises[0] - 1} of the schedule: .*skip_steps=\[{rises[0] - 1}\]"):
        train(mixed, replace(CONFIG, watch=replace(watch, spike_nats=limit)), stopped, "pretrain_spike")
    assert max(stopped.losses) == rises[0] - 1  # steps are counted from 1 in curves; the bad one was not taken
    report = json.loads((mixed / ".work" / "pretrain_spike" / f"spike-of-step-{rises[0] - 1}.json").read_text())
    first = (rises[0] - 1) * CONFIG.batch_sequences
    assert [one["number"] for one in report["sequences"]] == list(range(first, first + CONFIG.batch_sequences))
    pieces = [piece for one in report["sequences"] for piece in one["pieces"]]
    assert pieces and all(piece["document"] and piece["source"] and piece["length"] for piece in pieces)
    went_on = Curves()
    skipping = replace(watch, skip_steps=[rises[0] - 1])
    train(mixed, replace(CONFIG, watch=skipping), went_on, "pretrain_spike")
    assert max(went_on.losses) == 11  # a step less, and from the one after the spike other weights
    assert went_on.losses[rises[0]] != quiet.losses[rises[0]]


def test_a_step_beyond_the_schedule_cannot_be_skipped(mixed: Path) -> None:  # noqa: F811
    with pytest.raises(ValueError, match=r"pretrain\.watch\.skip_steps: got 12, wanted steps 0\.\.11"):
        train(mixed, replace(CONFIG, watch=replace(WATCH, skip_steps=[12])), Curves(), "pretrain_beyond")
