"""Folders say what they hold, appear whole or not at all, and cannot point outside themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.contracts import Text
from components.shared.manifest import (
    NAME,
    atomic,
    inside,
    read_json,
    read_manifest,
    read_table,
    replace,
    seal,
    shard_paths,
    verify,
    write_table,
)


def texts(num: int) -> list[Text]:
    return [
        Text(id=f"t{i}", text=f"text {i}", language="en", corpus="c", license="MIT", split="train") for i in range(num)
    ]


def test_a_table_reads_back_in_order_from_several_shards(tmp_path: Path) -> None:
    manifest = write_table(tmp_path, texts(7), Text, rows_per_shard=3, extra={"num_codes": 4})
    assert [entry.num_rows for entry in manifest.files] == [3, 3, 1]
    assert list(read_table(tmp_path, Text)) == texts(7)
    assert read_manifest(tmp_path).extra == {"num_codes": 4}


def test_an_empty_table_is_a_table(tmp_path: Path) -> None:
    assert write_table(tmp_path, [], Text).num_rows == 0
    assert list(read_table(tmp_path, Text)) == []


def test_equal_content_has_an_equal_hash_whatever_the_folder_is_called(tmp_path: Path) -> None:
    hashes = {write_table(tmp_path / name, texts(5), Text).content_hash for name in ("a", "b")}
    hashes.add(write_table(tmp_path / "c", texts(6), Text).content_hash)
    assert len(hashes) == 2


def test_a_folder_without_a_manifest_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no manifest; the folder is unfinished"):
        read_manifest(tmp_path)


def test_a_broken_row_leaves_no_manifest(tmp_path: Path) -> None:
    rows = [*texts(2), Text(id="", text="x", language="en", corpus="c", license="MIT", split="train")]
    with pytest.raises(ValueError, match="empty id"):
        write_table(tmp_path, rows, Text)
    assert not (tmp_path / NAME).exists()


def test_a_table_of_another_contract_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("x")
    seal(tmp_path, contract="Fact")
    with pytest.raises(ValueError, match="holds Fact, wanted Text"):
        shard_paths(tmp_path, Text)


def test_verify_finds_a_missing_and_a_changed_file(tmp_path: Path) -> None:
    write_table(tmp_path, texts(2), Text)
    assert verify(tmp_path).num_rows == 2
    shard = tmp_path / "part-00000.parquet"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + b"?")
    with pytest.raises(ValueError, match="content differs"):
        verify(tmp_path)
    shard.unlink()
    with pytest.raises(ValueError, match="missing"):
        verify(tmp_path)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../secret", "a\\..\\b", "nul\0"])
def test_a_manifest_that_points_outside_its_folder_is_refused(tmp_path: Path, path: str) -> None:
    seal(tmp_path)
    record = json.loads((tmp_path / NAME).read_text())
    record["files"] = [{"path": path, "size": 1, "sha256": "0" * 64, "num_rows": 0}]
    (tmp_path / NAME).write_text(json.dumps(record))
    with pytest.raises(ValueError, match="outside its folder"):
        read_manifest(tmp_path)


@given(st.lists(st.text(alphabet="ab._-", min_size=1, max_size=5), min_size=1, max_size=4))
def test_inside_never_leaves_the_folder(parts: list[str]) -> None:
    folder = Path("/somewhere/data")
    try:
        target = inside(folder, "/".join(parts))
    except ValueError:
        return
    assert os.path.normpath(target).startswith(str(folder))


def test_atomic_leaves_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_folder_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace(tmp_path / "new", tmp_path / "old")
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_what_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match=r"x\.json: not a JSON file"):
        read_json(tmp_path / "x.json")


FILL_THE_DISK = """
import resource, sys
from pathlib import Path
from components.shared.contracts import Text
from components.shared.manifest import write_table
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
rows = [Text(id=str(i), text=str(i * 7919) * 9, language="en", corpus="c", license="MIT", split="train")
        for i in range(2000)]
try:
    write_table(Path(sys.argv[1]), rows, Text)
except OSError as error:
    print("OSError", error.errno)
"""


def test_a_write_that_finds_no_room_leaves_no_table(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FILL_THE_DISK, str(tmp_path / "table")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("OSError"), done.stderr
    assert list((tmp_path / "table").iterdir()) == []
