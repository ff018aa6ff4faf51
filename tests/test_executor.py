"""Shards are made once, whole, in order, whatever the number of workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from components.shared import ray_executor
from components.shared.executor import ExecutorConfig, ExecutorKind, map_shards

RAY = ExecutorConfig(kind=ExecutorKind.ray, num_workers=2)


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


@pytest.mark.parametrize(("kind", "num_workers"), [("local", 0), ("local", -1), ("ray", -1)])
def test_a_number_of_workers_that_makes_no_sense_is_one_line(tmp_path: Path, kind: str, num_workers: int) -> None:
    settings = ExecutorConfig(kind=ExecutorKind(kind), num_workers=num_workers)
    with pytest.raises(ValueError, match=rf"executor\.num_workers: got {num_workers}, wanted at least"):
        map_shards(square, [1], ["key"], work=tmp_path, config=settings, progress=plain)


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


# In Ray actors


class Unusual(Exception):
    """An error that Ray does not know, with a line of its own."""

    def __init__(self, place: int, reason: str) -> None:
        super().__init__(place, reason)
        self.place, self.reason = place, reason

    def __str__(self) -> str:
        return f"place {self.place}: {self.reason}"


def describe(item: object, path: Path) -> None:
    path.write_text(f"{type(item).__name__} {item} {os.environ['OMP_NUM_THREADS']} {Path.cwd()}")


def fail_unusually(item: int, path: Path) -> None:
    path.write_text("half")
    if item == 3:
        raise Unusual(item, "broken input")
    time.sleep(0.5)


def die_once(item: int, path: Path) -> None:
    path.write_text("half")
    died = path.parents[1] / "died"
    if item == 3 and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    path.write_text(str(item))


def die_unless_healed(item: int, path: Path) -> None:
    if item == 3 and not (path.parents[1] / "healed").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    path.write_text(str(item))


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One Ray for all tests that only use it: to start it takes seconds."""
    with ray_executor.connected(num_cpus=2):
        yield


@pytest.mark.slow
def test_ray_listens_on_this_machine_alone_and_says_nothing(tmp_path: Path) -> None:
    code = f"""
import psutil, threading
from pathlib import Path
from components.shared import executor
from test_executor import RAY, describe
listening = []
def watched(counts, total):
    for count in counts:
        for process in psutil.Process().children(recursive=True):
            listening.extend(c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN)
        yield count
made = executor.map_shards(describe, [[1], "two", 3], ["x", "y", "z"], work=Path({str(tmp_path)!r}),
                           config=RAY, progress=watched)
print([path.read_text() for path in made])
assert listening and all(ip.removeprefix("::ffff:") in ("127.0.0.1", "::1") for ip in listening), listening
assert not psutil.Process().children(recursive=True)
assert not [thread.name for thread in threading.enumerate() if "usage" in thread.name]
"""
    root = Path(__file__).resolve().parents[1]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])}
    env.pop("RAY_ADDRESS", None)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    wanted = [f"list [1] 1 {tmp_path}", f"str two 1 {tmp_path}", f"int 3 1 {tmp_path}"]
    assert (done.stdout, done.stderr) == (f"{wanted}\n", "")


@pytest.mark.slow
def test_an_error_in_a_ray_actor_is_raised_as_it_was_and_shards_under_way_end(tmp_path: Path, ray_here: None) -> None:
    items = list(range(1, 9))
    with pytest.raises(Unusual) as caught:
        map_shards(fail_unusually, items, keys(items), work=tmp_path, config=RAY, progress=plain)
    assert str(caught.value) == "place 3: broken input" and "in fail_unusually" in caught.value.__notes__[0]
    names = {path.name for path in (tmp_path / "shards").iterdir()}
    assert {"key1", "key2"} <= names <= {"key1", "key2", "key4"}


@pytest.mark.slow
def test_a_ray_worker_that_is_killed_is_replaced_and_nothing_is_lost(tmp_path: Path, ray_here: None) -> None:
    items = [1, 2, 3, 4, 5]
    paths = map_shards(die_once, items, keys(items), work=tmp_path, config=RAY, progress=plain)
    assert [path.read_text() for path in paths] == ["1", "2", "3", "4", "5"] and (tmp_path / "died").exists()


@pytest.mark.slow
def test_a_shard_that_kills_its_workers_is_one_clear_error_and_a_second_run_completes(
    tmp_path: Path, ray_here: None
) -> None:
    items = [1, 2, 3, 4]
    with pytest.raises(BrokenProcessPool, match=r"^shard key3: its worker died 4 times; is it out of memory\?"):
        map_shards(die_unless_healed, items, keys(items), work=tmp_path, config=RAY, progress=plain)
    (tmp_path / "healed").touch()
    paths = map_shards(die_unless_healed, items, keys(items), work=tmp_path, config=RAY, progress=plain)
    assert [path.read_text() for path in paths] == ["1", "2", "3", "4"]


def test_without_ray_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"^executor.kind: got ray, which is not installed .*pip install .*\[ray\]"):
        map_shards(square, [1], ["key"], work=tmp_path, config=RAY, progress=plain)


def test_more_actors_than_devices_are_refused_and_zero_means_one_a_device() -> None:
    cluster = {"CPU": 4.0, "GPU": 2.0}
    gpus, cpus = (ray_executor.devices_of(cluster, on_gpu, num_threads=1) for on_gpu in (True, False))
    assert ray_executor.num_actors(gpus, 0, on_gpu=True, place="c") == 2
    assert ray_executor.num_actors(cpus, 0, on_gpu=False, place="c") == 4
    assert ray_executor.num_actors(cpus, 3, on_gpu=False, place="c") == 3
    assert ray_executor.devices_of(cluster, on_gpu=False, num_threads=3) == 1
    with pytest.raises(ValueError, match=r"executor\.num_workers: got 3, wanted at most 2, the GPUs of c"):
        ray_executor.num_actors(gpus, 3, on_gpu=True, place="c")
    with pytest.raises(ValueError, match=r"executor\.kind: got ray, but c has no GPU"):
        ray_executor.num_actors(0, 0, on_gpu=True, place="c")
