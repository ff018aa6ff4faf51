"""Shards before training: what is missing, cut or changed since planning is named, what was read is not read again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.shared import shard_check
from components.shared.loader_config import Verify
from components.shared.manifest import read_manifest, sha256_of
from components.shared.shard_check import check_shards
from tests.packed_shards import write_shards


def flip(path: Path) -> str:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return sha256_of(path)


def test_a_shard_that_was_changed_is_named_with_both_hashes(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards")
    (wanted,) = [entry.sha256 for entry in read_manifest(folder).files if entry.path == "speech-00001.bin"]
    got = flip(folder / "speech-00001.bin")
    assert check_shards(folder, Verify.sizes, tmp_path / "work") == 0
    with pytest.raises(ValueError, match=rf"speech-00001\.bin: got sha256 {got}, wanted {wanted}"):
        check_shards(folder, Verify.hashes, tmp_path / "work")


@pytest.mark.parametrize("verify", Verify)
def test_a_shard_that_is_missing_or_cut_is_named_whatever_is_verified(tmp_path: Path, verify: Verify) -> None:
    folder = write_shards(tmp_path / "shards")
    path = folder / "text-00001.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-4])
    with pytest.raises(ValueError, match=rf"text-00001\.bin: got {len(content) - 4} bytes, wanted {len(content)}"):
        check_shards(folder, verify, tmp_path / "work")
    path.unlink()
    with pytest.raises(ValueError, match=r"text-00001\.bin: missing"):
        check_shards(folder, verify, tmp_path / "work")


def test_what_was_read_is_read_again_only_when_it_was_touched(tmp_path: Path) -> None:
    folder, work = write_shards(tmp_path / "shards"), tmp_path / "work"
    total = sum(entry.size for entry in read_manifest(folder).files)
    assert check_shards(folder, Verify.hashes, work) == total
    assert check_shards(folder, Verify.hashes, work) == 0
    path = folder / "asr-00000.bin"
    os.utime(path, ns=(0, 0))
    assert check_shards(folder, Verify.hashes, work) == path.stat().st_size
    flip(path)
    with pytest.raises(ValueError, match=r"asr-00000\.bin"):
        check_shards(folder, Verify.hashes, work)


def test_what_was_read_before_a_failure_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_check, "_THREADS", 1)
    folder, work = write_shards(tmp_path / "shards"), tmp_path / "work"
    smallest = min(read_manifest(folder).files, key=lambda entry: entry.size)  # read last
    content = (folder / smallest.path).read_bytes()
    flip(folder / smallest.path)
    with pytest.raises(ValueError, match="wanted"):
        check_shards(folder, Verify.hashes, work)
    (folder / smallest.path).write_bytes(content)
    again = check_shards(folder, Verify.hashes, work)
    assert smallest.size <= again < sum(entry.size for entry in read_manifest(folder).files)


def test_ranks_share_the_work_and_know_what_the_others_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, work = write_shards(tmp_path / "shards"), tmp_path / "work"
    hashed = []
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        hashed.append(check_shards(folder, Verify.hashes, work))
    total = sum(entry.size for entry in read_manifest(folder).files)
    assert sum(hashed) == total and max(hashed) < total / 2
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert check_shards(folder, Verify.hashes, work) == 0
    changed = [flip(folder / name) for name in ("text-00000.bin", "text-00001.bin", "speech-00000.bin")]
    monkeypatch.setenv("WORLD_SIZE", "3")
    failed = 0
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        try:
            check_shards(folder, Verify.hashes, work)
        except ValueError as error:
            failed += 1
            assert any(got in str(error) for got in changed)
    assert failed >= 1
