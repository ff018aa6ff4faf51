"""Small trainings for the tests of checkpoints: a language model on packed random documents, one process or two ranks.

python -m tests.training_runs FOLDER KEY=VALUE ...      (through torchrun for two ranks)
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.shared.lm_config import LmShapeConfig, OptimizerConfig, OptimizerKind
from components.shared.lm_module import LanguageModelModule
from components.shared.packing import Piece, collate, pack
from components.shared.speech_lm import random_model
from components.shared.strategies import num_ranks, rank, whole_state
from components.shared.tokens import Vocabulary, add_speech, train_bpe
from components.shared.tracking import TerminalTracker
from components.shared.training import fit
from components.shared.training_config import StrategyKind, TrainerConfig

ROOT = Path(__file__).resolve().parents[1]
LENGTH, SEQUENCES, NUM_STEPS = 48, 4, 12
VOCABULARY = Vocabulary.of(add_speech(train_bpe(["a cat"], 256), 16), 16)


def shape(hidden_size: int) -> LmShapeConfig:
    """A Llama of two layers."""
    return LmShapeConfig(
        hidden_size=hidden_size,
        feed_forward_size=2 * hidden_size,
        num_layers=2,
        num_heads=2,
        num_key_value_heads=1,
        rope_theta=10000.0,
        init_std=0.05,
        tied=True,
        pad_vocabulary_to=64,
    )


def settings(**changes: Any) -> TrainerConfig:
    """A short training that saves every fourth step and validates every sixth."""
    values: dict[str, Any] = {
        "num_steps": NUM_STEPS,
        "precision": "32-true",
        "gradient_clip": 0.5,
        "accumulate_batches": 1,
        "log_every_steps": 1,
        "validate_every_steps": 6,
        "checkpoint_every_steps": 4,
        "keep_last": 2,
        "keep_every_steps": 0,
        "resume_from": "",
        "strategy": StrategyKind.auto,
    }
    return TrainerConfig(**{**values, **changes})


@dataclass
class Documents:
    """Batches of random documents of unequal numbers of labels; the state is the number of the next batch."""

    num_batches: int
    seed: int
    position: int = 0

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Any:
        share = SEQUENCES // num_ranks()
        if self.position >= self.num_batches:
            self.position = 0
        while self.position < self.num_batches:
            number = self.position
            first = number * SEQUENCES + rank() * share
            self.position += 1
            yield {**collate([self._sequence(n) for n in range(first, first + share)]), "number": number}

    def _sequence(self, number: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self.seed, number])
        pieces = [
            Piece(rng.integers(0, 20, length).astype(np.uint32), 0)
            for length in (10, int(rng.integers(5, LENGTH - 10)))
        ]
        return pack(pieces, LENGTH, VOCABULARY.pad, attend_across=False)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class Noisy(LanguageModelModule):
    """Draws from every global generator, so that a resume that loses one of them shows in the curve."""

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        noise = float(torch.rand(())) + float(np.random.rand()) + random.random()
        loss = super().training_step(batch, batch_idx)
        return loss * (1 + 0.1 * noise / num_ranks()) if self.noisy else loss


class Kept(TerminalTracker):
    """Keeps what was logged in a file of lines, and can be killed or told to end at a step."""

    def __init__(self, path: Path, kill_at: int = -1, end_at: int = -1) -> None:
        self.path, self.kill_at, self.end_at = path, kill_at, end_at

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        kept = {name: value for name, value in metrics.items() if name not in ("tokens_per_s", "mfu")}
        with self.path.open("a") as stream:
            stream.write(json.dumps([step, kept]) + "\n")
        if step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self.end_at:
            os.kill(os.getpid(), signal.SIGTERM)


def train(
    folder: Path,
    *,
    noisy: bool = True,
    hidden_size: int = 32,
    kind: str = "adamw",
    kill_at: int = -1,
    kill_in_save: int = -1,
    end_at: int = -1,
    **changes: Any,
) -> dict[str, float]:
    """Train into a folder: curve-<rank>.jsonl, weights.pt of rank 0, checkpoints/."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(5 + rank())
    np.random.seed(6 + rank())
    random.seed(7 + rank())
    config = settings(**changes)
    optimizer = OptimizerConfig(
        kind=OptimizerKind[kind],
        peak_lr=3e-3,
        final_lr=3e-4,
        warmup_steps=3,
        weight_decay=0.1,
        beta1=0.9,
        beta2=0.95,
    )
    model = random_model(shape(hidden_size), VOCABULARY, 4 * LENGTH, seed=1)
    module = Noisy(model, VOCABULARY, optimizer, num_steps=config.num_steps, sources=["a"], chunk=50, log_every_steps=1)
    module.noisy = noisy
    if kill_in_save >= 0 and rank() == 0:
        threading.Thread(target=kill_in, args=(folder / "checkpoints", kill_in_save), daemon=True).start()
    metrics = fit(
        module,
        Documents(config.num_steps * config.accumulate_batches, seed=1),
        Documents(2, seed=2),
        config,
        tracker=Kept(folder / f"curve-{rank()}.jsonl", kill_at, end_at),
        checkpoints=folder / "checkpoints",
        what="t",
    )
    state = whole_state(model)
    if rank() == 0:
        torch.save(state, folder / "weights.pt")
    (folder / f"metrics-{rank()}.json").write_text(json.dumps(metrics))
    return metrics


def kill_in(checkpoints: Path, step: int) -> None:
    """Die as soon as a checkpoint of that step, or a later one, is being written."""
    while not any(int(path.name.split(".")[1][5:]) >= step for path in checkpoints.glob(".step-*.unfinished")):
        time.sleep(0.0002)
    os.kill(os.getpid(), signal.SIGKILL)


def start(folder: Path, ranks: int, **changes: Any) -> subprocess.CompletedProcess[str]:
    """The same in processes of its own; returns how they ended."""
    arguments = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *torchrun, "-m", "tests.training_runs", str(folder), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)


def curve(folder: Path, number: int = 0) -> dict[int, dict[str, float]]:
    """What a rank logged at every step; what was logged again replaces what was there."""
    points: dict[int, dict[str, float]] = {}
    for line in (folder / f"curve-{number}.jsonl").read_text().splitlines():
        step, values = json.loads(line)
        points[step] = {**points.get(step, {}), **values}
    return points


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The final weights."""
    return torch.load(folder / "weights.pt", weights_only=True)


def finished(folder: Path) -> list[str]:
    """Names of the finished checkpoints."""
    return sorted(path.name for path in (folder / "checkpoints").glob("step-*"))


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[2:])
    values = {key: json.loads(value) for key, value in given.items()}
    if "strategy" in values:
        values["strategy"] = StrategyKind[values["strategy"]]
    try:
        train(Path(sys.argv[1]), **values)
    except (ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        time.sleep(0.5)
        sys.exit(2)
