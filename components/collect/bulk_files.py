"""Bulk text as it lies on disk: any mix of Parquet, JSONL and Hugging Face datasets folders, read in bounded memory.

A file that ends early or is not what its name says is refused, since nobody can count what is missing; a row that can
be seen but not used carries a reason.
"""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from components.shared.manifest import read_json

ENDINGS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl.gzip",
    ".json.gz": "jsonl.gzip",
    ".jsonl.zst": "jsonl.zstd",
    ".json.zst": "jsonl.zstd",
}
"""Ending of a file's name -> its kind, with the codec where it is compressed."""
MAX_LINE_BYTES = 64 * 2**20
"""Longest line of a JSONL file: a worker holds one at a time."""
BATCH_BYTES = 8 * 2**20
"""Text of a Parquet file that is decoded at once, about."""
BUFFER_BYTES = 2**20
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one worker reads at a time: a file, or a range of it."""

    path: str
    name: str
    """The file's path below its corpus: part of its documents' ids, so that a moved corpus keeps them."""
    kind: str
    start: int
    """First row group of a Parquet file, first byte of a JSONL file."""
    stop: int
    """The row group or byte after the last one."""


class Document(NamedTuple):
    """One row of a file."""

    place: int
    """Row of a Parquet or Arrow file, first byte of a line of JSONL (uncompressed): the same however a file is cut."""
    text: str
    language: str
    """What the language column says, or an empty string."""
    reason: str
    """Why there is no text, or an empty string."""


def find_parts(root: Path, columns: list[str], part_bytes: int, what: str) -> list[Part]:
    """Every data file below root (or root itself) in parts of about part_bytes, ordered by name.

    Of a `save_to_disk` folder the files that its state.json lists are read; what `datasets` keeps beside its own
    (cache-*.arrow) and hidden folders are not. columns: that every file must have. Only the ends of Parquet files and
    the first lines of JSONL files are looked at here.
    Raises ValueError when there is no data file, or one is empty, cut off, foreign or lacks a column.
    """
    parts: list[Part] = []
    for path in [root] if root.is_file() else _below(root):
        kind = kind_of(path)
        if kind is None:
            raise ValueError(f"{what}: {path}: wanted a file that ends in {', '.join(ENDINGS)}")
        name = path.name if root.is_file() else path.relative_to(root).as_posix()
        parts += [
            Part(path=str(path), name=name, kind=kind, start=start, stop=stop)
            for start, stop in _ranges(path, kind, columns, part_bytes)
        ]
    if not parts:
        raise ValueError(f"{what}: {root}: no rows in a file that ends in {', '.join(ENDINGS)}")
    return parts


def kind_of(path: Path) -> str | None:
    """The kind of a file by its name, or None."""
    return next((kind for ending, kind in ENDINGS.items() if path.name.endswith(ending)), None)


def read(part: Part, text_column: str, language_column: str) -> Iterator[Document]:
    """The rows of a part; language_column: empty for none. Memory does not grow with the file.

    Raises ValueError, naming the file and the place, when it is cut off or damaged.
    """
    reader = {"parquet": _read_parquet, "arrow": _read_arrow}.get(part.kind, _read_jsonl)
    return reader(part, text_column, language_column)


def _below(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(folder)
        if "state.json" in names:
            yield from _listed(here / "state.json")
            continue
        for name in sorted(names):
            if kind_of(here / name) and not name.startswith(".") and not _is_cache(name):
                yield here / name


def _refuse(error: OSError) -> None:
    raise ValueError(f"{error.filename}: a folder that cannot be read: {error.strerror}") from error


def _is_cache(name: str) -> bool:
    """What `datasets` leaves beside a table that it has mapped."""
    return name.startswith("cache-") and name.endswith(".arrow")


def passed_over(root: Path) -> Counter[str]:
    """Files below a corpus that are no documents by their name: how many of each ending."""
    names = [Path(name) for _, _, names in os.walk(root, followlinks=True, onerror=_refuse) for name in names]
    return Counter(name.suffix or name.name for name in names if not kind_of(name) and not name.name.startswith("."))


def _listed(state: Path) -> list[Path]:
    """The files of a `save_to_disk` folder, in their order."""
    try:
        return [state.parent / Path(file["filename"]).name for file in read_json(state)["_data_files"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{state}: wanted _data_files: [{{filename}}], as datasets.save_to_disk writes it") from error


def _ranges(path: Path, kind: str, columns: list[str], part_bytes: int) -> list[tuple[int, int]]:
    """(start, stop) of every part of a file, after a look whether it is what its name says."""
    if not path.is_file():
        raise ValueError(f"{path}: a broken link, or not there although its folder's state.json lists it")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path}: got an empty file, wanted a whole {kind} file")
    if kind == "parquet":
        with _whole(path, "its footer"), pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow, columns)
            sizes = [file.metadata.row_group(group).total_byte_size for group in range(file.metadata.num_row_groups)]
        return _grouped(sizes, part_bytes)
    if kind == "arrow":
        with _whole(path, "its schema"), pa.OSFile(str(path)) as stream, pa.ipc.open_stream(stream) as reader:
            _check_columns(path, reader.schema, columns)
        with path.open("rb") as raw:
            raw.seek(-len(_END_OF_STREAM), os.SEEK_END)
            if raw.read() != _END_OF_STREAM:
                raise ValueError(f"{path}: cut off: the Arrow stream has no end")
        return [(0, 1)]
    with _whole(path, "its first line"), _opened(path, kind) as lines:
        _check_first_line(path, _without_mark(lines.readline(MAX_LINE_BYTES)), columns)
    if kind != "jsonl":
        return [(0, 2**63 - 1)]
    return [(start, min(size, start + part_bytes)) for start in range(0, size, part_bytes)]


def _grouped(sizes: list[int], part_bytes: int) -> list[tuple[int, int]]:
    """Neighbouring row groups whose sizes add up to part_bytes or a little more; a larger one stands alone."""
    ranges, start, total = [], 0, 0
    for group, size in enumerate(sizes):
        total += size
        if total >= part_bytes or group == len(sizes) - 1:
            ranges.append((start, group + 1))
            start, total = group + 1, 0
    return ranges


def _check_columns(path: Path, schema: pa.Schema, columns: list[str]) -> None:
    for name in columns:
        if name not in schema.names:
            raise ValueError(f"{path}: got columns {', '.join(schema.names)}, wanted one called {name!r}")
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise ValueError(f"{path}: column {name!r}: got {kind}, wanted strings")


def _check_first_line(path: Path, line: bytes, columns: list[str]) -> None:
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: line 1: got no JSON ({error}), wanted an object a line") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path}: line 1: got a JSON {type(record).__name__}, wanted an object a line")
    for name in columns:
        if name not in record:
            raise ValueError(f"{path}: line 1: got keys {', '.join(record)}, wanted one called {name!r}")


@contextmanager
def _whole(path: Path | str, where: str) -> Iterator[None]:
    """Turn what Arrow and its codecs say about a damaged file into one line; a failing disk stays what it is."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        said = (str(error).strip().splitlines() or [repr(error)])[0]
        raise ValueError(f"{path}: {where}: cut off or damaged: {said}") from error


@contextmanager
def _opened(path: Path | str, kind: str) -> Iterator[BinaryIO]:
    """A JSONL file as a stream of bytes, unpacked."""
    codec = kind.partition(".")[2]
    if not codec:
        with open(path, "rb", buffering=BUFFER_BYTES) as plain:
            yield plain
        return
    with pa.input_stream(str(path), compression=codec, buffer_size=BUFFER_BYTES) as packed:
        yield cast(BinaryIO, io.BufferedReader(packed, BUFFER_BYTES))


def _read_jsonl(part: Part, text_column: str, language_column: str) -> Iterator[Document]:
    """Lines that begin in the part; the one that begins before it belongs to the part before."""
    place = part.start
    with _opened(part.path, part.kind) as stream:
        if place:
            stream.seek(place - 1)
            line = stream.readline(MAX_LINE_BYTES)
            if len(line) == MAX_LINE_BYTES:
                raise ValueError(f"{part.path}: byte {place}: got a line of more than {MAX_LINE_BYTES} bytes")
            place += len(line) - 1
        while place < part.stop:
            with _whole(part.path, f"byte {place}"):
                line = stream.readline(MAX_LINE_BYTES)
            if len(line) == MAX_LINE_BYTES:
                raise ValueError(f"{part.path}: byte {place}: got a line of more than {MAX_LINE_BYTES} bytes")
            if not line:
                return
            if line.strip():
                content = line if place else _without_mark(line)
                yield _from_line(part, place, content, text_column, language_column)
            place += len(line)


def _without_mark(line: bytes) -> bytes:
    return line.removeprefix(b"\xef\xbb\xbf")


def _from_line(part: Part, place: int, line: bytes, text_column: str, language_column: str) -> Document:
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        if not line.endswith(b"\n"):
            raise ValueError(f"{part.path}: byte {place}: cut off: its last line is no JSON ({error})") from error
        reason = "non_utf8_text" if isinstance(error, UnicodeDecodeError) else "malformed_row"
        return Document(place, "", "", reason)
    if not isinstance(record, dict):
        return Document(place, "", "", "malformed_row")
    text, language = record.get(text_column), record.get(language_column, "")
    if b"\\ud" in line.lower() and isinstance(text, str) and not _encodable(text):
        return Document(place, "", "", "non_utf8_text")
    return _document(place, text, language)


def _encodable(text: str) -> bool:
    """Whether text holds no half of a surrogate pair, which JSON can write and UTF-8 cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _document(place: int, text: Any, language: Any) -> Document:
    if isinstance(text, bytes):
        return Document(place, "", "", "non_utf8_text")
    if not isinstance(text, str):
        return Document(place, "", "", "missing_text")
    return Document(place, text, language if isinstance(language, str) else "", "")


def _read_parquet(part: Part, text_column: str, language_column: str) -> Iterator[Document]:
    columns = [text_column, language_column] if language_column else [text_column]
    with _whole(part.path, "its footer"):
        file = pq.ParquetFile(part.path, buffer_size=BUFFER_BYTES)
    with file:
        groups = [file.metadata.row_group(group) for group in range(part.stop)]
        place = sum(group.num_rows for group in groups[: part.start])
        for number in range(part.start, part.stop):
            group = groups[number]
            size = min(1024, max(1, BATCH_BYTES * group.num_rows // max(1, group.total_byte_size)))
            batches = file.iter_batches(size, row_groups=[number], columns=columns)
            while True:
                with _whole(part.path, f"row {place}"):
                    batch = next(batches, None)
                if batch is None:
                    break
                yield from _from_batch(batch, place, text_column, language_column)
                place += batch.num_rows


def _read_arrow(part: Part, text_column: str, language_column: str) -> Iterator[Document]:
    place = 0
    with pa.OSFile(part.path) as stream, _whole(part.path, "its schema"), pa.ipc.open_stream(stream) as reader:
        batches = iter(reader)
        while True:
            with _whole(part.path, f"row {place}"):
                batch = next(batches, None)
            if batch is None:
                return
            for start in range(0, batch.num_rows, 1024):
                yield from _from_batch(batch.slice(start, 1024), place + start, text_column, language_column)
            place += batch.num_rows


def _from_batch(batch: pa.RecordBatch, place: int, text_column: str, language_column: str) -> Iterator[Document]:
    texts = _values(batch.column(text_column))
    languages = _values(batch.column(language_column)) if language_column else [""] * batch.num_rows
    for i, (text, language) in enumerate(zip(texts, languages, strict=True)):
        yield _document(place + i, text, language)


def _values(column: pa.Array) -> list[Any]:
    """Strings, None where there is none, bytes where they are no UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in islice(column, len(column))]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes()
