"""Shards are made once, whole, in order, whatever the number of workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from components.shared.executor import ExecutorConfig, ExecutorKind, map_shards


def plain(counts: Iterable[int], total: int) -> Iterable[int]:
    return counts


def square(item: int, path: Path) -> None:
    path.write_text(f"{item * item} by {os.getpid()}")


def fail_at_three(item: int, path: Path) -> None:
    path.write_text("half")
    if item == 3:
        raise ValueError("shard 3: broken input")


def config(num_workers: int) -> ExecutorConfig:
    return ExecutorConfig(kind=ExecutorKind.local, num_workers=num_workers)


def keys(items: list[int]) -> list[str]:
    return [f"key{item}" for item in items]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_come_in_the_order_of_the_items(tmp_path: Path, num_workers: int) -> None:
    items = [5, 1, 4, 2]
    paths = map_shards(square, items, keys(items), work=tmp_path, config=config(num_workers), progress=plain)
    assert [path.read_text().split()[0] for path in paths] == ["25", "1", "16", "4"]


def test_a_finished_shard_is_never_made_again(tmp_path: Path) -> None:
    first = map_shards(square, [1, 2], keys([1, 2]), work=tmp_path, config=config(1), progress=plain)
    before = [path.stat().st_mtime_ns for path in first]
    counted: list[int] = []

    def count(done: Iterable[int], total: int) -> Iterable[int]:
        counted.append(total)
        return done

    again = map_shards(square, [1, 2, 3], keys([1, 2, 3]), work=tmp_path, config=config(1), progress=count)
    assert [path.stat().st_mtime_ns for path in again[:2]] == before
    assert counted == [1]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_failure_keeps_whole_shards_and_no_half_one(tmp_path: Path, num_workers: int) -> None:
    items = [1, 2, 3, 4]
    with pytest.raises(ValueError, match="shard 3: broken input"):
        map_shards(fail_at_three, items, keys(items), work=tmp_path, config=config(num_workers), progress=plain)
    names = {path.name for path in (tmp_path / "shards").iterdir()}
    assert {"key1", "key2"} <= names <= {"key1", "key2", "key4"}


def test_equal_keys_of_two_items_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 items but 1 distinct keys"):
        map_shards(square, [1, 2], ["same", "same"], work=tmp_path, config=config(1), progress=plain)


SLOW_SHARDS = """
import sys, time
from pathlib import Path
from components.shared.executor import ExecutorConfig, ExecutorKind, map_shards

def make(item, path):
    with path.open("w") as stream:
        for number in range(10):
            stream.write(f"{item}\\n"); stream.flush(); time.sleep(0.02)

items = list(range(8))
map_shards(make, items, [f"key{i}" for i in items], work=Path(sys.argv[1]),
           config=ExecutorConfig(kind=ExecutorKind.local, num_workers=1), progress=lambda counts, total: counts)
"""


def test_kill_minus_nine_in_the_middle_of_a_shard_and_again(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLOW_SHARDS, str(tmp_path)]
    process = subprocess.Popen(command)
    shards = tmp_path / "shards"
    while not (shards / "key2").exists():
        time.sleep(0.01)
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    whole = {path.name: path.stat().st_mtime_ns for path in shards.glob("key*")}
    assert {"key0", "key1", "key2"} <= set(whole) and len(whole) < 8
    subprocess.run(command, check=True)
    assert [(shards / f"key{i}").read_text() for i in range(8)] == [f"{i}\n" * 10 for i in range(8)]
    assert {name: (shards / name).stat().st_mtime_ns for name in whole} == whole
