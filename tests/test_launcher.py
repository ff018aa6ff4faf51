"""A stage on two ranks: one model, tracked and published once, and a failing rank gives its line to the stage."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from components.shared.launcher_config import LauncherKind
from components.shared.manifest import read_json
from tests.launchers import IN_PROCESS, as_yaml, write_project

CONFIG = '''
"""Settings."""
from __future__ import annotations

from dataclasses import dataclass

from components.shared.launcher import LauncherConfig


@dataclass(kw_only=True)
class TokenizeConfig:
    """Section tokenize."""

    seed: int
    fail: bool
    launcher: LauncherConfig
'''

STAGE = '''
"""Fit a line on two ranks."""
import os

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

from components.shared.manifest import seal
from components.shared.training import fit
from components.shared.training_config import StrategyKind, TrainerConfig


class Line(lightning.LightningModule):
    """y = 3x."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, index):
        loss = ((self.weight * batch[0] - 3 * batch[0]) ** 2).mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


def run(config, inputs, outputs, tracker):
    rank = int(os.environ.get("RANK", 0))
    if config.fail and rank == 1:
        raise ValueError("row 7: got 1, wanted 2")
    torch.manual_seed(config.seed)
    data = DataLoader(TensorDataset(torch.linspace(-1, 1, 64)), batch_size=8)
    settings = TrainerConfig(num_steps=20, precision="32-true", gradient_clip=0.0, accumulate_batches=1,
                             log_every_steps=5, validate_every_steps=20, checkpoint_every_steps=100,
                             keep_last=1, keep_every_steps=0, resume_from="", strategy=StrategyKind.ddp)
    module = Line()
    fit(module, data, None, settings, tracker=tracker, checkpoints=outputs.checkpoints, what="line")
    size = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    folder = outputs.folder("tokens")
    (folder / "weight.txt").write_text(f"{float(module.weight):.4f} by rank {rank}")
    seal(folder)
    outputs.write_stats(shards=[{"world_size": size}], rows=[])
    tracker.say("fitted")
    return {"world_size": float(size), "weight": float(module.weight)}
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The code with another story in the place of `tokenize`."""
    launcher = as_yaml(replace(IN_PROCESS, kind=LauncherKind.torchrun, num_processes=2))
    write_project(tmp_path, CONFIG, STAGE, {"seed": 3, "fail": False, "launcher": launcher})
    return tmp_path


def tokenize(project: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "components.tokenize", "--publish", *overrides]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_two_ranks_train_one_model_and_rank_0_alone_is_seen(project: Path) -> None:
    done = tokenize(project)
    assert done.returncode == 0, done.stderr
    data = project / "data" / "tokenize"
    metrics = read_json(data / "metrics.json")
    assert metrics["world_size"] == 2.0 and metrics["weight"] == pytest.approx(3.0, abs=0.05)
    assert (data / "tokens" / "weight.txt").read_text().endswith("by rank 0")
    assert sorted(path.name for path in data.iterdir()) == ["curves.json", "metrics.json", "stats.parquet", "tokens"]
    assert [step for step, _ in read_json(data / "curves.json")["loss"]] == [5, 10, 15, 20]
    assert done.stdout.count("fitted") == 1
    assert not list((project / ".work" / "tokenize").glob("ranks-*"))


@pytest.mark.slow
def test_ranks_and_one_process_write_the_same_kind_of_thing(project: Path) -> None:
    done = tokenize(project, "tokenize.launcher.kind=in_process")
    assert done.returncode == 0, done.stderr
    assert read_json(project / "data" / "tokenize" / "metrics.json")["world_size"] == 1.0


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_stage_with_its_line(project: Path) -> None:
    done = tokenize(project, "tokenize.fail=true")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == "tokenize: rank 1: row 7: got 1, wanted 2"
    assert read_json(project / ".work" / "tokenize" / "status.json")["kind"] == "user"
    assert list((project / "data" / "tokenize").iterdir()) == []
