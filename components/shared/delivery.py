"""Takes the spool to MLflow: one sender a checkout, in a process of its own, so that stages never import MLflow.

    python -m components.shared.tracking send      sends what is queued, waits for it and says what stays

Records are sent in order, each batch is noted in the run's sent.json afterwards: a sender that is killed sends at most
one batch twice, which MLflow's stores ignore. A run whose process has vanished without a word ends as KILLED.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlparse

from components.shared.manifest import write_json
from components.shared.spool import FILES, RECORDS, SENT, spool_folder

LOCK, SENDER_LOG, OLDEST_S = "sender.lock", "sender.log", 7 * 24 * 3600
LINGER_S = 20.0
"""How long an idle sender waits for the next stage, which would otherwise pay for MLflow's import again."""
LARGEST_READ = 1 << 20
SHORT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


def reachable(uri: str) -> bool:
    """Whether something listens at the address of a server; a local store always answers."""
    address = urlparse(uri)
    if address.scheme not in ("http", "https") or address.hostname is None:
        return True
    port = address.port or (443 if address.scheme == "https" else 80)
    with contextlib.suppress(OSError), socket.create_connection((address.hostname, port), timeout=2.0):
        return True
    return False


def sent_state(run: Path) -> dict[str, Any]:
    """How far the sender came with a run: {run_id, offset (bytes of records.jsonl), ended}."""
    with contextlib.suppress(OSError, json.JSONDecodeError):
        return json.loads((run / SENT).read_text(encoding="utf-8"))
    return {}


def delivered(run: Path) -> bool:
    """Whether every record of a run has been sent."""
    records = run / RECORDS
    return not records.is_file() or sent_state(run).get("offset", 0) >= records.stat().st_size


def queued(spool: Path) -> list[Path]:
    """Runs with records that were not sent yet, the oldest first."""
    return [run for run in sorted(spool.glob("*/")) if not delivered(run)]


@contextlib.contextmanager
def sole_sender(spool: Path, wait: bool) -> Iterator[IO[str] | None]:
    """The locked file when this process is the spool's only sender, None when another one is (unless told to wait)."""
    spool.mkdir(parents=True, exist_ok=True)
    with (spool / LOCK).open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
            return
        yield stream


def ensure_sender(spool: Path) -> None:
    """Start a sender for the spool unless one is at work. Detached, it outlives the stage for a moment.

    The lock is taken here and inherited by the sender, so that two stages that start at once start one sender.
    """
    with sole_sender(spool, wait=False) as lock, (spool / SENDER_LOG).open("ab") as log:
        if lock is None:
            return
        code = Path(__file__).resolve().parents[2]
        path = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
        subprocess.Popen(
            [sys.executable, "-m", "components.shared.tracking", "send", "--watch", str(spool)],
            cwd=spool.parent.parent,
            env={**os.environ, **SHORT, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(lock.fileno(),),
            start_new_session=True,
        )


def watch(spool: Path) -> None:
    """Send whatever comes until nothing has come for LINGER_S seconds, or the spool is gone.

    Started by ensure_sender only: the lock is this process's for as long as it lives.
    """
    os.nice(5)
    from components.shared.mlflow_store import Stores

    stores, idle_since = Stores(spool), time.time()
    while spool.is_dir() and time.time() - idle_since < LINGER_S:
        _bury_the_dead(spool)
        if any([send_run(run, stores) for run in queued(spool)]) or _alive(spool):
            idle_since = time.time()
        time.sleep(0.2)
    _forget_old(spool)


def send_run(run: Path, stores: Any) -> bool:
    """Send what one run has queued; True when something went out. A store that does not answer leaves it queued."""
    state = sent_state(run)
    with (run / RECORDS).open("rb") as stream:
        records, offset = _read(stream, state.get("offset", 0))
    if not records:
        return False
    try:
        state = stores.send(run, records, state)
    except ConnectionError as error:
        print(f"{run.name}: {error}", file=sys.stderr)
        time.sleep(1.0)
        return False
    write_json(run / SENT, {**state, "offset": offset})
    for record in records:
        if record["kind"] == "file":
            (run / FILES / record["path"]).unlink(missing_ok=True)
    return True


def _read(stream: IO[bytes], offset: int) -> tuple[list[dict[str, Any]], int]:
    """Whole records from an offset on, and the offset after them. A line that a kill cut short is passed over."""
    stream.seek(offset)
    chunk = stream.read(LARGEST_READ)
    chunk = chunk[: chunk.rfind(b"\n") + 1]
    records = []
    for line in chunk.splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            print(f"skipped a record that is not whole: {line[:80]!r}", file=sys.stderr)
    return records, offset + len(chunk)


def _bury_the_dead(spool: Path) -> None:
    """Close the runs whose process is gone: kill -9 leaves no record of its own."""
    for run in spool.glob("*/"):
        state = sent_state(run)
        if state.get("run_id") and not state.get("ended") and delivered(run) and not _exists(state.get("pid", 0)):
            with (run / RECORDS).open("a", encoding="utf-8") as stream:
                stream.write("\n" + json.dumps({"kind": "end", "time_ms": int(time.time() * 1000), "status": "KILLED"}))
                stream.write("\n")


def _alive(spool: Path) -> bool:
    """Whether any run of the spool is still under way."""
    states = [sent_state(run) for run in spool.glob("*/")]
    return any(not state.get("ended") and _exists(state.get("pid", 0)) for state in states)


def _exists(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _forget_old(spool: Path) -> None:
    """Remove what was sent more than a week ago."""
    for run in spool.glob("*/"):
        if delivered(run) and sent_state(run).get("ended") and time.time() - run.stat().st_mtime > OLDEST_S:
            shutil.rmtree(run, ignore_errors=True)


def send_all(spool: Path) -> int:
    """Send everything that is queued, in this process, and return how many runs had to stay."""
    from components.shared.mlflow_store import Stores

    os.environ.update({name: value for name, value in SHORT.items() if name not in os.environ})
    with sole_sender(spool, wait=True):
        _bury_the_dead(spool)
        stores = Stores(spool)
        for run in queued(spool):
            while send_run(run, stores):
                pass
    return len(queued(spool))


def main(arguments: list[str]) -> None:
    """The command line: send, once or watching."""
    parser = argparse.ArgumentParser(prog="python -m components.shared.tracking", description=__doc__)
    parser.add_argument("command", choices=["send"])
    parser.add_argument("--watch", type=Path, default=None, help="spool to watch until it is idle (used by stages)")
    options = parser.parse_args(arguments)
    if options.watch is not None:
        watch(options.watch)
        return
    spool = spool_folder(Path.cwd())
    before = len(queued(spool))
    left = send_all(spool)
    print(f"tracking: {before - left} runs sent, {left} still queued in {spool}")
    sys.exit(75 if left else 0)
