"""Maps a function over shards, keyed and restartable: a finished shard is never made again.

Every item has a key (a hash of its input, the stage's config and its code). Its output is written under a temporary
name in <work>/shards/ and renamed to <key>, so that after kill -9 only whole shards are there. The order of the results
is the order of the items, whatever the number of workers and wherever they run.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TypeVar

from components.shared.manifest import atomic
from components.shared.tracking import Progress

Item = TypeVar("Item")


class ExecutorKind(Enum):
    """Where shards are made."""

    local = "local"
    """Processes of this machine."""
    ray = "ray"
    """Ray Data actors, one a device: of the cluster that RAY_ADDRESS names, else of a Ray started here on 127.0.0.1."""


@dataclass(kw_only=True)
class ExecutorConfig:
    """How a stage's shards are spread over workers; the output does not depend on it."""

    kind: ExecutorKind
    """local: processes of this machine; ray: actors of a Ray cluster (extra `ray`)."""
    num_workers: int
    """Processes; 1 runs inside the stage's own process. ray: actors, 0 for one a GPU (no GPU: one for its CPUs)."""


def map_shards(
    make: Callable[[Item, Path], None],
    items: list[Item],
    keys: list[str],
    *,
    work: Path,
    config: ExecutorConfig,
    progress: Progress,
    on_gpu: bool = False,
    num_threads: int = 1,
) -> list[Path]:
    """Make one file per item with make(item, temporary path) and return the finished paths in the order of items.

    make: a picklable function of module level that writes exactly the path it is given.
    keys: one key an item; items whose file work/shards/<key> is there are not made again.
    progress: (iterator of finished counts, total) -> the same iterator, shown to the user.
    on_gpu: make computes on a CUDA device; each Ray actor gets one of its own, local workers share the first.
    num_threads: CPUs that a call of make keeps busy, which Ray sets aside. Ray on several machines needs work and
    what make reads at the same paths on all of them.
    Raises what make raises, after the shards under way have ended; finished shards stay. Raises BrokenProcessPool when
    workers keep dying, ValueError for an executor that cannot be had.
    """
    least = 0 if config.kind is ExecutorKind.ray else 1
    if config.num_workers < least:
        raise ValueError(f"executor.num_workers: got {config.num_workers}, wanted at least {least}")
    if len(set(keys)) != len(items):
        raise ValueError(f"shards: {len(items)} items but {len(set(keys))} distinct keys")
    folder = work / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / key for key in keys]
    missing = [(item, path) for item, path in zip(items, paths, strict=True) if not path.exists()]
    if config.kind is ExecutorKind.ray and missing:
        from components.shared.ray_executor import run

        counts: Iterable[int] = run(
            _make_one,
            make,
            missing,
            num_workers=config.num_workers,
            on_gpu=on_gpu,
            num_threads=num_threads,
            folder=folder,
        )
    else:
        counts = _run(make, missing, config.num_workers)
    for _ in progress(counts, len(missing)):
        pass
    return paths


def has_gpu(config: ExecutorConfig) -> bool:
    """Whether the workers have a CUDA device: this machine, or the Ray cluster that RAY_ADDRESS names."""
    if config.kind is ExecutorKind.ray and os.environ.get("RAY_ADDRESS"):
        from components.shared.ray_executor import connected

        with connected() as (ray, _):
            return ray.cluster_resources().get("GPU", 0) > 0
    import torch

    return torch.cuda.is_available()


def _run(make: Callable[[Item, Path], None], jobs: list[tuple[Item, Path]], num_workers: int) -> Iterable[int]:
    if num_workers <= 1 or len(jobs) <= 1:
        for done, (item, path) in enumerate(jobs, start=1):
            _make_one(make, item, path)
            yield done
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_workers, len(jobs)), mp_context=context) as pool:
        futures = [pool.submit(_make_one, make, item, path) for item, path in jobs]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                yield done
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _make_one(make: Callable[[Item, Path], None], item: Item, path: Path) -> None:
    with atomic(path) as temporary:
        make(item, temporary)
