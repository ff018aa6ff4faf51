"""How fast does the stage tokenize turn a corpus into tokens, and does its memory stay within 4 GB?

    python -m benchmarks.tokenize [--hours 10] [--workers 2] [--executor local | ray] [--dtype float32] [--out t.json]

The corpus: FLAC files of noise of 1 to 30 s, DISTINCT of them under as many names as the hours need. Each is read and
decoded; that it lies in the page cache is what a fast disk would give. The model has the shape of whisper-base with
random weights, which neither speed nor memory feels. A child process runs the stage's own code over it; the resident
memory of that process and all of its children is added up every 50 ms: a page that two of them share counts twice.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.encode import random_tokenizer
from components.shared.audio import WHISPER_RATE_HZ, write_flac
from components.shared.contracts import Utterance
from components.shared.executor import ExecutorConfig, ExecutorKind
from components.shared.manifest import seal, write_table
from components.shared.places import Inputs, Outputs
from components.shared.tracking import TerminalTracker
from components.speech_tokenizer import checkpoint
from components.tokenize import stage
from components.tokenize.config import Dtype, TokenizeConfig

DISTINCT = 60
"""Files of their own; all others are hard links to them."""
GOAL_GB = 4.0
"""Peak resident memory of 10 h."""
SAMPLED_S = 0.05


def make_corpus(folder: Path, hours: float) -> float:
    """A table of noise with the loudness of speech coming and going, four times a second; returns its seconds."""
    rng = np.random.default_rng(0)
    durations = np.linspace(1.0, 30.0, DISTINCT).round(2)
    (folder / "audio").mkdir(parents=True)
    rows: list[Utterance] = []
    seconds = 0.0
    while seconds < 3600 * hours:
        number = int(rng.integers(DISTINCT))
        duration_s, first = float(durations[number]), folder.parent / f"noise-{number}.flac"
        if not first.exists():
            times = np.arange(int(duration_s * WHISPER_RATE_HZ)) / WHISPER_RATE_HZ
            loudness = 0.1 * np.square(np.sin(4 * np.pi * times))
            write_flac(first, (loudness * rng.normal(size=len(times))).astype(np.float32), WHISPER_RATE_HZ)
        name = f"u{len(rows):06d}"
        os.link(first, folder / "audio" / f"{name}.flac")
        rows.append(
            Utterance(
                id=name,
                audio=f"audio/{name}.flac",
                duration_s=duration_s,
                sample_rate_hz=WHISPER_RATE_HZ,
                bandwidth_hz=WHISPER_RATE_HZ / 2,
                text=None,
                text_source="none",
                language="en",
                speaker="noise",
                corpus="noise",
                license="CC0-1.0",
                split="train",
                origin="synthesized",
                rms_dbfs=-24.0,
            )
        )
        seconds += duration_s
    write_table(folder, rows, Utterance)
    return seconds


def make_data(data: Path, hours: float) -> float:
    """What the stage reads: the corpus and a random model of whisper-base's shape; returns the corpus's seconds."""
    seconds = make_corpus(data / "collect" / "utterances", hours)
    tokenizer = random_tokenizer("base", torch.device("cpu"), torch.float32)
    model = data / "speech_tokenizer" / "model"
    checkpoint.write(tokenizer.network, model, None)
    seal(model, extra={"num_codes": tokenizer.num_codes, "tokens_per_s": tokenizer.tokens_per_s})
    return seconds


def run_stage(data: Path, options: argparse.Namespace) -> None:
    """The stage itself, in the child process."""
    config = TokenizeConfig(
        seed=0,
        utterances_per_shard=options.shard,
        dtype=Dtype[options.dtype],
        threads_per_worker=1,
        readers_per_worker=options.readers,
        executor=ExecutorConfig(kind=ExecutorKind[options.executor], num_workers=options.workers),
    )
    outputs = Outputs(root=data / "tokenize", work=data.parent / "work")
    outputs.publish(stage.run(config, Inputs(data), outputs, TerminalTracker()))


def watch(command: list[str]) -> tuple[float, int]:
    """Run a command; returns its seconds and the peak of bytes resident in it and all of its children together.

    Raises CalledProcessError when it fails.
    """
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen(command)
    root = psutil.Process(process.pid)
    while process.poll() is None:
        resident = 0
        try:
            for one in [root, *root.children(recursive=True)]:
                resident += one.memory_info().rss
        except psutil.NoSuchProcess:  # one of them has just ended: the next look sees the rest
            continue
        peak = max(peak, resident)
        time.sleep(SAMPLED_S)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - started, peak


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Make the corpus, run the stage over it in a child process, and say what it took."""
    with tempfile.TemporaryDirectory(prefix="speechloom-tokenize-") as place:
        data = Path(place) / "data"
        audio_s = make_data(data, options.hours)
        command = [sys.executable, "-m", "benchmarks.tokenize", *sys.argv[1:], "--stage", str(data)]
        seconds, peak = watch(command)
        figures = json.loads((data / "tokenize" / "metrics.json").read_text())
    return {
        "hours": audio_s / 3600,
        "seconds": seconds,
        "hours_per_hour": audio_s / seconds,
        "tokens_per_s": figures["tokens"] / seconds,
        "peak_gb": peak / 1e9,
        "goal_gb": GOAL_GB,
        "within_goal": peak / 1e9 <= GOAL_GB,
        "executor": options.executor,
        "workers": options.workers,
        "dtype": options.dtype,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--executor", choices=[kind.value for kind in ExecutorKind], default="local")
    parser.add_argument("--dtype", choices=[dtype.value for dtype in Dtype], default="float32")
    parser.add_argument("--shard", type=int, default=64, help="utterances of one shard")
    parser.add_argument("--readers", type=int, default=1, help="reading threads of each worker")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--stage", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        run_stage(options.stage, options)
        return
    row = measure(options)
    print(f"{row['hours']:.2f} h, whisper-base, {row['dtype']}, {row['device']}, from the start of Python to its end")
    print(
        f"{'executor':9s}{'workers':>8s}{'seconds':>9s}{'hours/hour':>12s}{'tokens/s':>10s}{'peak GB':>9s}{'goal':>6s}"
    )
    print(
        f"{row['executor']:9s}{row['workers']:8d}{row['seconds']:9.1f}{row['hours_per_hour']:12.0f}"
        f"{row['tokens_per_s']:10.0f}{row['peak_gb']:9.2f}{row['goal_gb']:6.1f}"
    )
    if options.out:
        options.out.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
