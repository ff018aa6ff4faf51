"""One Slurm job: its script, how it is submitted under a name, found again by that name, watched, and how it ended.

The job outlives whoever watches it. States come from squeue, which knows ended jobs for some minutes, then from sacct
where the cluster keeps accounts; where neither knows a job any more, the files that its ranks left decide.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from components.entry import TRANSIENT, USER
from components.shared.launcher_config import LauncherConfig

JOB, SCRIPT = "job.json", "job.sh"
FIRST_PORT, NUM_PORTS = 15000, 16000
"""Ports of the rendezvous: below those that Linux gives to clients."""
PATIENCE_S = 900.0
"""How long a controller may not answer before the watcher gives up; the job goes on."""
CALL_S = 60.0
FIRST_SHOWN = 2000
"""Bytes of a log that are shown when the watching begins in the middle."""
FORGOTTEN = "FORGOTTEN"
"""State of a job that neither squeue nor sacct knows."""
COMPLETED = "COMPLETED"
FAILED = (COMPLETED, "FAILED", FORGOTTEN)
"""States in which the ranks' own files say how it went."""
ENDINGS = {
    "TIMEOUT": (TRANSIENT, "reached its time limit"),
    "DEADLINE": (TRANSIENT, "reached its deadline"),
    "NODE_FAIL": (TRANSIENT, "lost a machine"),
    "BOOT_FAIL": (TRANSIENT, "got a machine that did not boot"),
    "PREEMPTED": (TRANSIENT, "had to make room for another job"),
    "REVOKED": (TRANSIENT, "was taken by another cluster"),
    "CANCELLED": (USER, "was cancelled"),
    "OUT_OF_MEMORY": (USER, "needed more memory than its machines gave it (launcher.slurm.options: --mem)"),
}
"""How else a job ends: kind of the failure and what to say."""


def script(config: LauncherConfig, name: str, root: Path, folder: Path, command: list[str]) -> str:
    """The job's script. `command` is run by srun once a machine; "$host" and "$port" in it are the meeting place.

    No value of the environment is written down: Slurm hands it on by itself.
    Raises ValueError for an option that is none.
    """
    wanted = config.slurm
    options = [
        f"--job-name={name}",
        f"--nodes={config.num_nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={wanted.cpus_per_node}" if wanted.cpus_per_node else "--exclusive",
        *([f"--gpus-per-node={wanted.gpus_per_node}"] if wanted.gpus_per_node else []),
        *([f"--partition={wanted.partition}"] if wanted.partition else []),
        *([f"--time={wanted.time_limit}"] if wanted.time_limit else []),
        "--no-requeue",
        f"--chdir={_quoted(root)}",
        f"--output={_quoted(log_pattern(folder))}",
        *wanted.options,
    ]
    for option in options:
        if not option.startswith("-") or "\n" in option:
            raise ValueError(f"launcher.slurm: got {option!r}, wanted an option of sbatch such as --account=speech")
    cores = f"--cpus-per-task={wanted.cpus_per_node}" if wanted.cpus_per_node else "--cpu-bind=none"
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in options),
        "set -euo pipefail",
        'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TORCHELASTIC_ERROR_FILE=',
        'host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)',
        f"port=$(({FIRST_PORT} + SLURM_JOB_ID % {NUM_PORTS}))",
        f"exec srun --kill-on-bad-exit=1 {cores} \\",
        "  " + " ".join(_word(part) for part in command),
    ]
    return "\n".join(lines) + "\n"


def _word(part: str) -> str:
    """One word of the command; the three variables that the script knows stay variables."""
    return f'"{part}"' if re.search(r"\$(host|port|SLURM_JOB_ID)\b", part) else shlex.quote(part)


def _quoted(path: Path) -> str:
    text = str(path)
    return f'"{text}"' if " " in text else text


def log_pattern(folder: Path) -> Path:
    """Where a job logs, beside its folder, which a success removes; %j is the job's number."""
    return folder.parent / "slurm-%j.log"


def submit(path: Path) -> str:
    """Submit a script and return the job's number. Raises ValueError with what sbatch said when it refuses."""
    done = _call("sbatch", "--parsable", str(path))
    if done.returncode != 0:
        said = " ".join(done.stderr.split())
        if _unreachable(said):
            raise ConnectionError(f"sbatch: {said}")
        raise ValueError(f"sbatch refused {path}: {said}")
    return done.stdout.strip().split(";")[0]


def find(name: str) -> str | None:
    """The number of the job of this name that waits or runs, None when there is none.

    Raises ConnectionError when the cluster does not answer.
    """
    done = _call("squeue", "--noheader", f"--name={name}", "--format=%i|%T")
    if done.returncode != 0:
        raise ConnectionError(f"squeue: {' '.join(done.stderr.split())}")
    lines = [line.strip().split("|") for line in done.stdout.splitlines() if line.strip()]
    alive = [number for number, state in lines if not _ended(state)]
    return max(alive, key=int) if alive else None


def state_of(number: str) -> tuple[str, str]:
    """(state, reason of waiting) of a job, FORGOTTEN when nobody knows it.

    Raises ConnectionError when the cluster does not answer.
    """
    done = _call("squeue", "--noheader", "--states=all", f"--jobs={number}", "--format=%T|%r")
    if done.returncode == 0 and done.stdout.strip():
        state, reason = done.stdout.split("\n")[0].strip().split("|", 1)
        return state, "" if reason == "None" else reason
    if done.returncode != 0 and "nvalid job id" not in done.stderr:
        raise ConnectionError(f"squeue: {' '.join(done.stderr.split())}")
    try:
        done = _call("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={number}", "--format=State")
    except ValueError:  # a cluster without accounts may lack the command too
        return FORGOTTEN, ""
    state = done.stdout.split("\n")[0].strip() if done.returncode == 0 else ""
    return (state.split()[0], "") if state else (FORGOTTEN, "")  # "CANCELLED by 1000"


def watch(number: str, log: Path, poll_s: float, say: Callable[[str], None]) -> str:
    """Wait until a job has ended, showing its log and every change of its state; the state it ended in.

    Raises ConnectionError when the cluster has not answered for PATIENCE_S.
    """
    tail, shown, answered = Tail(log), "", time.monotonic()
    while True:
        try:
            state, reason = state_of(number)
            answered = time.monotonic()
        except ConnectionError as error:
            if time.monotonic() - answered > PATIENCE_S:
                raise ConnectionError(f"{error}; job {number} may still run: start again to watch it") from error
            state, reason = "not known, the cluster does not answer", ""
        tail.show()
        described = f"{state} ({reason})" if reason else state
        if described != shown:
            say(f"job {number}: {described}")
            shown = described
        if _ended(state):
            return state
        time.sleep(poll_s)


class Tail:
    """Shows what a growing file has got since the last look; the rest of a file that is already long is passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = max(0, path.stat().st_size - FIRST_SHOWN) if path.is_file() else 0

    def show(self) -> None:
        """Print what is new."""
        if self.path.is_file():
            with self.path.open("rb") as stream:
                stream.seek(self.position)
                new = stream.read()
            self.position += len(new)
            sys.stdout.write(new.decode("utf-8", errors="replace"))
            sys.stdout.flush()


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    if not log.is_file():
        return f"{log} was not written"
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "nothing")


def _ended(state: str) -> bool:
    return state in FAILED or state in ENDINGS


def _unreachable(said: str) -> bool:
    return "Unable to contact" in said or "timed out" in said or "Connection refused" in said


def _call(*command: str) -> subprocess.CompletedProcess[str]:
    """One of Slurm's commands. Raises ValueError when this machine has none, ConnectionError when it hangs."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=CALL_S)
    except FileNotFoundError as error:
        raise ValueError(
            f"launcher.kind=slurm: no command {command[0]!r} on PATH; start on a machine of a Slurm cluster, or take "
            "launcher.kind=torchrun"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ConnectionError(f"{command[0]}: no answer in {CALL_S:.0f} s") from error
