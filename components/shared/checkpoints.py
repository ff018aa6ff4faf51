"""Checkpoints of a training run: written while training goes on, whole or not there, read back by any number of ranks.

    <folder>/step-00001200/     __<rank>_0.distcp (torch.distributed.checkpoint), parts.json, checkpoint.json
    <folder>/.step-00001300.unfinished/

A save copies all tensors to CPU memory and returns; a thread writes them to the unfinished folder, every rank its own
part. When the files of all ranks are on disk, rank 0 writes checkpoint.json (step, ranks, inputs, sizes of the files)
and renames the folder. What every rank keeps for itself (random numbers, loops, loader, what modules add) is one row of
bytes a rank. Tensors and rows are read with torch's weights_only, and where they stand is JSON (parts.json), not the
pickle that torch.distributed.checkpoint would write: nothing in a checkpoint can run.
"""

from __future__ import annotations

import io
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from components.shared.checkpoint_files import Reader, Writer, write_synced
from components.shared.manifest import read_json, remove, replace
from components.shared.resume import STEPS, inputs_of

RECORD = "checkpoint.json"
UNFINISHED = ".step-*.unfinished"


@dataclass(kw_only=True)
class Keeping:
    """Which checkpoints stay."""

    last: int
    """How many of the latest."""
    every_steps: int
    """And those of the multiples of so many steps; 0: no others."""


def newest(folder: Path) -> Path | None:
    """The last finished checkpoint of a folder."""
    return max((path for path in folder.glob(STEPS) if (path / RECORD).is_file()), default=None)


def check(path: Path, inputs: dict[str, str]) -> dict[str, Any]:
    """The record of a finished checkpoint after its files were found with their sizes.

    Raises ValueError when it is none or is damaged, or when it was trained on other content of one of these inputs.
    """
    if not (path / RECORD).is_file():
        raise ValueError(
            f"{path}: no {RECORD} in it; wanted the folder of a finished checkpoint, such as step-00001200"
        )
    record = read_json(path / RECORD)
    for name, size in record["files"].items():
        file = path / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            got = "nothing" if found is None else f"{found} bytes"
            raise ValueError(f"{file}: got {got}, wanted {size}; delete {path} to go on from the checkpoint before it")
    for name, content in record["inputs"].items():
        if name in inputs and inputs[name] != content:
            raise ValueError(
                f"{path}: a checkpoint of another config: it was trained on {name} {content[:8]}, now it is "
                f"{inputs[name][:8]}"
            )
    return record


class Checkpoints:
    """Writes and reads the checkpoints of one run, one at a time. All ranks call the same methods in the same order."""

    def __init__(self, folder: Path, keeping: Keeping) -> None:
        self.folder, self.keeping = folder, keeping
        self._group: dist.ProcessGroup | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._running: Future[None] | None = None
        self._stager: DefaultStager | None = None

    def open(self) -> None:
        """Join the other ranks and remove what a killed run left unfinished; may be called again."""
        if self._pool is not None:
            return
        if dist.is_initialized():
            # A group of its own: its collectives run in the thread, between those of the training.
            self._group = dist.new_group(backend="gloo")
        if self._rank == 0:
            for path in self.folder.glob(UNFINISHED):
                remove(path)
        pinned = torch.cuda.is_available()
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=pinned,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=pinned,
            )
        )
        self._pool = ThreadPoolExecutor(1, "checkpoint")

    @property
    def _rank(self) -> int:
        return dist.get_rank() if dist.is_initialized() else 0

    @property
    def _num_ranks(self) -> int:
        return dist.get_world_size() if dist.is_initialized() else 1

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is when it is finished."""
        return self.folder / f"step-{step:08d}"

    def save(self, step: int, tensors: dict[str, Tensor], own: dict[str, Any]) -> None:
        """Copy the state and begin to write it; waits for the save before it.

        tensors: shared by all ranks, sharded (DTensor) or the same on each; own: of this rank, what torch.load reads
        with weights_only. Raises what the save before raised, an OSError when the disk was full.
        """
        self.wait()
        assert self._pool is not None and self._stager is not None
        staged = self._stager.stage({**tensors, _own(self._rank): _to_bytes(own)})
        assert isinstance(staged, dict)
        self._running = self._pool.submit(self._write, step, staged)

    def check(self) -> None:
        """Raise what the last save raised, if it has ended."""
        if self._running is not None and self._running.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the save that is under way. Raises what it raised."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def close(self) -> None:
        """Wait as well, and free the memory of the copies."""
        try:
            self.wait()
        finally:
            if self._pool is not None and self._stager is not None:
                self._pool.shutdown()
                self._stager.close()
                self._pool = self._stager = None

    def _write(self, step: int, staged: dict[str, Any]) -> None:
        unfinished = self.folder / f".{self.path(step).name}.unfinished"
        try:
            writer = Writer(unfinished)
            dcp.save(staged, storage_writer=writer, process_group=self._group, no_dist=self._group is None)
            if self._rank == 0:
                self._finish(step, unfinished)
                self._tidy()
        except CheckpointException as error:
            raise next(iter(error.failures.values()))[0] from None
        finally:
            if self._rank == 0:
                remove(unfinished)

    def _finish(self, step: int, unfinished: Path) -> None:
        files = {path.name: path.stat().st_size for path in sorted(unfinished.iterdir())}
        record = {"step": step, "num_ranks": self._num_ranks, "inputs": inputs_of(self.folder), "files": files}
        write_synced(unfinished / RECORD, record)
        _sync(unfinished)
        replace(unfinished, self.path(step))
        _sync(self.folder)

    def _tidy(self) -> None:
        """Remove what the policy does not keep, each under another name first, so that no half of it is read."""
        keeping = self.keeping
        for path in sorted(self.folder.glob(STEPS))[: -keeping.last]:
            if not keeping.every_steps or int(path.name.removeprefix("step-")) % keeping.every_steps:
                old = path.with_name(f".{path.name}.unfinished")
                os.rename(path, old)
                remove(old)

    def read(self, path: Path) -> Reading:
        """A finished checkpoint, to be read by all ranks together."""
        return Reading(path, check(path, inputs_of(self.folder)), self._rank, self._num_ranks, self._group)


class Reading:
    """One finished checkpoint."""

    def __init__(
        self, path: Path, record: dict[str, Any], rank: int, num_ranks: int, group: dist.ProcessGroup | None
    ) -> None:
        self.path, self.record, self._group = path, record, group
        self.metadata = Reader(path).read_metadata()
        self.same_ranks = record["num_ranks"] == num_ranks
        """Whether it was written by as many ranks as read it now."""
        name = _own(rank) if self.same_ranks else _own(0)
        [size] = self.shapes(name).values()
        row = {name: torch.empty(size, dtype=torch.uint8)}
        self.fill(row)
        self.own: dict[str, Any] = torch.load(io.BytesIO(row[name].numpy().tobytes()), weights_only=True)
        """What this rank kept for itself; of rank 0 when the number of ranks has changed."""

    def shapes(self, prefix: str) -> dict[str, torch.Size]:
        """Names and shapes of the tensors whose names begin so."""
        found = self.metadata.state_dict_metadata.items()
        return {
            name: entry.size
            for name, entry in found
            if isinstance(entry, TensorStorageMetadata) and name.startswith(prefix)
        }

    def dtype(self, name: str) -> torch.dtype:
        """The number format of a tensor."""
        entry = self.metadata.state_dict_metadata[name]
        assert isinstance(entry, TensorStorageMetadata)
        return entry.properties.dtype

    def fill(self, tensors: dict[str, Any]) -> None:
        """Read into tensors of the saved shapes, sharded in any way."""
        dcp.load(tensors, storage_reader=Reader(self.path), process_group=self._group, no_dist=self._group is None)

    def fit(self, wanted: dict[str, torch.Size], prefix: str) -> None:
        """Raise ValueError unless the tensors with the prefix have these names and shapes."""
        found = self.shapes(prefix)
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                got, want = (_shape(shapes.get(name)) for shapes in (found, wanted))
                what = f"{name.removeprefix(prefix)} is {got} in it and {want} in the model"
                raise ValueError(f"{self.path}: a checkpoint of another config: {what}")


def _own(rank: int) -> str:
    return f"own/{rank}"


def _shape(size: torch.Size | None) -> str:
    return "not there" if size is None else str(tuple(size))


def _to_bytes(value: Any) -> Tensor:
    stream = io.BytesIO()
    torch.save(value, stream)
    return torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8)


def _sync(folder: Path) -> None:
    """Make the names in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
