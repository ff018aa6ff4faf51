"""pretrain: the model learns and is read back, a kill costs nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.mix.stage import run as run_mix
from components.pretrain.config import PretrainConfig
from components.pretrain.model import load
from components.pretrain.stage import run
from components.shared.lm_config import ComputeConfig, Kept, LmShapeConfig, OptimizerConfig, OptimizerKind
from components.shared.loader_config import LabelsConfig, Learnt, LoaderConfig, Verify
from components.shared.loss_guard import WatchConfig
from components.shared.places import Inputs
from components.shared.tracking import TerminalTracker
from components.shared.training_config import StrategyKind, TrainerConfig
from tests.launchers import IN_PROCESS
from tests.speech_rows import NUM_CODES, places, write_world
from tests.test_mix import CONFIG as MIX

SHAPE = LmShapeConfig(
    hidden_size=32,
    feed_forward_size=64,
    num_layers=2,
    num_heads=2,
    num_key_value_heads=1,
    rope_theta=10000.0,
    init_std=0.05,
    tied=True,
    pad_vocabulary_to=64,
)
CONFIG = PretrainConfig(
    seed=17,
    base="",
    shape=SHAPE,
    batch_sequences=4,
    attend_across=False,
    labels=LabelsConfig(
        text=Learnt.all, speech=Learnt.all, asr=Learnt.all, tts=Learnt.all, interleaved=Learnt.all, filler=Learnt.all
    ),
    loader=LoaderConfig(num_workers=0, verify=Verify.hashes, cache="", cache_gb=1.0, prefetch_sequences=0),
    loss_chunk=50,
    compute=ComputeConfig(compile=False, kept=Kept.everything),
    optimizer=OptimizerConfig(
        kind=OptimizerKind.adamw,
        peak_lr=3e-3,
        final_lr=3e-4,
        warmup_steps=3,
        weight_decay=0.1,
        beta1=0.9,
        beta2=0.95,
    ),
    trainer=TrainerConfig(
        num_steps=12,
        precision="32-true",
        gradient_clip=1.0,
        accumulate_batches=1,
        log_every_steps=1,
        validate_every_steps=100,
        checkpoint_every_steps=5,
        keep_last=1,
        keep_every_steps=0,
        resume_from="",
        strategy=StrategyKind.auto,
    ),
    watch=WatchConfig(spike_nats=0.0, memory_steps=1, skip_steps=[]),
    num_threads=1,
    launcher=IN_PROCESS,
)


class Curves(TerminalTracker):
    """Keeps what was logged, and can die in the middle of a run."""

    def __init__(self, die_after: int | None = None) -> None:
        self.losses: dict[int, float] = {}
        self.die_after = die_after

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if step is not None and "loss" in metrics:
            self.losses[step] = metrics["loss"]
            if step == self.die_after:
                os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pretrain")
    write_world(root / "data")
    inputs, outputs = places(root, "mix")
    outputs.publish(run_mix(MIX, inputs, outputs, TerminalTracker()))
    return root


def train(root: Path, config: PretrainConfig, tracker: Curves, name: str) -> dict[str, float]:
    _, outputs = places(root, name)
    metrics = run(config, Inputs(root / "data"), outputs, tracker)
    outputs.publish(metrics)
    return metrics


def test_the_model_learns_and_is_read_back(mixed: Path) -> None:
    tracker = Curves()
    metrics = train(mixed, replace(CONFIG, trainer=replace(CONFIG.trainer, num_steps=0)), tracker, "pretrain")
    assert tracker.losses[max(tracker.losses)] < tracker.losses[1] - 1
    assert {"validation_loss_text", "validation_loss_speech", "validation_loss_interleaved_source"} <= set(metrics)
    lm = load(mixed / "data" / "pretrain" / "model")
    assert lm.vocabulary.num_codes == NUM_CODES
    ids = torch.tensor([lm.formats.context("What pet does Anna have?")])
    assert lm.model(ids).logits.shape[-1] % 64 == 0


def test_more_steps_than_the_schedule_are_refused(mixed: Path) -> None:
    config = replace(CONFIG, trainer=replace(CONFIG.trainer, num_steps=10_000))
    with pytest.raises(ValueError, match=r"pretrain\.trainer\.num_steps: got 10000"):
        train(mixed, config, Curves(), "pretrain_too_long")


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_undisturbed(mixed: Path) -> None:
    undisturbed = Curves()
    train(mixed, CONFIG, undisturbed, "pretrain_whole")
    killer = (
        "from pathlib import Path; from tests.test_pretrain import CONFIG, Curves, train;"
        f"train(Path({str(mixed)!r}), CONFIG, Curves(die_after=8), 'pretrain_killed')"
    )
    done = subprocess.run([sys.executable, "-c", killer], cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == -signal.SIGKILL
    resumed = Curves()
    train(mixed, CONFIG, resumed, "pretrain_killed")
    assert min(resumed.losses) == 6  # the checkpoint of step 5 was the last whole one
    assert {step: undisturbed.losses[step] for step in resumed.losses} == resumed.losses
    weights = [
        load(mixed / "data" / name / "model").model.state_dict() for name in ("pretrain_whole", "pretrain_killed")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_shard_that_changed_since_it_was_planned_is_refused(mixed: Path, tmp_path: Path) -> None:
    shutil.copytree(mixed / "data", tmp_path / "data")
    path = tmp_path / "data" / "mix" / "shards" / "text-00000.bin"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.unlink()  # it may be another name of a file in the work folder
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"text-00000\.bin: got sha256 [0-9a-f]{64}, wanted [0-9a-f]{64}"):
        train(tmp_path, CONFIG, Curves(), "pretrain")
