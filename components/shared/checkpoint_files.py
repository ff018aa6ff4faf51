"""The files of a checkpoint: torch.distributed.checkpoint's, but that what it would pickle is JSON (parts.json)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from components.shared.manifest import inside, read_json

PARTS = "parts.json"
"""Tensor -> number format, size, and of every part: offsets, sizes, file, first byte, bytes."""


class Writer(dcp.FileSystemWriter):
    """Says that the disk is full, which torch.save hides behind an error of its own; its metadata is JSON."""

    def write_data(self, plan: Any, planner: Any) -> Any:
        """Write this rank's part and sync it. Raises OSError."""
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None

    def finish(self, metadata: Metadata, results: list[list[Any]]) -> None:
        """Write what all ranks have written: where each part of each tensor stands."""
        places = {written.index: written.storage_data for of_rank in results for written in of_rank}
        tensors = {}
        for name, entry in metadata.state_dict_metadata.items():
            assert isinstance(entry, TensorStorageMetadata)
            parts = []
            for chunk in entry.chunks:
                place = places[MetadataIndex(name, chunk.offsets)]
                where = [place.relative_path, place.offset, place.length]
                parts.append([list(chunk.offsets), list(chunk.sizes), *where])
            dtype = str(entry.properties.dtype).removeprefix("torch.")
            tensors[name] = {"dtype": dtype, "size": list(entry.size), "parts": parts}
        write_synced(Path(self.path) / PARTS, tensors)


class Reader(dcp.FileSystemReader):
    """The counterpart."""

    def read_metadata(self, *arguments: Any, **named: Any) -> Metadata:
        """Where each part of each tensor stands."""
        tensors: dict[str, Any] = {}
        places = {}
        for name, entry in read_json(Path(self.path) / PARTS).items():
            chunks = []
            for offsets, sizes, file, offset, length in entry["parts"]:
                chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
                inside(Path(self.path), file)
                places[MetadataIndex(name, chunks[-1].offsets)] = _StorageInfo(file, offset, length)
            properties = TensorProperties(dtype=getattr(torch, entry["dtype"]))
            tensors[name] = TensorStorageMetadata(properties, torch.Size(entry["size"]), chunks)
        meta = StorageMeta(checkpoint_id=self.checkpoint_id, load_id=self.load_id)
        return Metadata(state_dict_metadata=tensors, storage_data=places, storage_meta=meta)


def write_synced(path: Path, value: Any) -> None:
    """Write JSON that is on the disk when this returns."""
    with path.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
