"""A Slurm cluster of one machine for tests: the real one where its programs are at hand, else an honest stand-in.

The real one: SPEECHLOOM_SLURM=FOLDER, into which Debian's packages were unpacked; nothing is installed:
    apt-get download slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge libmunge2 libhwloc15 libjson-c5
    for package in *.deb; do dpkg -x $package FOLDER; done
The stand-in runs the same scripts as processes of this machine, by this file under the names of Slurm's commands. It
knows what the launcher uses: #SBATCH lines, states, time limits in seconds (the real one's are minutes), scancel.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STATE = "SMALL_SLURM"
REAL = "SPEECHLOOM_SLURM"
COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "srun")

CONF = """ClusterName=small
SlurmctldHost=localhost(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
CommunicationParameters=NoInAddrAny
SlurmctldPort={port}
SlurmdPort={next_port}
PluginDir={plugins}
SlurmctldPidFile={work}/slurmctld.pid
SlurmdPidFile={work}/slurmd.pid
SlurmctldLogFile={work}/slurmctld.log
SlurmdLogFile={work}/slurmd.log
StateSaveLocation={work}
SlurmdSpoolDir={work}
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
AccountingStorageType=accounting_storage/none
KillWait=2
NodeName=localhost NodeHostname=localhost NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """A running cluster: the environment in which its commands are found. Its jobs end with it."""
    folder.mkdir()
    if os.environ.get(REAL):
        with _real(Path(os.environ[REAL]), folder) as environment:
            yield environment
        return
    (folder / "bin").mkdir()
    for name in COMMANDS:
        (folder / "bin" / name).write_text(f"#!{sys.executable}\n" + Path(__file__).read_text(encoding="utf-8"))
        (folder / "bin" / name).chmod(0o755)
    environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", STATE: str(folder)}
    try:
        yield environment
    finally:
        for job in folder.glob("*.state"):
            _kill(folder, job.stem, "CANCELLED")


@contextmanager
def _real(programs: Path, folder: Path) -> Iterator[dict[str, str]]:
    import getpass
    import socket

    libraries = programs / "usr/lib/x86_64-linux-gnu"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    plugins = libraries / "slurm-wlm"
    values = {"user": getpass.getuser(), "port": port, "next_port": port + 1, "plugins": plugins, "work": folder}
    (folder / "slurm.conf").write_text(CONF.format(**values, cpus=os.cpu_count()))
    environment = {
        "PATH": f"{programs / 'usr/bin'}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{libraries}:{plugins}",
        "SLURM_CONF": str(folder / "slurm.conf"),
    }
    sbin = programs / "usr/sbin"
    stepd = str(sbin / "slurmstepd-wlm")
    daemons = [
        [str(sbin / "slurmctld-wlm"), "-D", "-c"],
        [str(sbin / "slurmd-wlm"), "-D", "-N", "localhost", "-d", stepd],
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": {**os.environ, **environment}}
    running = [subprocess.Popen(command, **quiet) for command in daemons]  # type: ignore[call-overload]
    try:
        for _ in range(100):
            said = subprocess.run(
                ["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True, check=False, env=quiet["env"]
            )
            if said.stdout.strip() == "idle":
                break
            time.sleep(0.2)
        yield environment
        subprocess.run(["scancel", "--state=RUNNING"], check=False, **quiet)  # type: ignore[call-overload]
    finally:
        for daemon in running:
            daemon.terminate()
            daemon.wait()


def jobs(environment: dict[str, str]) -> list[str]:
    """Numbers of all jobs that were ever submitted."""
    command = ["squeue", "--noheader", "--states=all", "--format=%i|%T"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    return sorted(line.split("|")[0] for line in done.stdout.splitlines())


# The stand-in: every job is <number>.state, <number>.name and <number>.pid in the folder that $SMALL_SLURM names.


def sbatch(folder: Path, arguments: list[str]) -> None:
    """Start a script in a process of its own and print its number."""
    script = Path(arguments[-1])
    options = dict(re.findall(r'^#SBATCH --([a-z-]+)=?"?([^"\n]*)"?$', script.read_text(), re.MULTILINE))
    number = str(1 + len(list(folder.glob("*.state"))))
    (folder / f"{number}.name").write_text(options["job-name"])
    _note(folder, number, "RUNNING")
    limit = re.fullmatch(r"(\d+):(\d+)", options.get("time", ""))
    seconds = 60 * int(limit[1]) + int(limit[2]) if limit else 10**6
    log = options["output"].replace("%j", number)
    if os.fork() == 0:
        os.setsid()
        _run(folder, number, script, Path(options["chdir"]), Path(log), seconds)
        os._exit(0)
    print(number)


def _run(folder: Path, number: str, script: Path, place: Path, log: Path, seconds: int) -> None:
    environment = {**os.environ, "SLURM_JOB_ID": number, "SLURM_JOB_NODELIST": "localhost"}
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    with log.open("ab") as out:
        job = subprocess.Popen(
            ["bash", str(script)], cwd=place, env=environment, stdout=out, stderr=out, start_new_session=True
        )
        (folder / f"{number}.pid").write_text(str(job.pid))
        try:
            code = job.wait(seconds)
        except subprocess.TimeoutExpired:
            _kill(folder, number, "TIMEOUT")
            return
    if _state(folder, number) == "RUNNING":
        _note(folder, number, "COMPLETED" if code == 0 else "FAILED")


def squeue(folder: Path, arguments: list[str]) -> None:
    """Print jobs in the given format; the ended ones only when asked for all states or for one number."""
    parser = argparse.ArgumentParser()
    for name in ("--format", "--name", "--jobs", "--states"):
        parser.add_argument(name, default="")
    parser.add_argument("--noheader", action="store_true")
    wanted = parser.parse_args(arguments)
    if wanted.jobs and not (folder / f"{wanted.jobs}.state").is_file():
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    for path in sorted(folder.glob("*.state")):
        number, state, name = path.stem, _state(folder, path.stem), (folder / f"{path.stem}.name").read_text()
        if wanted.jobs not in ("", number) or wanted.name not in ("", name):
            continue
        if state == "RUNNING" or wanted.states == "all":
            fields = {"%i": number, "%T": state, "%r": "None", "%j": name}
            print(re.sub(r"%[a-zA-Z]", lambda found, fields=fields: fields[found[0]], wanted.format))


def scancel(folder: Path, arguments: list[str]) -> None:
    """End a job."""
    _kill(folder, arguments[-1], "CANCELLED")


def scontrol(_: Path, arguments: list[str]) -> None:
    """`show hostnames`: the machines of a list."""
    print(arguments[-1].replace(",", "\n"))


def srun(_: Path, arguments: list[str]) -> None:
    """Become the command: one machine, one task."""
    command = list(arguments)
    while command[0].startswith("--"):
        command.pop(0)
    os.environ["SLURM_PROCID"] = "0"
    os.execvp(command[0], command)


def _state(folder: Path, number: str) -> str:
    return (folder / f"{number}.state").read_text()


def _note(folder: Path, number: str, state: str) -> None:
    temporary = folder / f"{number}.{os.getpid()}.new"
    temporary.write_text(state)
    temporary.replace(folder / f"{number}.state")


def _kill(folder: Path, number: str, state: str) -> None:
    if _state(folder, number) == "RUNNING":
        _note(folder, number, state)
        os.killpg(int((folder / f"{number}.pid").read_text()), signal.SIGKILL)


if __name__ == "__main__" and STATE in os.environ:
    globals()[Path(sys.argv[0]).name](Path(os.environ[STATE]), sys.argv[1:])
