"""Tables and folders that say what they hold: shards, sizes, sha256; written under a temporary name, then renamed.

Readers trust the manifest, not the folder: a file that the manifest does not name does not exist, and one whose size or
hash differs is an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from components.shared.contracts import from_table, to_table

Row = TypeVar("Row")
NAME = "manifest.json"
EXACT, RECORDED = "exact", "recorded"
LOCAL, EXTERNAL = "local", "external"


@dataclass(kw_only=True)
class Entry:
    """One file of a folder."""

    path: str
    """Relative to the manifest's folder, with forward slashes; never absolute, never with '..'."""
    size: int
    """Bytes."""
    sha256: str
    num_rows: int
    """Rows of a Parquet shard, 0 for any other file."""
    uri: str = ""
    """Where the file lies when it is not below the folder: s3://, gs://, https://, file:// ..."""


@dataclass(kw_only=True)
class Manifest:
    """What a folder holds."""

    contract: str
    """Name of the row dataclass of the Parquet shards, or an empty string."""
    grade: str
    """exact: byte-identical when made again; recorded: kept with how it was generated."""
    files: list[Entry]
    extra: dict[str, Any]
    """What a reader needs beside the rows, such as num_codes."""
    storage: str = LOCAL
    """external: some files have a uri and are not below the folder (see external.py)."""

    @property
    def num_rows(self) -> int:
        """Rows in all shards."""
        return sum(entry.num_rows for entry in self.files)

    @property
    def content_hash(self) -> str:
        """sha256 over the sorted (path, sha256) pairs: equal for equal content, whatever the folder is called."""
        return hash_of(sorted((entry.path, entry.sha256) for entry in self.files))


def hash_of(value: Any) -> str:
    """sha256 of a JSON-serialisable value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        replace(temporary, path)
    finally:
        remove(temporary)


def replace(source: Path, target: Path) -> None:
    """Rename a file or folder over another; the target is either the old one or the whole new one."""
    if target.is_dir() and not target.is_symlink():
        old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
        os.rename(target, old)
        os.rename(source, target)
        shutil.rmtree(old)
    else:
        os.replace(source, target)


def remove(path: Path) -> None:
    """Delete a file, link or folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link(source: Path, target: Path) -> None:
    """A second name for a finished file; a copy where the disk knows no such thing."""
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no hard links
        shutil.copyfile(source, target)


def write_json(path: Path, value: Any) -> None:
    """Write JSON under a temporary name, then rename."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file; ValueError names the file when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a JSON file: {error}") from error


def write_shard(path: Path, rows: list[Any], row_type: type) -> None:
    """Write rows as one Parquet shard. Raises ValueError when a row breaks its contract."""
    with atomic(path) as temporary:
        pq.write_table(to_table(rows, row_type), temporary, compression="zstd")


def write_table(
    folder: Path,
    rows: Iterable[Any],
    row_type: type,
    *,
    rows_per_shard: int = 50_000,
    extra: dict[str, Any] | None = None,
    grade: str = EXACT,
) -> Manifest:
    """Write rows as Parquet shards and the manifest of everything in the folder.

    Raises ValueError when a row breaks its contract; the manifest is written last, so that a broken table has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shard: list[Any] = []
    count = 0
    for row in rows:
        shard.append(row)
        if len(shard) == rows_per_shard:
            write_shard(folder / f"part-{count:05d}.parquet", shard, row_type)
            shard, count = [], count + 1
    if shard or count == 0:
        write_shard(folder / f"part-{count:05d}.parquet", shard, row_type)
    return seal(folder, contract=row_type.__name__, extra=extra, grade=grade)


def seal(folder: Path, *, contract: str = "", extra: dict[str, Any] | None = None, grade: str = EXACT) -> Manifest:
    """Write the manifest of every file below the folder and return it."""
    files = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != NAME and not path.name.startswith("."):
            num_rows = pq.read_metadata(path).num_rows if path.suffix == ".parquet" else 0
            relative = path.relative_to(folder).as_posix()
            files.append(Entry(path=relative, size=path.stat().st_size, sha256=sha256_of(path), num_rows=num_rows))
    manifest = Manifest(contract=contract, grade=grade, files=files, extra=extra or {})
    write_manifest(folder, manifest)
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a folder's manifest; what says no more than that all files are local is left out."""
    record = asdict(manifest)
    record["files"] = [{key: value for key, value in file.items() if key != "uri" or value} for file in record["files"]]
    if manifest.storage == LOCAL:
        del record["storage"]
    write_json(folder / NAME, record)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder. Raises ValueError when it is missing or names a path outside the folder."""
    path = folder / NAME
    if not path.is_file():
        raise ValueError(f"{path}: no manifest; the folder is unfinished or was not written by this pipeline")
    record = read_json(path)
    record["files"] = [Entry(**entry) for entry in record["files"]]
    manifest = Manifest(**record)
    for entry in manifest.files:
        inside(folder, entry.path)
    return manifest


def inside(folder: Path, relative: str) -> Path:
    """folder / relative. Raises ValueError when that leaves the folder."""
    pure = PurePosixPath(relative)
    target = folder / relative
    escapes = pure.is_absolute() or ".." in pure.parts or "\\" in relative or "\0" in relative
    if escapes or not (target.is_symlink() or target.resolve().is_relative_to(folder.resolve())):
        raise ValueError(f"{relative!r}: a path outside its folder {folder}; wanted one below it")
    return target


def verify(folder: Path) -> Manifest:
    """The manifest after every local file it names was found with its size and sha256. Raises ValueError otherwise.

    Files in a store are verified when they are fetched (shard_cache.py).
    """
    manifest = read_manifest(folder)
    for entry in manifest.files:
        if entry.uri:
            continue
        path = inside(folder, entry.path)
        if not path.is_file():
            raise ValueError(f"{path}: missing, but {folder / NAME} names it")
        if path.stat().st_size != entry.size or sha256_of(path) != entry.sha256:
            raise ValueError(f"{path}: content differs from {folder / NAME}; wanted sha256 {entry.sha256[:12]}…")
    return manifest


def read_table(folder: Path, row_type: type[Row]) -> Iterator[Row]:
    """All rows of a table in the manifest's order. Raises ValueError when a shard does not fit the contract."""
    for table in read_shards(folder, row_type):
        yield from from_table(table, row_type)


def read_shards(folder: Path, row_type: type) -> Iterator[pa.Table]:
    """The Arrow tables of a folder, one a shard, in the manifest's order."""
    for path in shard_paths(folder, row_type):
        yield pq.read_table(path)


def shard_paths(folder: Path, row_type: type) -> list[Path]:
    """Paths of a table's Parquet shards. Raises ValueError when the folder holds another contract."""
    manifest = read_manifest(folder)
    if manifest.contract != row_type.__name__:
        raise ValueError(f"{folder}: holds {manifest.contract or 'no table'}, wanted {row_type.__name__}")
    return [inside(folder, entry.path) for entry in manifest.files if entry.path.endswith(".parquet")]
