"""The pretrain stage over two ranks writes the model that one process writes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.pretrain.model import load
from components.shared.checkpoints import Checkpoints, Keeping
from components.shared.manifest import read_json
from components.shared.strategies import make_strategy
from components.shared.training_config import StrategyKind
from tests.test_pretrain import CONFIG, Curves, mixed, train

__all__ = ["mixed"]
ROOT = Path(__file__).resolve().parents[1]
RANK = """
import os, sys
from dataclasses import replace
from pathlib import Path
from components.shared.places import Inputs, Outputs
from components.shared.training_config import StrategyKind
from components.pretrain.stage import run
from tests.test_pretrain import CONFIG, Curves
root, strategy = Path(sys.argv[1]), StrategyKind[sys.argv[2]]
name = sys.argv[2] if os.environ["RANK"] == "0" else f"{sys.argv[2]}-scratch"
config = replace(CONFIG, trainer=replace(CONFIG.trainer, strategy=strategy))
outputs = Outputs(root=root / "data" / name, work=root / ".work" / sys.argv[2])
outputs.publish(run(config, Inputs(root / "data"), outputs, Curves()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_ranks_write_the_model_that_one_process_writes(mixed: Path, kind: str) -> None:
    one = train(mixed, replace(CONFIG, trainer=replace(CONFIG.trainer, strategy=StrategyKind.auto)), Curves(), "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = mixed / "rank.py"
    script.write_text(RANK)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(script), str(mixed), kind], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = (load(mixed / "data" / name / "model").model for name in (kind, "one"))
    assert ours.config.architectures == theirs.config.architectures == ["LlamaForCausalLM"]
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-3, atol=1e-4)
    metrics, of_rank_1 = (read_json(mixed / "data" / name / "metrics.json") for name in (kind, f"{kind}-scratch"))
    figures = [name for name in one if "loss" in name]
    assert figures and {name: metrics[name] for name in figures} == pytest.approx(
        {n: one[n] for n in figures}, rel=1e-4
    )
    assert {name: metrics[name] for name in figures} == {name: of_rank_1[name] for name in figures}
    assert not list((mixed / "data" / f"{kind}-scratch" / "model").iterdir())


def test_several_ranks_need_a_way_to_share_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(ValueError, match=r"trainer\.strategy: got auto on 8 ranks, wanted ddp or fsdp2"):
        make_strategy(StrategyKind.auto, Checkpoints(tmp_path, Keeping(last=1, every_steps=0)))
