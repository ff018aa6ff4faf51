"""Runs shards in Ray Data actors: of the cluster that RAY_ADDRESS names, else of a Ray started here for the while.

Ray Data starts the actors, hands each the next shard when it has made one, and replaces an actor whose process died.
What make raises travels back as a value, not as a failure of Ray's, so that shards under way can end and the caller
sees the error as it was. Ray started here listens on 127.0.0.1 alone, shows no dashboard and reports no usage.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import sysconfig
import traceback
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRIES = 4
"""How often a shard is begun whose process dies: one that needs too much memory kills every worker it meets."""
STOP = "stop"
"""Name of the note that a shard has failed; none is begun any more."""
OBJECT_STORE_BYTES = 100 * 2**20
"""Shared memory of a Ray started here; only descriptions of shards pass through it (Ray takes no less than 75 MB)."""
STARTED_HERE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's own switch for listening on loopback alone, its default on macOS; _node_ip_address does not do it: Ray puts
    # the machine's address in the place of 127.0.0.1, and its servers listen on all of them.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_worker_niceness": "0",  # Ray's 15 starves the workers wherever something else runs
}
QUIET = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # Ray's C++ writes errors to the terminal that are none
    "RAY_DATA_USAGE_DISABLED": "1",  # else a thread of this process asks a Prometheus on port 9090 every ten seconds
}
"""Of this process alone; Ray Data reads the second when a run begins, not when it is imported."""


@dataclass(frozen=True)
class _Job:
    """One shard; an object of its own, since Ray Data would turn plain numbers and lists into arrays."""

    place: int
    """In the list of jobs."""
    item: Any
    path: Path


@dataclass(frozen=True)
class _Outcome:
    """What came of a job."""

    place: int
    error: Exception | None


class _Maker:
    """The actor: lives in a worker process and makes one shard a call."""

    def __init__(self, make_one: Callable[..., None], make: Callable[..., None], notes: Path, cwd: Path) -> None:
        self.make_one, self.make, self.notes = make_one, make, notes
        os.chdir(cwd)  # what a stage names relatively is found on other machines too

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """batch: {"job": [_Job]} -> {"outcome": [_Outcome]}; a job is skipped when another one has failed."""
        (job,) = batch["job"]
        try:
            if not (self.notes / STOP).exists():
                self._make(job)
        except Exception as error:
            (self.notes / STOP).touch()
            error.add_note("in a Ray actor:\n" + traceback.format_exc())
            return {"outcome": [_Outcome(job.place, error)]}
        return {"outcome": [_Outcome(job.place, None)]}

    def _make(self, job: _Job) -> None:
        """Make the shard unless it was finished before its worker died; count how often it is begun."""
        begun = self.notes / job.path.name
        tries = begun.stat().st_size if begun.exists() else 0
        if job.path.exists():
            return
        if tries == TRIES:
            raise BrokenProcessPool(f"shard {job.path.name}: its worker died {TRIES} times; is it out of memory?")
        with begun.open("ab") as stream:
            stream.write(b".")
        self.make_one(self.make, job.item, job.path)
        begun.unlink()


def run(
    make_one: Callable[..., None],
    make: Callable[..., None],
    jobs: list[tuple[Any, Path]],
    *,
    num_workers: int,
    on_gpu: bool,
    num_threads: int,
    folder: Path,
) -> Iterator[int]:
    """Call make_one(make, item, path) for every job in Ray actors; yields the places of finished ones in the list.

    num_workers: actors; 0: one a GPU of the cluster (on_gpu) or one for num_threads CPUs. folder: where all workers see
    the same.
    Raises the first error of make when the shards under way have ended; ValueError when Ray is not installed or the
    cluster has too few devices; BrokenProcessPool when a shard's worker died TRIES times.
    """
    failed: Exception | None = None
    with connected(num_workers * num_threads) as (ray, place), _notes(folder.resolve()) as notes:
        devices = devices_of(ray.cluster_resources(), on_gpu, num_threads)
        size = min(num_actors(devices, num_workers, on_gpu, place), len(jobs))
        made = ray.data.from_items(
            [{"job": _Job(place, item, path.resolve())} for place, (item, path) in enumerate(jobs)],
            override_num_blocks=len(jobs),
        ).map_batches(
            _Maker,
            fn_constructor_args=(make_one, make, notes, Path.cwd()),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
            num_cpus=0 if on_gpu else num_threads,
            num_gpus=1 if on_gpu else 0,
        )
        try:
            for batch in made.iter_batches(batch_size=None, prefetch_batches=0):
                for outcome in batch["outcome"]:
                    failed = failed or outcome.error
                    if failed is None:
                        yield outcome.place
        except ray.exceptions.RayError as error:
            said = str(getattr(error, "cause", error)).strip().splitlines() or [repr(error)]
            raise BrokenProcessPool(f"shards: the workers of {place} failed: {said[-1]}") from error
    if failed is not None:
        raise failed


@contextmanager
def _notes(folder: Path) -> Iterator[Path]:
    """A folder for this run alone: STOP, and a file of so many bytes as a shard was begun."""
    notes = folder / f".ray-{uuid.uuid4().hex[:8]}"
    notes.mkdir()
    try:
        yield notes
    finally:
        shutil.rmtree(notes, ignore_errors=True)


@contextmanager
def connected(num_cpus: int = 1) -> Iterator[tuple[Any, str]]:
    """Ray, connected, and where it runs; disconnected afterwards unless it was connected before.

    num_cpus: that a Ray started here offers at least.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    with _environment(QUIET | ({} if address else STARTED_HERE)):
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise ValueError(
                f"executor.kind: got ray, which is not installed ({error}); "
                "wanted kind: local or `pip install -c constraints.txt -e '.[ray]'`"
            ) from error
        before = ray.is_initialized()
        if not before:
            _connect(ray, address, num_cpus)
        try:
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = context.print_on_execution_start = False
            for handler in logging.getLogger("ray.data").handlers:
                if isinstance(handler, logging.StreamHandler):
                    handler.setLevel(logging.CRITICAL)
            yield ray, address or "Ray on this machine"
        finally:
            if not before:
                ray.shutdown()


def _connect(ray: Any, address: str, num_cpus: int) -> None:
    """Join the cluster at an address, or start one here when it is empty; workers import what this process imports."""
    path = {"PYTHONPATH": os.pathsep.join(_source_folders())}
    here = {
        "num_cpus": max(num_cpus, os.cpu_count() or 1),
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
    }
    there = {"runtime_env": {"env_vars": path}}
    with _silent(), _environment(path):
        ray.init(
            address=address or "local",
            logging_level=logging.ERROR,
            log_to_driver=False,
            **(there if address else here),
        )


def devices_of(resources: dict[str, float], on_gpu: bool, num_threads: int) -> int:
    """Actors that a cluster has room for: one a GPU, or one for num_threads CPUs. resources: number by kind."""
    return int(resources.get("GPU", 0)) if on_gpu else int(resources.get("CPU", 0)) // num_threads


def num_actors(devices: int, num_workers: int, on_gpu: bool, place: str) -> int:
    """How many actors: num_workers, 0: one a device.

    Raises ValueError for more actors than there are devices: Ray would wait for them for ever.
    """
    kind = "GPU" if on_gpu else "CPU"
    if devices < max(1, num_workers):
        raise ValueError(
            f"executor.num_workers: got {num_workers}, wanted at most {devices}, the {kind}s of {place}"
            if devices
            else f"executor.kind: got ray, but {place} has no {kind}, which this stage computes on"
        )
    return num_workers or devices


def _source_folders() -> list[str]:
    """Where this process imports from beside what is installed: workers import the same without an upload."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    installed = [Path(sysconfig.get_path(name)).resolve() for name in names]
    root = Path(__file__).resolve().parents[2]
    folders = [root, *(Path(entry or os.curdir).resolve() for entry in sys.path)]
    kept = [folder for folder in folders if folder.is_dir() and not any(folder.is_relative_to(at) for at in installed)]
    return list(dict.fromkeys(str(folder) for folder in kept))


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Other environment variables inside the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing on descriptor 2 inside the block: Ray's C++ announces there that it will say no more."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
