"""Batches of packed sequences in the order of their schedule, by this process or by workers ahead of it.

Batch n is a function of the schedule alone, so workers, ranks and a resume change nothing. Workers come from a fork
server, which has neither threads nor a CUDA context to inherit, and open their own maps. A batch crosses over as one
tensor: every tensor is a file descriptor that is sent by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from components.shared.loader_config import LoaderConfig
from components.shared.packed_data import PackedData
from components.shared.packing import FIELDS, LabelRule
from components.shared.prefetch import Prefetch, ranks_of_this_machine
from components.shared.shard_cache import ShardCache


@dataclass
class PackedLoader:
    """Batches of a split; the whole state is the number of the next batch in the schedule.

    Rank r of R reads the r-th part of every global batch, so the order of the data is the same on any number of ranks.
    A batch is a dict of (B, T) int64 tensors (see packing.pack) and `number`, an int: its number in the schedule.
    """

    data: PackedData
    batch_size: int
    """Sequences of a global batch."""
    num_batches: int
    """Batches of the schedule, also those that are passed over."""
    attend_across: bool
    rank: int = 0
    world_size: int = 1
    position: int = 0
    labels: LabelRule | None = None
    """Which tokens are learnt; None: every one."""
    accumulate_batches: int = 1
    """Batches of an optimizer step."""
    skipped: frozenset[int] = field(default_factory=frozenset)
    """Numbers of optimizer steps whose batches are passed over: step s has the s-th accumulate_batches batches."""
    num_workers: int = 0
    """Processes that make batches ahead; 0: none."""
    prefetch_sequences: int = 0
    """Sequences of the global order whose shards are fetched from a store ahead of time."""

    def __post_init__(self) -> None:
        if self.batch_size % self.world_size:
            raise ValueError(f"batch: {self.batch_size} sequences do not divide by {self.world_size} ranks")

    def __len__(self) -> int:
        """Batches of the whole run without those passed over, also after a resume."""
        size = self.accumulate_batches
        passed = sum(max(0, min(size, self.num_batches - step * size)) for step in self.skipped if step >= 0)
        return self.num_batches - passed

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The batches that are left; all of them when none is: a trainer stops at the last without asking for more.

        Raises ValueError and ConnectionError as PackedData.batch, BrokenProcessPool when a worker was killed.
        """
        if self.position >= self.num_batches:
            self.position = 0
        share = self.batch_size // self.world_size
        made = DataLoader(
            _Batches(self.data, self.batch_size, self.rank * share, share, self.attend_across, self.labels),
            batch_size=None,
            sampler=_Numbers(self),  # type: ignore[arg-type]
            num_workers=self.num_workers,
            multiprocessing_context=_fork_server() if self.num_workers else None,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else every pass would take a number from the generator of dropout
        )
        prefetch = Prefetch(self.data, self.batch_size, self.rank, self.world_size, self.prefetch_sequences)
        prefetch.start(self.position)
        try:
            for number, batch in _watched(iter(made)):
                if isinstance(batch, Exception):
                    raise batch
                self.position = number + 1
                prefetch.reach(self.position)
                yield {**dict(zip(FIELDS, batch, strict=True)), "number": number}
        finally:
            prefetch.end()

    def _numbers(self, start: int) -> Iterator[int]:
        """Batches from `start` on that are not passed over."""
        for number in range(start, self.num_batches):
            if number // self.accumulate_batches not in self.skipped:
                yield number

    def state_dict(self) -> dict[str, int]:
        """The number of the next batch."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state."""
        self.position = state["position"]


@dataclass
class _Numbers:
    """The batches that are left when a pass begins, as the sampler of a DataLoader."""

    loader: PackedLoader

    def __iter__(self) -> Iterator[int]:
        return self.loader._numbers(self.loader.position)


@dataclass
class _Batches(Dataset):  # type: ignore[type-arg]
    """One rank's part of batch n, as (n, tensor (FIELDS, B, T) int64)."""

    data: PackedData
    batch_size: int
    first: int
    share: int
    attend_across: bool
    labels: LabelRule | None

    def __getitem__(self, number: int) -> tuple[int, Any]:
        first = number * self.batch_size + self.first
        try:
            batch = self.data.batch(range(first, first + self.share), self.attend_across, self.labels)
        except (ValueError, OSError) as error:  # torch would wrap it in a traceback of its own
            return number, error
        return number, torch.from_numpy(batch)


def cache_of(config: LoaderConfig, work: Path) -> ShardCache:
    """The cache of a config, for loaders of one training run on all ranks of this machine.

    work: the stage's work folder. In each rank every worker reads, and the rank itself for validation.
    """
    folder = Path(config.cache) if config.cache else work / "cache"
    readers = len(ranks_of_this_machine()) * (config.num_workers + 1)
    return ShardCache(folder, int(config.cache_gb * 1e9), readers)


def _watched(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches; a killed worker is told as one."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, EOFError, OSError) as error:  # it may die while a batch is handed over
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            raise BrokenProcessPool(f"loader: a worker died, by a signal or for memory: {error}") from error
        yield batch


def _fork_server() -> Any:
    """A context whose workers are forked from a server that has torch and this module already."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context
