"""Maps a function over shards, keyed and restartable: a finished shard is never made again.

Every item has a key (a hash of its input, the stage's config and its code). Its output is written under a temporary
name in <work>/shards/ and renamed to <key>, so that after kill -9 only whole shards are there. The order of the results
is the order of the items, whatever the number of workers and wherever they run.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
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
    sizes: Sequence[int] | None = None,
    on_gpu: bool = False,
    num_threads: int = 1,
) -> list[Path]:
    """Make one file per item with make(item, temporary path) and return the finished paths in the order of items.

    make: a picklable function of module level that writes exactly the path it is given.
    keys: one key an item; items whose file work/shards/<key> is there are not made again.
    progress: (iterator of the indices of items as they are finished, total) -> the same iterator, shown to the user;
    total: items that are not there yet, or the sum of their sizes.
    sizes: of each item, in what its progress is measured.
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
    missing = [index for index, path in enumerate(paths) if not path.exists()]
    jobs = [(items[index], paths[index]) for index in missing]
    if config.kind is ExecutorKind.ray and missing:
        from components.shared.ray_executor import run

        finished: Iterable[int] = run(
            _make_one,
            make,
            jobs,
            num_workers=config.num_workers,
            on_gpu=on_gpu,
            num_threads=num_threads,
            folder=folder,
        )
    else:
        finished = _run(make, jobs, config.num_workers)
    total = len(missing) if sizes is None else sum(sizes[index] for index in missing)
    for _ in progress((missing[place] for place in finished), total):
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
    """Places of the jobs in their list, as they are finished."""
    if num_workers <= 1 or len(jobs) <= 1:
        for place, (item, path) in enumerate(jobs):
            _make_one(make, item, path)
            yield place
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_workers, len(jobs)), mp_context=context) as pool:
        futures = {pool.submit(_make_one, make, item, path): place for place, (item, path) in enumerate(jobs)}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _make_one(make: Callable[[Item, Path], None], item: Item, path: Path) -> None:
    with atomic(path) as temporary:
        make(item, temporary)
