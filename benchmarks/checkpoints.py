"""How long does a checkpoint hold up training, and does training go slower while it is written?

    python -m benchmarks.checkpoints [--hidden 768] [--layers 12] [--saves 3] [--folder runs/checkpoints] [--out FILE]

A Llama with its AdamW state. `torch.save` is what Lightning does by itself: one file, written and synced before the
next step. `ours` copies and goes on (components/shared/checkpoints.py). `held up`: from the call until training goes
on; `on disk`: until the checkpoint is whole; and how long a step takes while it is written, beside one before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from components.shared.checkpoints import Checkpoints, Keeping
from components.shared.manifest import remove

ROWS, LENGTH = 2, 64


class Training:
    """A model, its optimizer and a step of it."""

    def __init__(self, hidden: int, layers: int, device: str) -> None:
        config = LlamaConfig(
            vocab_size=16_384,
            hidden_size=hidden,
            intermediate_size=8 * hidden // 3,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 64,
            tie_word_embeddings=True,
        )
        self.model = LlamaForCausalLM(config).to(torch.device(device))  # type: ignore[arg-type]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.ids = torch.randint(0, 16_384, (ROWS, LENGTH), device=device)

    def step(self) -> float:
        """Seconds of one step."""
        started = time.perf_counter()
        self.model(input_ids=self.ids, labels=self.ids).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ids.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights and the optimizer's state, by name."""
        state = self.optimizer.state_dict()["state"]
        moments = {f"optimizer/{n}/{key}": value for n, kept in state.items() for key, value in kept.items()}
        return {f"model/{name}": value for name, value in self.model.state_dict().items()} | moments


def at_once(training: Training, folder: Path, saves: int) -> list[dict[str, float]]:
    """torch.save into one file, synced."""
    rows = []
    for _ in range(saves):
        training.step()
        started = time.perf_counter()
        with (folder / "last.ckpt").open("wb") as stream:
            torch.save(training.tensors(), stream)
            stream.flush()
            os.fsync(stream.fileno())
        held = time.perf_counter() - started
        rows.append({"held_s": held, "on_disk_s": held})
    remove(folder / "last.ckpt")
    return rows


def meanwhile(training: Training, folder: Path, saves: int) -> list[dict[str, float]]:
    """Ours, with steps until it is on disk."""
    checkpoints = Checkpoints(folder, Keeping(last=1, every_steps=0))
    checkpoints.open()
    rows = []
    for number in range(saves):
        alone = statistics.median(training.step() for _ in range(5))
        started = time.perf_counter()
        checkpoints.save(number, training.tensors(), {})
        held = time.perf_counter() - started
        steps = []
        while not checkpoints.path(number).is_dir():
            steps.append(training.step())
            checkpoints.check()
        on_disk = time.perf_counter() - started
        rows.append({"held_s": held, "on_disk_s": on_disk, "step_s": alone, "step_meanwhile_s": statistics.mean(steps)})
    checkpoints.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=768, help="a multiple of 64")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--folder", type=Path, default=Path("runs/checkpoints"), help="on the disk that is measured")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    training = Training(options.hidden, options.layers, "cuda" if torch.cuda.is_available() else "cpu")
    training.step()
    size = sum(value.nbytes for value in training.tensors().values())
    parameters = sum(value.numel() for value in training.model.parameters())
    print(f"{parameters / 1e6:.0f}M parameters, {size / 1e9:.2f} GB, {training.ids.device}, {options.threads} threads")
    result: dict[str, Any] = {"parameters": parameters, "bytes": size, "device": str(training.ids.device)}
    for name, way in (("torch.save", at_once), ("ours", meanwhile)):
        result[name] = way(training, options.folder, options.saves)
        for number, row in enumerate(result[name]):
            line = f"{name:11s} save {number + 1}: held up {row['held_s']:6.2f} s, on disk {row['on_disk_s']:6.2f} s"
            if "step_s" in row:
                line += f", a step {row['step_meanwhile_s']:.2f} s instead of {row['step_s']:.2f} s"
            print(line)
    remove(options.folder)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
