"""Takes the spool to MLflow: one sender a checkout, in a process of its own, so that stages never import MLflow.

    python -m components.shared.tracking send      sends what is queued, waits for it and says what stays

Records are sent in order, each batch is noted in the run's sent.json afterwards: a sender that is killed sends at most
one batch twice, which MLflow's stores ignore. A run whose process has vanished without a word ends as KILLED.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.util
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
RESTART_S = 3.0
LARGEST_READ = 1 << 20
_started_at = -RESTART_S
SHORT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


def has_mlflow() -> bool:
    """Whether MLflow is installed here, without importing it."""
    return importlib.util.find_spec("mlflow") is not None


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

    The lock is taken here and inherited by the sender, so that two stages that start at once start one sender. One
    that cannot even start is not started again at once; without MLflow the records wait for a machine that has it.
    """
    global _started_at
    if time.monotonic() - _started_at < RESTART_S or not has_mlflow():
        return
    with sole_sender(spool, wait=False) as lock, (spool / SENDER_LOG).open("ab") as log:
        if lock is None:
            return
        _started_at = time.monotonic()
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
    from components.shared.mlflow_store import Stores

    stores, idle_since = Stores(spool), time.time()
    closed: dict[Path, int] = {}
    while spool.is_dir() and time.time() - idle_since < LINGER_S:
        for run in _open_runs(spool, closed):
            _bury_if_dead(run)
            if send_run(run, stores) or _alive(run):
                idle_since = time.time()
        time.sleep(0.2)
    _forget_old(spool)


def _open_runs(spool: Path, closed: dict[Path, int]) -> list[Path]:
    """Runs that may still have something to send; those that ended are looked at again only when they grow."""
    runs = []
    for run in sorted(spool.glob("*/")):
        size = _size(run / RECORDS)
        if closed.get(run) == size:
            continue
        if delivered(run) and sent_state(run).get("ended"):
            closed[run] = size
        elif size:
            runs.append(run)
    return runs


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def send_run(run: Path, stores: Any) -> bool:
    """Send what one run has queued; True when something went out. A store that does not answer leaves it queued."""
    if not (run / RECORDS).is_file():
        return False
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
    for line in filter(None, chunk.splitlines()):
        try:
            records.append(json.loads(line))
        except ValueError:
            print(f"skipped a record that is not whole: {line[:80]!r}", file=sys.stderr)
    return records, offset + len(chunk)


def _bury_if_dead(run: Path) -> None:
    """Close a run whose process is gone: kill -9 leaves no record of its own."""
    state = sent_state(run)
    if state.get("run_id") and not state.get("ended") and delivered(run) and not _at_work(state):
        end = {"kind": "end", "time_ms": int(time.time() * 1000), "status": "KILLED"}
        with (run / RECORDS).open("a", encoding="utf-8") as stream:
            stream.write(f"\n{json.dumps(end)}\n")


def _alive(run: Path) -> bool:
    """Whether the run's process is still at work."""
    state = sent_state(run)
    return bool(state.get("run_id")) and not state.get("ended") and _at_work(state)


def _at_work(state: dict[str, Any]) -> bool:
    """Whether the process of a run lives; of another machine's processes nothing can be said, so they do."""
    if state["host"] != socket.gethostname():
        return True
    try:
        os.kill(state["pid"], 0)
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
        stores = Stores(spool)
        for run in queued(spool):
            while send_run(run, stores):
                pass
        for run in spool.glob("*/"):
            _bury_if_dead(run)
            send_run(run, stores)
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
