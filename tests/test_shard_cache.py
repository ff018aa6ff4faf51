"""Shards in a store: fetched once, verified, tried again, removed when room is needed and never while in use."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.entry import classify
from components.shared import stores
from components.shared.external import publish
from components.shared.manifest import Entry, read_manifest, sha256_of, verify
from components.shared.packed_data import PackedData
from components.shared.packed_loader import PackedLoader
from components.shared.shard_cache import ShardCache
from components.shared.stores import Damaged
from tests.packed_shards import served, write_shards

ROOT = Path(__file__).resolve().parents[1]


def stored(root: Path, size: int = 1000, count: int = 5) -> list[Entry]:
    """Files of a folder as entries of a manifest without URIs."""
    root.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(count):
        path = root / f"{number}.bin"
        path.write_bytes(np.random.default_rng(number).bytes(size))
        found.append(Entry(path=path.name, size=size, sha256=sha256_of(path), num_rows=0))
    return found


def at(uri: str, entries: list[Entry]) -> list[Entry]:
    return [Entry(**{**vars(entry), "uri": f"{uri}/{entry.path}"}) for entry in entries]


def cache_of(root: Path, max_bytes: int = 10**6, readers: int = 1) -> ShardCache:
    return ShardCache(root / "cache", max_bytes, readers, waits_s=(0.0, 0.0))


def kept(cache: ShardCache) -> set[str]:
    return {path.name for path in cache.folder.iterdir() if path.is_file()}


def test_a_file_is_fetched_once_however_many_ask_at_the_same_time(tmp_path: Path) -> None:
    entries = stored(tmp_path / "store")
    with served(tmp_path / "store") as (uri, asked):
        cache = cache_of(tmp_path)
        with ThreadPoolExecutor(8) as threads:
            paths = list(threads.map(cache.fetch, at(uri, entries) * 4))
    assert sorted(asked) == [f"/{number}.bin" for number in range(5)]
    assert all(sha256_of(path) == path.name for path in paths)
    assert kept(cache) == {entry.sha256 for entry in entries}
    assert cache.fetched_bytes == 5000


@pytest.mark.parametrize("fault", ["503", "cut", "flip"])
def test_what_passes_is_tried_again_and_what_stays_is_said(tmp_path: Path, fault: str) -> None:
    (entry,) = stored(tmp_path / "store", count=1)
    with served(tmp_path / "store", [fault, fault]) as (uri, asked):
        path = cache_of(tmp_path).fetch(at(uri, [entry])[0])
    assert sha256_of(path) == entry.sha256 and len(asked) == 3
    path.unlink()
    with served(tmp_path / "store", [fault] * 9) as (uri, asked):
        cache = cache_of(tmp_path)
        with pytest.raises((ConnectionError, Damaged)) as caught:
            cache.fetch(at(uri, [entry])[0])
    assert len(asked) == 3 and kept(cache) == set()
    kind, line = classify(caught.value)
    assert kind == ("user" if fault == "flip" else "transient") and f"{uri}/0.bin" in line
    if fault == "flip":
        assert f"wanted {entry.sha256}" in line and "got sha256" in line


def test_a_store_that_is_away_is_transient(tmp_path: Path) -> None:
    with served(tmp_path) as (uri, _):
        pass
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1"):
        cache_of(tmp_path).fetch(at(uri, stored(tmp_path / "store", count=1))[0])


@pytest.mark.parametrize(("fault", "words"), [("404", "no such file in the store"), ("403", "answers 403")])
def test_a_file_that_a_store_does_not_have_or_give_is_the_users_matter(tmp_path: Path, fault: str, words: str) -> None:
    (entry,) = stored(tmp_path / "store", count=1)
    with served(tmp_path / "store", [fault] * 9) as (uri, asked), pytest.raises(ValueError, match=words):
        cache_of(tmp_path).fetch(at(uri, [entry])[0])
    assert len(asked) == 1


def test_a_store_without_its_library_says_which(tmp_path: Path) -> None:
    (entry,) = stored(tmp_path / "store", count=1)
    entry.uri = "gs://bucket/0.bin"
    with pytest.raises(ValueError, match=r"gs://bucket/0\.bin: .*gcsfs"):
        cache_of(tmp_path).fetch(entry)


def test_a_full_disk_is_said_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (entry,) = at("file:///dev", stored(tmp_path / "store", count=1))
    entry.uri = f"file://{tmp_path}/store/0.bin"
    # /dev/full is the real thing: what is written there meets ENOSPC
    monkeypatch.setattr("components.shared.shard_cache.fetch", lambda entry, _: stores.fetch(entry, Path("/dev/full")))
    with pytest.raises(OSError) as caught:
        cache_of(tmp_path).fetch(entry)
    assert caught.value.errno == errno.ENOSPC and classify(caught.value)[0] == "user"


def test_a_hash_cannot_name_a_path_outside(tmp_path: Path) -> None:
    entry = Entry(path="x", size=1, sha256="../../escaped", num_rows=0, uri="file:///etc/hostname")
    with pytest.raises(ValueError, match="wanted 64 hexadecimal digits"):
        cache_of(tmp_path).fetch(entry)


def test_the_least_recently_used_goes_and_what_is_open_stays(tmp_path: Path) -> None:
    entries = at(f"file://{tmp_path}/store", stored(tmp_path / "store"))
    cache = cache_of(tmp_path, max_bytes=3000)
    held = cache.open(entries[0])
    for entry in entries[1:3]:
        cache.fetch(entry)
        os.utime(cache.folder / entry.sha256, ns=(10**9, 10**9 + int(entry.path[0])))
    os.utime(cache.folder / entries[0].sha256, ns=(0, 0))  # the oldest, but open
    cache.fetch(entries[3])
    assert kept(cache) == {entries[0].sha256, entries[2].sha256, entries[3].sha256}
    held.close()
    os.utime(cache.folder / entries[0].sha256, ns=(0, 0))
    cache.fetch(entries[4])
    assert kept(cache) == {entries[2].sha256, entries[3].sha256, entries[4].sha256}


def test_a_map_keeps_its_file_after_the_stream_is_closed(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards")
    publish(folder, f"file://{tmp_path}/store", tmp_path / "external")
    cache = cache_of(tmp_path)
    data = PackedData(tmp_path / "external", "train", cache)
    data.batch([0], False)
    record = data.pieces(0)[0]
    name = data._shard_name(int(record["source"]), int(record["shard"]))
    with (cache.folder / data.entries[f"{name}.bin"].sha256).open("rb") as stream:
        with pytest.raises(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        del data
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_cache_all_in_use_or_too_small_says_so(tmp_path: Path) -> None:
    entries = at(f"file://{tmp_path}/store", stored(tmp_path / "store"))
    cache = cache_of(tmp_path, max_bytes=2000)
    held = [cache.open(entry) for entry in entries[:2]]
    with pytest.raises(ValueError, match=r"are in use by running processes.*raise it"):
        cache.fetch(entries[2])
    assert len(held) == 2
    publish(write_shards(tmp_path / "shards"), f"file://{tmp_path}/there", tmp_path / "external")
    data = PackedData(tmp_path / "external", "train", cache)
    with pytest.raises(ValueError, match=r"cache_gb: got 2e-06, wanted at least .* 1 readers share it"):
        next(iter(PackedLoader(data, 4, 3, False, prefetch_sequences=8)))


KILLED = """
import sys, time
from pathlib import Path
from components.shared import shard_cache
from components.shared.manifest import Entry

def fetch(entry, path):
    path.write_bytes(b"half")
    print("begun", flush=True)
    time.sleep(60)

shard_cache.fetch = fetch
shard_cache.ShardCache(Path(sys.argv[1]), 3000).fetch(Entry(path="x", size=2500, sha256="a" * 64, num_rows=0))
"""


def test_what_a_killed_process_left_is_removed_and_nobody_waits_for_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "cache")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "begun\n"
    cache = cache_of(tmp_path, max_bytes=3000)
    (entry,) = at(f"file://{tmp_path}/store", stored(tmp_path / "store", count=1))
    with pytest.raises(ValueError, match="in use by running"):  # what is under way is counted with its whole size
        cache.fetch(entry)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    cache.fetch(entry)
    assert kept(cache) == {entry.sha256}


def _read(folder: Path, cache: ShardCache, seed: int, found: Any) -> None:
    data, plain = PackedData(folder / "external", "train", cache), PackedData(folder / "shards", "train")
    for number in np.random.default_rng(seed).permutation(len(plain))[:60].tolist():
        if not np.array_equal(data.batch([number], False), plain.batch([number], False)):
            found.put("differs")
            return
    found.put(cache.fetched_bytes)


@pytest.mark.slow
def test_processes_share_a_cache_that_is_too_small_for_all(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards", documents=80, shards=6)
    publish(folder, f"file://{tmp_path}/store", tmp_path / "external")
    manifest = read_manifest(tmp_path / "external")
    entries = [entry for entry in manifest.files if entry.path.endswith((".bin", ".offsets"))]
    total, largest = sum(entry.size for entry in entries), max(entry.size for entry in entries)
    cache = ShardCache(tmp_path / "cache", 8 * 2 * largest, 2)
    assert cache.max_bytes < total
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    started = [context.Process(target=_read, args=(tmp_path, cache, seed, found)) for seed in range(2)]
    for process in started:
        process.start()
    most = 0
    while any(process.is_alive() for process in started):
        total_now = 0
        for path in list((tmp_path / "cache").glob("[0-9a-f.]*")):
            with contextlib.suppress(FileNotFoundError):
                total_now += path.stat().st_size
        most = max(most, total_now)
        time.sleep(0.005)
    fetched = [found.get(timeout=60) for _ in started]
    assert all(isinstance(count, int) for count in fetched), fetched
    assert sum(fetched) > total  # they were fetched again after they had been removed
    assert largest < most <= cache.max_bytes


def test_the_shards_ahead_are_fetched_before_they_are_read(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards")
    publish(folder, f"file://{tmp_path}/store", tmp_path / "external")
    cache = cache_of(tmp_path)
    data = PackedData(tmp_path / "external", "train", cache)
    batches = iter(PackedLoader(data, 2, 6, False, prefetch_sequences=len(data)))
    next(batches)
    wanted = {entry.sha256 for entry in data.files(range(12))}
    deadline = time.monotonic() + 20
    while not wanted <= kept(cache) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert wanted <= kept(cache)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_published_mix_reads_like_the_folder_over_http(tmp_path: Path, workers: int) -> None:
    folder = write_shards(tmp_path / "shards")
    (tmp_path / "store").mkdir()
    with served(tmp_path / "store", ["503"]) as (uri, _):
        publish(folder, f"file://{tmp_path}/store", tmp_path / "sent")
        manifest = (tmp_path / "sent" / "manifest.json").read_text()
        (tmp_path / "sent" / "manifest.json").write_text(manifest.replace(f"file://{tmp_path}/store", uri))
        data = PackedData(tmp_path / "sent", "train", cache_of(tmp_path, readers=workers + 1))
        plain = PackedData(folder, "train")
        for got, wanted in zip(
            PackedLoader(data, 4, 5, False, num_workers=workers), PackedLoader(plain, 4, 5, False), strict=True
        ):
            assert all(np.array_equal(got[name], wanted[name]) for name in wanted)
        assert data.describe([3]) == plain.describe([3])
    assert read_manifest(tmp_path / "sent").content_hash == read_manifest(folder).content_hash
    assert verify(tmp_path / "sent").storage == "external"


def test_external_shards_need_a_cache(tmp_path: Path) -> None:
    publish(write_shards(tmp_path / "shards"), f"file://{tmp_path}/store", tmp_path / "sent")
    with pytest.raises(ValueError, match="wanted a cache to read it through"):
        PackedData(tmp_path / "sent", "train")


def test_publishing_again_sends_nothing_and_a_changed_shard_is_refused(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards")
    assert publish(folder, f"file://{tmp_path}/store", tmp_path / "first") == (18, 0)
    assert publish(folder, f"file://{tmp_path}/store", tmp_path / "second") == (0, 18)
    assert {path.name for path in (tmp_path / "first").iterdir()} == {
        "manifest.json", "train.pieces", "train.sequences", "validation.pieces", "validation.sequences",
    }  # fmt: skip
    content = bytearray((folder / "text-00000.bin").read_bytes())
    content[0] ^= 1
    (folder / "text-00000.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"text-00000\.bin: got sha256 [0-9a-f]{64}, wanted"):
        publish(folder, f"file://{tmp_path}/store", tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_the_command_says_what_it_did_and_what_it_could_not(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards")
    command = [sys.executable, "-m", "components.shared.external", str(tmp_path / "shards")]
    command += ["--to", f"file://{tmp_path}/store", "--manifest", str(tmp_path / "sent")]
    done = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False) for _ in range(2)]
    assert [one.returncode for one in done] == [0, 2], done
    assert "18 files sent" in done[0].stdout
    assert done[1].stderr == f"external: {tmp_path}/sent: is there already; wanted a new folder for the " + (
        "schedule and the manifest\n"
    )
