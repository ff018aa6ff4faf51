"""How the processes of a stage are started: in entry's own process, or several ranks through torchrun.

Gates and tracking run once, in entry.py; ranks run only `stage.run`. Rank 0 alone tracks and its folders are published;
what the other ranks write goes to a scratch place below the work folder.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from components.entry import TRANSIENT, StageError, classify
from components.shared.manifest import read_json, remove, write_json
from components.shared.places import Inputs, Outputs
from components.shared.tracking import SilentTracker, SpoolTracker, Tracker


class LauncherKind(Enum):
    """What starts a stage."""

    in_process = "in_process"
    """The process that was asked to."""
    torchrun = "torchrun"
    """num_processes ranks on this machine, through torch.distributed.run."""


@dataclass(kw_only=True)
class LauncherConfig:
    """How a training stage is started; it does not change what the stage reads."""

    kind: LauncherKind
    """in_process or torchrun."""
    num_processes: int
    """Ranks on this machine; one a GPU."""


def launch(
    stage: str, section: Any, overrides: list[str], inputs: Inputs, outputs: Outputs, tracker: SpoolTracker
) -> dict[str, float]:
    """Run a stage as its section's `launcher` says (in this process when it has none) and return its metrics.

    Raises what the stage raises; for ranks a StageError with the kind and line of the rank that failed first.
    """
    launcher: LauncherConfig | None = getattr(section, "launcher", None)
    if launcher is None or launcher.kind is LauncherKind.in_process:
        return importlib.import_module(f"components.{stage}.stage").run(section, inputs, outputs, tracker)
    if launcher.num_processes < 1:
        raise ValueError(f"{stage}.launcher.num_processes: got {launcher.num_processes}, wanted at least 1")
    folder = outputs.work / f"ranks-{uuid.uuid4().hex[:8]}"
    spec = {
        "stage": stage,
        "overrides": overrides,
        "root": str(Path.cwd()),
        "data": str(inputs.data),
        "place": str(outputs.root),
        "work": str(outputs.work),
        "checkpoints": str(outputs.checkpoints),
        "item": outputs.item,
        "token": outputs.token,
        "spool": str(tracker.spool.folder),
        "uri": tracker.spool.uri,
    }
    try:
        write_json(folder / "spec.json", spec)
        _run_ranks(folder, launcher.num_processes)
        result = read_json(folder / "result.json")
    finally:
        remove(folder)
    outputs.made[:] = result["made"]
    inputs.read.update(result["read"])
    tracker.models.update(result["models"])
    tracker.curves.reload()
    return result["metrics"]


def _run_ranks(folder: Path, num_processes: int) -> None:
    """Start torchrun and wait for it. Raises StageError with what the first failing rank said."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    command += ["-m", "components.shared.launcher", str(folder)]
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "TORCHELASTIC_ERROR_FILE": ""}
    process = subprocess.Popen(command, env=environment)
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait(timeout=30)
        raise
    if code == 0 and (folder / "result.json").is_file():
        return
    failures = sorted((read_json(path) for path in folder.glob("failure-*.json")), key=lambda failure: failure["time"])
    if failures:
        raise StageError(failures[0]["kind"], failures[0]["line"])
    raise StageError(TRANSIENT, f"torchrun ended with exit code {code} and no word of its ranks")


def run_rank(folder: Path) -> None:
    """One rank: run the stage and, on rank 0, leave its result for entry.py."""
    import time

    from components.config import load_config
    from components.shared.curves import Curves
    from components.shared.resume import remember
    from components.shared.spool import Spool

    spec = read_json(folder / "spec.json")
    rank = int(os.environ["RANK"])
    work, checkpoints = Path(spec["work"]), Path(spec["checkpoints"])
    place = Path(spec["place"]) if rank == 0 else folder / f"rank-{rank}"
    outputs = Outputs(root=place, work=work, checkpoints=checkpoints, item=spec["item"], token=spec["token"])
    tracker: Tracker = SilentTracker()
    if rank == 0:
        tracker = SpoolTracker(Spool(Path(spec["spool"]), spec["uri"]), Curves(checkpoints, resumed=True))
    try:
        section = getattr(load_config(spec["overrides"], Path(spec["root"])), spec["stage"])
        inputs = Inputs(Path(spec["data"]), remember=partial(remember, checkpoints) if rank == 0 else None)
        metrics = importlib.import_module(f"components.{spec['stage']}.stage").run(section, inputs, outputs, tracker)
    except BaseException as error:
        kind, line = classify(error)
        failure = {"kind": kind, "line": f"rank {rank}: {line}", "time": time.time()}
        write_json(folder / f"failure-{rank}.json", failure)
        raise
    if isinstance(tracker, SpoolTracker):
        result = {"metrics": metrics, "made": outputs.made, "read": inputs.read, "models": tracker.models}
        write_json(folder / "result.json", result)


if __name__ == "__main__":
    run_rank(Path(sys.argv[1]))
