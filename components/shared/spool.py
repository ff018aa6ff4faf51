"""The queue of tracking records on disk: one folder a run in .work/tracking of the main checkout.

<key>/records.jsonl holds one record a line and only grows; <key>/files holds artifacts until they are sent;
<key>/sent.json belongs to the sender (delivery.py) and says how far it came. A line that a kill cut short is skipped.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.shared.places import main_checkout

RECORDS, FILES, SENT, LOG = "records.jsonl", "files", "sent.json", "log.txt"
EXPERIMENT = "speechloom"
PARENT_VARIABLE, PIPELINE_VARIABLE = "SPEECHLOOM_PARENT_RUN", "SPEECHLOOM_PIPELINE"
STATUS = {"done": "FINISHED", "restored": "FINISHED", "user": "FAILED", "quality": "FAILED", "bug": "FAILED"}
SAMPLE_EVERY_S = 10.0
PATIENCE_S = 15.0
"""How long the end of a run waits for the sender before it leaves the rest in the queue."""


def spool_folder(root: Path) -> Path:
    """The spool of the main checkout, also when root is a DVC experiment's folder inside it."""
    return main_checkout(root) / ".work" / "tracking"


def store_uri(root: Path) -> str:
    """Where records go: MLFLOW_TRACKING_URI, or mlflow.db of the main checkout."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{main_checkout(root) / 'mlflow.db'}"


class Spool:
    """One run's queue. Every method appends a whole line; threads may call it at once."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder, self.uri = folder, uri
        self._lock = threading.Lock()
        self._sampler: _Sampler | None = None
        self._started = time.time()
        (folder / FILES).mkdir(parents=True, exist_ok=True)

    @property
    def key(self) -> str:
        """Name of the run in the spool: time, stage and four random bytes."""
        return self.folder.name

    def append(self, kind: str, **values: Any) -> None:
        """Append one record."""
        line = json.dumps({"kind": kind, "time_ms": int(time.time() * 1000), **values}, ensure_ascii=False) + "\n"
        with self._lock, (self.folder / RECORDS).open("a", encoding="utf-8") as stream:
            stream.write(line)

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Numbers at a step."""
        if values:
            self.append("metrics", values={name: float(value) for name, value in values.items()}, step=step)

    def tags(self, values: dict[str, str]) -> None:
        """Tags of the run; the last value of a name counts."""
        if values:
            self.append("tags", values=values)

    @contextmanager
    def file(self, artifact: str) -> Iterator[Path]:
        """A path to write one artifact to; it is queued when the block ends well.

        artifact: path inside the run, such as figures/loss.png. Raises ValueError when it leaves the run.
        """
        parts = Path(artifact).parts
        if not parts or Path(artifact).is_absolute() or ".." in parts:
            raise ValueError(f"artifact {artifact!r}: wanted a relative path inside the run")
        path = self.folder / FILES / f"{secrets.token_hex(4)}-{parts[-1]}"
        yield path
        self.append("file", path=path.name, artifact=artifact)

    def log_line(self, line: str) -> None:
        """Keep a line for log.txt."""
        with self._lock, (self.folder / FILES / LOG).open("a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%H:%M:%S')} {line}\n")

    def dataset(self, folder: Path, name: str, context: str) -> None:
        """A table that was read, with its content hash as digest."""
        from components.shared.manifest import read_manifest

        manifest = read_manifest(folder)
        profile = {"num_rows": manifest.num_rows, "num_files": len(manifest.files), "grade": manifest.grade}
        digest = manifest.content_hash
        self.append(
            "dataset", name=name, context=context, digest=digest, folder=str(folder), contract=manifest.contract,
            profile=profile,
        )  # fmt: skip

    def model(self, folder: Path, name: str, content_hash: str) -> None:
        """A finished model folder, pointed to and not uploaded."""
        self.append("model", name=name, folder=str(folder), content_hash=content_hash)

    def watch_machine(self) -> None:
        """Record processor and memory use every few seconds until the run ends."""
        self._sampler = _Sampler(self)
        self._sampler.start()

    def end(self, kind: str, line: str = "") -> None:
        """Close the run with how it ended, then wait a moment for the sender; what it does not manage stays queued."""
        if self._sampler is not None:
            self._sampler.stop()
            self.metrics({"duration_s": time.time() - self._started, "peak_memory_mb": _peak_memory_mb()}, 0)
        if line:
            self.tags({"failure": kind, "failure_line": line[:4000]})
        if (self.folder / FILES / LOG).is_file():
            self.append("file", path=LOG, artifact=LOG)
        self.append("end", status=STATUS.get(kind, "KILLED"))
        self.wait()

    def wait(self) -> None:
        """Wait for the delivery, at most PATIENCE_S (the sender goes on alone); say when the store does not answer."""
        from components.shared.delivery import delivered, ensure_sender, has_mlflow, reachable

        until = time.time() + PATIENCE_S
        while has_mlflow() and reachable(self.uri):
            ensure_sender(self.folder.parent)
            if delivered(self.folder) or time.time() > until:
                return
            time.sleep(0.1)
        trouble = f"{_public(self.uri)} does not answer" if has_mlflow() else "mlflow is not installed"
        where = f"the run is queued in {self.folder}"
        again = "it is sent with the next run or by `python -m components.shared.tracking send`"
        print(f"tracking: {trouble}; {where}; {again}", file=sys.stderr)


class _Sampler(threading.Thread):
    """Processor and memory use as MLflow's system metrics."""

    def __init__(self, spool: Spool) -> None:
        super().__init__(daemon=True, name="machine-sampler")
        self.spool = spool
        self.stopped = threading.Event()

    def run(self) -> None:
        try:
            import psutil
        except ModuleNotFoundError:  # a machine that only trains
            return
        process = psutil.Process()
        psutil.cpu_percent()
        for step in range(10**9):
            if self.stopped.wait(1.0 if step == 0 else SAMPLE_EVERY_S):
                return
            memory = psutil.virtual_memory()
            values = {
                "system/cpu_utilization_percentage": psutil.cpu_percent(),
                "system/system_memory_usage_percentage": memory.percent,
                "system/process_memory_megabytes": process.memory_info().rss / 1e6,
            }
            self.spool.metrics({**values, **_gpu()}, step)

    def stop(self) -> None:
        self.stopped.set()
        self.join(timeout=2.0)


def _gpu() -> dict[str, float]:
    """Memory of the first CUDA device when the stage has torch loaded and uses it."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if not hasattr(cuda, "mem_get_info"):  # not there, or another thread still imports it
        return {}
    assert cuda is not None
    if not cuda.is_available() or not cuda.is_initialized():
        return {}
    free, total = cuda.mem_get_info()
    return {"system/gpu_0_memory_usage_megabytes": (total - free) / 1e6}


def _peak_memory_mb() -> float:
    """Largest resident size of this process and of its largest ended child, in megabytes."""
    import resource

    kilobytes = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return kilobytes / 1000


def _public(uri: str) -> str:
    """The address without a password."""
    return re.sub(r"//[^/@]*@", "//", uri)


def open_run(stage: str, item: str, config: dict[str, Any], root: Path, *, parent: str = "") -> Spool:
    """A new run in the spool: its name, resolved settings, and where it comes from."""
    from components.shared.delivery import ensure_sender
    from components.shared.provenance import origin

    name = f"{stage}@{item}" if item else stage
    key = f"{time.strftime('%Y%m%d-%H%M%S')}-{name.replace('@', '-')}-{secrets.token_hex(4)}"
    spool = Spool(spool_folder(root) / key, store_uri(root))
    parent = parent or os.environ.get(PARENT_VARIABLE, "")
    tags = {"stage": stage, "item": item, "run_key": key, **origin(root, key)}
    params = dict(flatten(config))
    process = {"pid": os.getpid(), "host": socket.gethostname()}
    spool.append("run", name=name, uri=spool.uri, parent=parent, params=params, tags=tags, **process)
    ensure_sender(spool.folder.parent)
    return spool


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and printed values of nested dicts; a list stays one value."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, float) and math.isfinite(value):
        yield prefix, f"{value:.10g}"
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
