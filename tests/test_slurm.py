"""A stage as a Slurm job: found again by its name, watched by whoever starts it, and its end told as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from components.entry import TRANSIENT, USER
from components.shared import launcher, slurm
from components.shared.launcher_config import LauncherKind
from components.shared.manifest import read_json, write_json
from tests.launchers import IN_PROCESS, ROOT, SLURM, as_yaml, write_project
from tests.small_slurm import cluster, jobs

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
    gate: str
    launcher: LauncherConfig
'''

STAGE = '''
"""Two ranks add their numbers, then wait until somebody opens the gate."""
import os
import time
from pathlib import Path

import torch
import torch.distributed

from components.shared.manifest import seal


def run(config, inputs, outputs, tracker):
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    if config.fail and rank == 1:
        raise ValueError("row 7: got 1, wanted 2")
    total = torch.tensor(float(rank + 1))
    torch.distributed.all_reduce(total)
    tracker.log_metrics({"total": float(total)}, 1)
    Path(config.gate + f".{rank}").touch()
    while config.gate and not Path(config.gate).is_file():
        time.sleep(0.1)
    tracker.log_metrics({"total": float(total)}, 2)
    folder = outputs.folder("tokens")
    (folder / "total.txt").write_text(f"{float(total)} by rank {rank}")
    seal(folder)
    outputs.write_stats(shards=[{"total": float(total)}], rows=[])
    tracker.say("added")
    torch.distributed.destroy_process_group()
    return {"total": float(total)}
'''
LAUNCHER = replace(IN_PROCESS, kind=LauncherKind.slurm, num_processes=2)


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A cluster whose commands are on PATH."""
    with cluster(tmp_path / "cluster") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield environment


@pytest.fixture
def project(tmp_path: Path, machines: dict[str, str]) -> Path:
    place = tmp_path / "project"
    place.mkdir()
    section = {"seed": 3, "fail": False, "gate": str(tmp_path / "gate"), "launcher": as_yaml(LAUNCHER)}
    write_project(place, CONFIG, STAGE, section)
    return place


def start(project: Path, *overrides: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(project), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "components.tokenize", "--publish", *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what runs in the background of a shell does not
    return subprocess.Popen(command, cwd=project, env=environment, text=True, preexec_fn=listens, **pipes)


def wait_for(path: Path) -> None:
    for _ in range(1200):
        if path.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} did not come")


def line_with(process: subprocess.Popen[str], words: str) -> str:
    for line in process.stdout:
        if words in line:
            return line
    raise AssertionError(process.stderr.read())


@pytest.mark.slow
def test_a_job_outlives_who_watches_it_and_is_found_again(project: Path, machines: dict[str, str]) -> None:
    gate = project.parent / "gate"
    killed = start(project)
    line_with(killed, "submitted as speechloom-tokenize-")
    wait_for(Path(f"{gate}.0"))
    killed.send_signal(signal.SIGKILL)
    killed.wait()

    changed = start(project, "tokenize.seed=4")
    _, said = changed.communicate(timeout=300)
    assert changed.returncode == 2
    assert "Slurm job 1 of other settings, code or launcher works here" in said.splitlines()[-1]

    stopped = start(project)
    line_with(stopped, "job 1 was submitted before")
    line_with(stopped, "job 1: RUNNING")
    stopped.send_signal(signal.SIGINT)
    _, said = stopped.communicate(timeout=300)
    assert stopped.returncode == 75
    line = "tokenize: stopped watching; job 1 goes on: start again to watch it, or end it with `scancel 1`"
    assert said.splitlines()[-1] == line

    gate.touch()
    while slurm.state_of("1")[0] == "RUNNING":
        time.sleep(0.1)
    finder = start(project)
    out, said = finder.communicate(timeout=300)
    assert finder.returncode == 0, said
    assert jobs(machines) == ["1"]
    data = project / "data" / "tokenize"
    assert (data / "tokens" / "total.txt").read_text() == "3.0 by rank 0"
    assert read_json(data / "metrics.json") == {"total": 3.0}
    assert read_json(data / "curves.json") == {"total": [[1, 3.0], [2, 3.0]]}
    assert sorted(path.name for path in data.iterdir()) == ["curves.json", "metrics.json", "stats.parquet", "tokens"]
    assert out.count("added") == 1 and not list((project / ".work" / "tokenize").glob("ranks-*"))


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_stage_with_its_line(project: Path) -> None:
    failing = start(project, "tokenize.fail=true")
    _, said = failing.communicate(timeout=300)
    assert failing.returncode == 2
    assert said.strip().splitlines()[-1] == "tokenize: job 1: rank 1: row 7: got 1, wanted 2"
    assert "rank 1: row 7" in (project / ".work/tokenize/status.json").read_text()
    assert not list((project / ".work" / "tokenize").glob("ranks-*"))


def run_job(folder: Path, *command: str, time_limit: str = "", cancel: bool = False) -> tuple[str, str, str]:
    """Submit a command, watch it to its end: its state, then kind and line of the failure."""
    folder.mkdir(parents=True)
    config = replace(LAUNCHER, slurm=replace(SLURM, time_limit=time_limit))
    (folder / slurm.SCRIPT).write_text(slurm.script(config, "speechloom-x", folder, folder, list(command)))
    number = slurm.submit(folder / slurm.SCRIPT)
    assert slurm.find("speechloom-x") in (number, None)  # None: it has ended already
    log = folder.parent / f"slurm-{number}.log"
    if cancel:
        wait_for(log)
        subprocess.run(["scancel", number], check=True)
    state = slurm.watch(number, log, 0.2, print)
    error = launcher._ending(number, state, folder, log)
    return state, error.kind, str(error)


def test_a_time_limit_is_worth_another_try_and_what_somebody_ended_is_not(machines, tmp_path, capsys) -> None:
    state, kind, line = run_job(tmp_path / "a" / "ranks-1", "sleep", "600", time_limit="0:01")
    assert (state, kind) == ("TIMEOUT", TRANSIENT) and "job 1 reached its time limit; start again to go on" in line
    state, kind, line = run_job(tmp_path / "b" / "ranks-1", "sleep", "600", cancel=True)
    assert (state, kind) == ("CANCELLED", USER) and "job 2 was cancelled; start again to submit another" in line
    assert slurm.find("speechloom-x") is None


def test_a_job_that_fails_before_its_ranks_tells_the_last_line_of_its_log(machines, tmp_path, capsys) -> None:
    command = ("bash", "-c", "echo no such environment; exit 3")
    state, kind, line = run_job(tmp_path / "work" / "ranks-1", *command)
    assert (state, kind) == ("FAILED", TRANSIENT)
    assert "no word of its ranks; last line of" in line and "no such environment" in capsys.readouterr().out


def test_where_the_cluster_has_forgotten_a_job_its_files_decide(machines, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "work" / "ranks-1"
    assert slurm.state_of("4711") == (slurm.FORGOTTEN, "")
    write_json(folder / "result.json", {})
    assert launcher._ending("4711", slurm.FORGOTTEN, folder, tmp_path / "log") is None
    (folder / "result.json").unlink()
    monkeypatch.setattr(launcher, "SETTLE_S", 0.0)
    assert "ended as FORGOTTEN" in str(launcher._ending("4711", slurm.FORGOTTEN, folder, tmp_path / "log"))
    write_json(folder / "failure-0.json", {"kind": USER, "line": "rank 0: no row", "time": 1.0})
    assert str(launcher._ending("4711", slurm.FORGOTTEN, folder, tmp_path / "log")) == "job 4711: rank 0: no row"


SCRIPT = """\
#!/bin/bash
#SBATCH --job-name=speechloom-pretrain-0a1b2c3d4e5f
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --partition=h800
#SBATCH --time=2-00:00:00
#SBATCH --no-requeue
#SBATCH --chdir=/shared/speechloom
#SBATCH --output=/shared/speechloom/.work/pretrain/slurm-%j.log
#SBATCH --account=speech
set -euo pipefail
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TORCHELASTIC_ERROR_FILE=
host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
port=$((15000 + SLURM_JOB_ID % 16000))
exec srun --kill-on-bad-exit=1 --cpu-bind=none \\
  /shared/venv/bin/python -m torch.distributed.run --nnodes=8 --rdzv-backend=c10d "--rdzv-endpoint=$host:$port" \
"--rdzv-id=$SLURM_JOB_ID" --nproc-per-node=8 -m components.shared.ranks \
/shared/speechloom/.work/pretrain/ranks-0a1b2c3d4e5f
"""


def test_the_script_of_eight_machines_is_this_one(monkeypatch) -> None:
    monkeypatch.setattr(sys, "executable", "/shared/venv/bin/python")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mlflow")
    asked = replace(
        SLURM, partition="h800", time_limit="2-00:00:00", gpus_per_node=8, cpus_per_node=0, options=["--account=speech"]
    )
    config = replace(LAUNCHER, num_processes=8, num_nodes=8, slurm=asked)
    root = Path("/shared/speechloom")
    folder = root / ".work/pretrain/ranks-0a1b2c3d4e5f"
    assert launcher._script("pretrain", config, folder, root) == SCRIPT


def test_a_dry_run_prints_what_would_be_submitted_and_submits_nothing(machines, monkeypatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    overrides = ["speech_tokenizer.launcher.kind=slurm", "speech_tokenizer.launcher.num_nodes=4"]
    launcher.main(["speech_tokenizer", *overrides])
    printed = capsys.readouterr().out
    assert "#SBATCH --nodes=4\n" in printed and "# submitted by: sbatch --parsable " in printed
    assert subprocess.run(["bash", "-n"], input=printed, text=True, check=False).returncode == 0
    assert jobs(machines) == []
    launcher.main(["collect"])
    assert capsys.readouterr().out == "collect runs in the process that starts it\n"


def test_settings_that_cannot_be_are_one_line(monkeypatch, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"got 'account=speech', wanted an option of sbatch"):
        asked = replace(LAUNCHER, slurm=replace(SLURM, options=["account=speech"]))
        slurm.script(asked, "name", tmp_path, tmp_path, ["true"])
    with pytest.raises(ValueError, match=r"speech_tokenizer.launcher.num_nodes: got 0, wanted at least 1"):
        given = [f"speech_tokenizer.launcher.{setting}" for setting in ("kind=slurm", "num_nodes=0")]
        launcher.describe("speech_tokenizer", given, "", ROOT)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"no command 'squeue' on PATH; start on a machine of a Slurm cluster"):
        slurm.find("name")


def test_a_cluster_that_does_not_answer_is_waited_for(monkeypatch, tmp_path, capsys) -> None:
    (tmp_path / "squeue").write_text(
        f'#!/bin/bash\n[ -f {tmp_path}/up ] && echo "COMPLETED|None" && exit\ntouch {tmp_path}/up\n'
        'echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1\n'
    )
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    said: list[str] = []
    assert slurm.watch("7", tmp_path / "log", 0.01, said.append) == "COMPLETED"
    assert said == ["job 7: not known, the cluster does not answer", "job 7: COMPLETED"]
    (tmp_path / "up").unlink()
    monkeypatch.setattr(slurm, "PATIENCE_S", -1.0)
    with pytest.raises(ConnectionError, match="job 7 may still run: start again to watch it"):
        slurm.watch("7", tmp_path / "log", 0.01, said.append)
