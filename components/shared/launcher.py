"""How the processes of a stage are started: in entry's own process, several ranks through torchrun, or a Slurm job.

    python -m components.shared.launcher STAGE [--item NAME] [key=value ...]      prints it and starts nothing

Gates and tracking run once, in entry.py; ranks run only `stage.run` (ranks.py). Rank 0 alone tracks, and what it made
is published. A Slurm job outlives who waits for it: the same stage started again finds it by its name and waits on.
"""

from __future__ import annotations

import argparse
import importlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from components.entry import TRANSIENT, StageError
from components.shared import ranks, slurm
from components.shared.launcher_config import LauncherConfig, LauncherKind, SlurmConfig
from components.shared.manifest import hash_of, read_json, remove, write_json
from components.shared.places import Inputs, Outputs
from components.shared.resume import run_name
from components.shared.tracking import SpoolTracker

__all__ = ["LauncherConfig", "LauncherKind", "SlurmConfig", "attached", "launch"]

PREFIX = "ranks-"
SETTLE_S = 30.0
"""How long a shared disk may take to show what another machine has written."""
JOIN_S = 3600
"""How long torchrun waits for the machines on which its command is given by hand."""


def launch(
    stage: str, section: Any, overrides: list[str], inputs: Inputs, outputs: Outputs, tracker: SpoolTracker
) -> dict[str, float]:
    """Run a stage as its section's `launcher` says (in this process when it has none) and return its metrics.

    Raises what the stage raises; for ranks a StageError with the kind and line of the rank that failed first.
    """
    launcher: LauncherConfig | None = getattr(section, "launcher", None)
    if launcher is None or launcher.kind is LauncherKind.in_process:
        return importlib.import_module(f"components.{stage}.stage").run(section, inputs, outputs, tracker)
    _check(stage, launcher)
    folder = _folder(stage, section, outputs.work, outputs.item)
    if launcher.kind is LauncherKind.slurm:
        return _through_slurm(stage, launcher, folder, overrides, inputs, outputs, tracker)
    try:
        ranks.prepare(folder, stage, overrides, inputs, outputs)
        ranks.watched_by(folder, tracker.spool)
        _run_ranks(folder, launcher, tracker)
        return ranks.collect(folder, inputs, outputs, tracker)
    finally:
        remove(folder)


def attached(stage: str, section: Any, work: Path, item: str) -> bool:
    """Whether a Slurm job of this very run is under way or has left its result: checkpoints and curves are its own.

    work: the stage's folder in .work. Asked before anything in it is touched.
    Raises ValueError when a job of other settings or code works in the same folder.
    """
    launcher: LauncherConfig | None = getattr(section, "launcher", None)
    own = None
    if launcher is not None and launcher.kind is LauncherKind.slurm:
        _check(stage, launcher)
        own = _folder(stage, section, work, item)
    for folder in work.resolve().glob(f"{PREFIX}*"):
        if (folder / slurm.SCRIPT).is_file() and folder != own:
            number = slurm.find(_name(stage, folder))
            if number is not None:
                raise ValueError(
                    f"{work}: Slurm job {number} of other settings, code or launcher works here; wait until it "
                    f"has ended, or end it with `scancel {number}`"
                )
    return own is not None and _job(stage, own) is not None


def _check(stage: str, launcher: LauncherConfig) -> None:
    for name in ("num_processes", "num_nodes"):
        if getattr(launcher, name) < 1:
            raise ValueError(f"{stage}.launcher.{name}: got {getattr(launcher, name)}, wanted at least 1")


def _folder(stage: str, section: Any, work: Path, item: str) -> Path:
    """The ranks' folder, named by the work: the place, the item, the settings and the code.

    Inputs are not part of the name: what rank 0 has read is compared when its result is taken over.
    """
    key = hash_of([stage, item, str(work.resolve()), run_name(stage, section)])[:12]
    return work.resolve() / f"{PREFIX}{key}"


def _name(stage: str, folder: Path) -> str:
    """A job's name: two folders never share one."""
    return f"speechloom-{stage}-{folder.name.removeprefix(PREFIX)}"


# torchrun


def _torchrun(folder: Path, launcher: LauncherConfig) -> list[str]:
    """The command of every machine."""
    rendezvous = ["--standalone"]
    if launcher.num_nodes > 1:
        key = folder.name.removeprefix(PREFIX)
        endpoint = f"{socket.gethostname()}:{slurm.FIRST_PORT + int(key, 16) % slurm.NUM_PORTS}"
        rendezvous = [
            *ranks.meeting_place(launcher.num_nodes, endpoint, key),
            f"--rdzv-conf=join_timeout={JOIN_S}",
        ]
    return ranks.torchrun(folder, launcher.num_processes, rendezvous)


def _run_ranks(folder: Path, launcher: LauncherConfig, tracker: SpoolTracker) -> None:
    """Start torchrun and wait for it. Raises StageError with what the first failing rank said."""
    command = _torchrun(folder, launcher)
    if launcher.num_nodes > 1:
        others = f"on each of the other {launcher.num_nodes - 1} machines, in {Path.cwd()}"
        tracker.say(f"give this command {others}, within {JOIN_S // 60} minutes: {' '.join(command)}")
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "TORCHELASTIC_ERROR_FILE": ""}
    process = subprocess.Popen(command, env=environment)
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait(timeout=30)
        raise
    if code != 0 or not _appears(folder / ranks.RESULT, launcher.num_nodes > 1):
        error = ranks.failure(folder)
        raise error or StageError(TRANSIENT, f"torchrun ended with exit code {code} and no word of its ranks")


def _appears(path: Path, elsewhere: bool) -> bool:
    """Whether a file is there; one that another machine has written may come late."""
    until = time.monotonic() + (SETTLE_S if elsewhere else 0.0)
    while not path.is_file():
        if time.monotonic() >= until:
            return False
        time.sleep(0.5)
    return True


# Slurm


def _through_slurm(
    stage: str,
    launcher: LauncherConfig,
    folder: Path,
    overrides: list[str],
    inputs: Inputs,
    outputs: Outputs,
    tracker: SpoolTracker,
) -> dict[str, float]:
    """Submit the job, or find the one that is there, and wait for it."""
    number = _job(stage, folder)
    if number is None:
        ranks.prepare(folder, stage, overrides, inputs, outputs)
        ranks.watched_by(folder, tracker.spool)
        (folder / slurm.SCRIPT).write_text(_script(stage, launcher, folder, Path.cwd()), encoding="utf-8")
        number = slurm.submit(folder / slurm.SCRIPT)
        tracker.say(f"job {number} submitted as {_name(stage, folder)}; this process only watches it")
    else:
        ranks.watched_by(folder, tracker.spool)
        tracker.say(f"job {number} was submitted before as {_name(stage, folder)}: watching it")
    write_json(folder / slurm.JOB, {"number": number})
    log = Path(str(slurm.log_pattern(folder)).replace("%j", number))
    try:
        state = slurm.watch(number, log, launcher.slurm.poll_s, tracker.say)
    except (KeyboardInterrupt, SystemExit) as stop:
        line = f"stopped watching; job {number} goes on: start again to watch it, or end it with `scancel {number}`"
        raise StageError(TRANSIENT, line) from stop
    try:
        error = _ending(number, state, folder, log)
        if error is not None:
            raise error
        return ranks.collect(folder, inputs, outputs, tracker)
    finally:
        remove(folder)


def _job(stage: str, folder: Path) -> str | None:
    """The number of the job of a folder: the one that waits or runs, or the one that ended while nobody watched."""
    if not (folder / slurm.SCRIPT).is_file():
        return None
    number = slurm.find(_name(stage, folder))
    if number is None and (folder / slurm.JOB).is_file():
        number = read_json(folder / slurm.JOB)["number"]
    return number


def _ending(number: str, state: str, folder: Path, log: Path) -> StageError | None:
    """The failure that a job ended with, None when its result is there."""
    if state in slurm.ENDINGS:
        kind, what = slurm.ENDINGS[state]
        then = "start again to go on from the last checkpoint" if kind == TRANSIENT else "start again to submit another"
        return StageError(kind, f"job {number} {what}; {then}; its log: {log}")
    said = ranks.failure(folder)
    if said is None and _appears(folder / ranks.RESULT, state != "FAILED"):
        return None
    said = said or ranks.failure(folder)
    if said is not None:
        return StageError(said.kind, f"job {number}: {said}")
    line = f"job {number} ended as {state} with no word of its ranks; last line of {log}: {slurm.last_line(log)}"
    return StageError(TRANSIENT, line)


def _script(stage: str, launcher: LauncherConfig, folder: Path, root: Path) -> str:
    meeting = ranks.meeting_place(launcher.num_nodes, "$host:$port", "$SLURM_JOB_ID")
    command = ranks.torchrun(folder, launcher.num_processes, meeting)
    return slurm.script(launcher, _name(stage, folder), root, folder, command)


def describe(stage: str, overrides: list[str], item: str, root: Path) -> str:
    """What a published run of a stage would be started with: the job's script and sbatch's line, or a command.

    Raises ValueError for settings or a stage that cannot be.
    """
    from components.config import STAGES, load_config

    if stage not in STAGES:
        raise ValueError(f"got {stage!r}, wanted one of {', '.join(STAGES)}")
    section = getattr(load_config(overrides, root), stage)
    launcher: LauncherConfig | None = getattr(section, "launcher", None)
    if launcher is None or launcher.kind is LauncherKind.in_process:
        return f"{stage} runs in the process that starts it\n"
    _check(stage, launcher)
    folder = _folder(stage, section, root / ".work" / stage / item, item)
    if launcher.kind is LauncherKind.torchrun:
        return " ".join(_torchrun(folder, launcher)) + "\n"
    path = folder / slurm.SCRIPT
    return f"{_script(stage, launcher, folder, root)}\n# submitted by: sbatch --parsable {path}\n"


def main(arguments: list[str]) -> None:
    """Print how a stage would be started."""
    parser = argparse.ArgumentParser(prog="python -m components.shared.launcher", description=__doc__)
    parser.add_argument("stage")
    parser.add_argument("overrides", nargs="*", help="such as scale=h800 pretrain.launcher.num_nodes=16")
    parser.add_argument("--item", default="", help="the matrix item")
    options = parser.parse_args(arguments)
    print(describe(options.stage, options.overrides, options.item, Path.cwd().resolve()), end="")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        print(f"launcher: {error}", file=sys.stderr)
        sys.exit(2)
