"""What belongs to the identity of a run, and what may change while it goes on."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from components.config import load_config
from components.shared.identity import bound, differences

ROOT = Path(__file__).resolve().parents[1]


def settings(*overrides: str) -> Any:
    return bound(load_config(["scale=smoke", *overrides], ROOT).pretrain)


@pytest.mark.parametrize(
    "override",
    [
        "launcher.num_processes=64",
        "launcher.kind=torchrun",
        "num_threads=3",
        "loss_chunk=7",
        "compute.compile=true",
        "trainer.strategy=fsdp2",
        "trainer.log_every_steps=9",
        "trainer.validate_every_steps=9",
        "trainer.checkpoint_every_steps=9",
        "trainer.keep_last=9",
        "trainer.keep_every_steps=9",
        "trainer.resume_from=somewhere",
    ],
)
def test_how_a_run_is_carried_out_may_change_while_it_goes_on(override: str) -> None:
    assert settings(f"pretrain.{override}") == settings()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optimizer.peak_lr=1.0", "optimizer.peak_lr was 0.002 and is 1.0"),
        ("trainer.num_steps=7", "trainer.num_steps was 0 and is 7"),
        ("trainer.precision=bf16-mixed", "trainer.precision was 32-true and is bf16-mixed"),
        ("optimizer.kind=muon", "optimizer.kind was adamw and is muon"),
        ("batch_sequences=8", "batch_sequences was 16 and is 8"),
        ("seed=3", "seed was 17 and is 3"),
    ],
)
def test_what_a_run_learns_may_not(override: str, told: str) -> None:
    assert differences(settings(), settings(f"pretrain.{override}")) == [told]


def test_a_setting_that_came_or_went_is_a_difference() -> None:
    assert differences({"a": 1}, {"b": {"c": 2}}) == ["a was 1 and is not there", "b was not there and is {'c': 2}"]


def test_every_way_of_starting_and_spreading_is_free() -> None:
    """A room that gets a launcher, an executor or a number of threads must not tie its checkpoints to it."""

    def visit(section: Any, name: str) -> None:
        for field in fields(section) if is_dataclass(section) else []:
            if field.metadata.get("free"):
                continue
            spreads = field.name in ("launcher", "executor", "num_threads", "num_workers", "num_loaders")
            assert not spreads, f"{name}.{field.name}"
            visit(getattr(section, field.name), f"{name}.{field.name}")

    config = load_config(["scale=smoke"], ROOT)
    for field in fields(config):
        visit(getattr(config, field.name), field.name)
