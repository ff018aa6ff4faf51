"""The ranks of a stage: what they are told, how torchrun starts them, and what they leave for who waits for them.

    python -m components.shared.ranks FOLDER      one rank; torchrun starts it

A folder .work/<stage>/ranks-<key>/ holds spec.json (what to run), afterwards result.json and the finished outs in
made/, or failure-<rank>.json; spool.json names the tracking run that watches, which may change while a job runs.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from components.entry import StageError, classify
from components.shared.manifest import read_json, read_manifest, remove, write_json
from components.shared.places import Inputs, Outputs
from components.shared.spool import Spool, store_uri
from components.shared.tracking import SilentTracker, SpoolTracker, Tracker

SPEC, RESULT, SPOOL, MADE = "spec.json", "result.json", "spool.json", "made"


def prepare(folder: Path, stage: str, overrides: list[str], inputs: Inputs, outputs: Outputs) -> None:
    """A new folder that tells the ranks what to run. Nothing secret is written: addresses stay in the environment."""
    remove(folder)
    spec = {
        "stage": stage,
        "overrides": overrides,
        "root": str(Path.cwd()),
        "data": str(inputs.data.resolve()),
        "work": str(outputs.work.resolve()),
        "checkpoints": str(outputs.checkpoints.resolve()),
        "item": outputs.item,
    }
    write_json(folder / SPEC, spec)


def watched_by(folder: Path, spool: Spool) -> None:
    """From now on rank 0 tracks into this run."""
    write_json(folder / SPOOL, {"folder": str(spool.folder.resolve())})


def torchrun(folder: Path, num_processes: int, rendezvous: list[str]) -> list[str]:
    """The command that starts the ranks of one machine; rendezvous: torchrun's options of how machines meet."""
    command = [sys.executable, "-m", "torch.distributed.run", *rendezvous, f"--nproc-per-node={num_processes}"]
    return [*command, "-m", "components.shared.ranks", str(folder)]


def meeting_place(num_nodes: int, endpoint: str, name: str) -> list[str]:
    """torchrun's options of several machines: they meet at endpoint (host:port, on the first machine)."""
    return [f"--nnodes={num_nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", f"--rdzv-id={name}"]


def failure(folder: Path) -> StageError | None:
    """What the rank that failed first said, or None when none did."""
    failures = sorted((read_json(path) for path in folder.glob("failure-*.json")), key=lambda failure: failure["time"])
    return StageError(failures[0]["kind"], failures[0]["line"]) if failures else None


def collect(folder: Path, inputs: Inputs, outputs: Outputs, tracker: SpoolTracker) -> dict[str, float]:
    """Take over what rank 0 has made and return its metrics.

    Raises ValueError when an input is no longer what rank 0 has read: the result would be filed under the wrong data.
    """
    result = read_json(folder / RESULT)
    for name, content_hash in result["read"].items():
        if read_manifest(inputs.data / name).content_hash != content_hash:
            raise ValueError(f"{inputs.data / name}: changed since the ranks read it; start again")
    for name in result["made"]:
        target = outputs.partial / name
        target.parent.mkdir(parents=True, exist_ok=True)
        remove(target)
        shutil.move(_places(folder, 0, outputs.work, outputs.checkpoints, outputs.item).partial / name, target)
    outputs.made[:] = result["made"]
    inputs.read.update(result["read"])
    tracker.models.update(result["models"])
    tracker.curves.reload()
    return result["metrics"]


def _places(folder: Path, rank: int, work: Path, checkpoints: Path, item: str) -> Outputs:
    """Where a rank writes: below the folder, so that nobody's end takes it away; only rank 0's is looked at."""
    return Outputs(root=folder / MADE, work=work, checkpoints=checkpoints, item=item, token=f"rank-{rank}")


class _WatchedTracker(SpoolTracker):
    """Rank 0's tracker: records go to the run that watches now, since who takes up a job again has a run of its own."""

    def __init__(self, folder: Path, uri: str, checkpoints: Path) -> None:
        from components.shared.curves import Curves

        self.pointer = folder / SPOOL
        super().__init__(Spool(Path(read_json(self.pointer)["folder"]), uri), Curves(checkpoints, resumed=True))

    def _follow(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # a shared disk that hesitates: the run before is good enough
            self.spool.folder = Path(read_json(self.pointer)["folder"])

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Numbers, on a step axis when step is given."""
        self._follow()
        super().log_metrics(metrics, step)

    def say(self, line: str) -> None:
        """Print the line and keep it in the run's log.txt."""
        self._follow()
        super().say(line)


def run_rank(folder: Path) -> None:
    """One rank: run the stage and, on rank 0, leave its result."""
    from components.config import load_config
    from components.shared.resume import remember

    spec = read_json(folder / SPEC)
    rank = int(os.environ["RANK"])
    root, work, checkpoints = Path(spec["root"]), Path(spec["work"]), Path(spec["checkpoints"])
    outputs = _places(folder, rank, work, checkpoints, spec["item"])
    tracker: Tracker = _WatchedTracker(folder, store_uri(root), checkpoints) if rank == 0 else SilentTracker()
    try:
        section: Any = getattr(load_config(spec["overrides"], root), spec["stage"])
        inputs = Inputs(Path(spec["data"]), remember=partial(remember, checkpoints) if rank == 0 else None)
        metrics = importlib.import_module(f"components.{spec['stage']}.stage").run(section, inputs, outputs, tracker)
    except BaseException as error:
        kind, line = classify(error)
        said = {"kind": kind, "line": f"rank {rank}: {line}", "time": time.time()}
        write_json(folder / f"failure-{rank}.json", said)
        raise
    if isinstance(tracker, SpoolTracker):
        result = {"metrics": metrics, "made": outputs.made, "read": inputs.read, "models": tracker.models}
        write_json(folder / RESULT, result)


if __name__ == "__main__":
    run_rank(Path(sys.argv[1]))
