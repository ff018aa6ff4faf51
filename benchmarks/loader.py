"""How fast are packed sequences read, and is the reader ever what a GPU waits for?

    python -m benchmarks.loader [--tokens 100000000] [--rounds 3] [--out runs/benchmarks/loader.json]

The data: documents of five sources in the paper's shares with lognormal lengths, packed whole into sequences of 8192,
in a random order over all shards; the same tokens as one flat file and as litdata's chunks. Every way gives the same
number of batches of 8 sequences, int64 on the CPU. Ours gives labels, positions, segments and sources and keeps
documents whole; the flat file and litdata give blocks cut anywhere and their shift by one as labels.
"cold" is read after the kernel was told to forget the files; "fetched" through an empty cache of a file:// store, with
the copies and their hashes. Tokens are counted without padding, seconds are those of the clock after the first batch,
the best of the rounds; memory is anonymous, of the process and its workers at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader, Dataset

from components.shared.external import publish
from components.shared.manifest import remove, seal
from components.shared.packed_data import PIECE, PackedData, write_ids
from components.shared.packed_loader import PackedLoader
from components.shared.packing import best_fit
from components.shared.shard_cache import ShardCache

LENGTH, BATCH, SHARDS, WINDOW, VOCABULARY = 8192, 8, 8, 20_000, 180_000
SOURCES = {
    "text": (0.30, 1000),
    "speech": (0.05, 300),
    "asr": (0.03, 400),
    "tts": (0.02, 400),
    "interleaved": (0.60, 1400),
}
"""Share of the tokens and mean length of a document (guess)."""
CASES = {
    "ours, inline": "ours 0 local",
    "ours, 1 worker": "ours 1 local",
    "ours, 2 workers": "ours 2 local",
    "ours, inline, cold": "ours 0 cold",
    "ours, inline, through the cache": "ours 0 cache",
    "ours, 2 workers, through the cache": "ours 2 cache",
    "ours, 2 workers, fetched": "ours 2 fetched",
    "flat file, inline": "flat 0 local",
    "flat file, 2 workers": "flat 2 local",
    "flat file, inline, cold": "flat 0 cold",
    "litdata, inline": "litdata 0 local",
    "litdata, 1 worker": "litdata 1 local",
    "litdata, 2 workers": "litdata 2 local",
}


def make(root: Path, num_tokens: int) -> int:
    """The mix folder, its store and its stand-in, the flat file and litdata's chunks; number of sequences."""
    shards = root / "shards"
    shards.mkdir(parents=True)
    rng = np.random.default_rng(0)
    records = []
    with (root / "flat.bin").open("wb") as flat:
        for source, (name, (share, mean)) in enumerate(SOURCES.items()):
            for shard in range(SHARDS):
                count = max(1, int(num_tokens * share / mean / SHARDS))
                lengths = np.clip(rng.lognormal(np.log(mean) - 0.32, 0.8, count), 8, LENGTH).astype(np.uint32)
                offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.uint64)]).astype("<u8")
                tokens = rng.integers(0, VOCABULARY, int(offsets[-1]), dtype=np.uint32)
                tokens.tofile(shards / f"{name}-{shard:05d}.bin")
                tokens.tofile(flat)
                offsets.tofile(shards / f"{name}-{shard:05d}.offsets")
                write_ids(shards / f"{name}-{shard:05d}.ids.parquet", [f"{name}-{shard}-{i}" for i in range(count)])
                found = np.zeros(count, PIECE)
                found["source"], found["shard"] = source, shard
                found["document"], found["length"] = np.arange(count), lengths
                records.append(found)
    together = rng.permutation(np.concatenate(records))
    packed, ends = [], [0]
    for window in np.array_split(together, max(1, len(together) // WINDOW)):
        for one in best_fit(window["length"], LENGTH):
            packed.append(window[one])
            ends.append(ends[-1] + len(one))
    np.concatenate(packed).tofile(shards / "train.pieces")
    np.array(ends, "<u8").tofile(shards / "train.sequences")
    extra = {"sources": list(SOURCES), "sequence_length": LENGTH, "pad_id": VOCABULARY}
    seal(shards, extra={**extra, "vocabulary_size": VOCABULARY + 1})
    publish(shards, f"file://{root}/store", root / "external")
    return len(ends) - 1


def blocks(path: str) -> Iterator[torch.Tensor]:
    """The flat file as pieces for litdata's writer."""
    tokens = np.memmap(path, "<u4", "r")
    for start in range(0, len(tokens), 1 << 20):
        yield torch.from_numpy(tokens[start : start + (1 << 20)].astype(np.int32))


def make_litdata(root: Path) -> None:
    """litdata's chunks of 64 MB of the same tokens."""
    from litdata import TokensLoader, optimize

    optimize(
        fn=blocks,
        inputs=[str(root / "flat.bin")],
        output_dir=str(root / "litdata"),
        chunk_bytes="64MB",
        item_loader=TokensLoader(),
        num_workers=1,
    )


class Flat(Dataset):  # type: ignore[type-arg]
    """Blocks of one memory-mapped file, drawn at random, as most small trainers read."""

    def __init__(self, path: Path, num_batches: int) -> None:
        self.path, self.num_batches = path, num_batches

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = np.memmap(self.path, "<u4", "r")
        starts = np.random.default_rng(number).integers(0, len(tokens) - LENGTH - 1, BATCH)
        both = np.stack([tokens[i : i + LENGTH + 1] for i in starts]).astype(np.int64)
        return torch.from_numpy(both[:, :-1]), torch.from_numpy(both[:, 1:])


def batches(root: Path, kind: str, workers: int, place: str, count: int) -> tuple[Iterator[Any], Callable[[Any], int]]:
    """An iterator over batches, and what counts their tokens."""
    if kind == "ours":
        folder, cache = root / "shards", None
        if place in ("cache", "fetched"):
            folder, cache = root / "external", ShardCache(root / "cache", 10**12, workers + 1)
        if place == "fetched":
            remove(root / "cache")
        data = PackedData(folder, "train", cache)
        loader = PackedLoader(data, BATCH, count, False, num_workers=workers, prefetch_sequences=16 * BATCH)
        return iter(loader), lambda batch: int((batch["segments"] > 0).sum())
    if kind == "flat":
        return iter(DataLoader(Flat(root / "flat.bin", count), batch_size=None, num_workers=workers)), (
            lambda batch: batch[0].numel()
        )
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

    read = StreamingDataset(str(root / "litdata"), item_loader=TokensLoader(block_size=LENGTH), shuffle=True, seed=0)
    loaded = StreamingDataLoader(read, batch_size=BATCH, num_workers=workers)

    def labelled() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in loaded:
            token_ids = batch.long()
            yield token_ids, token_ids.roll(-1, 1)

    return labelled(), lambda batch: batch[0].numel()


def forget(root: Path) -> None:
    """Have the kernel drop the pages of the data."""
    os.sync()
    for path in [root / "flat.bin", *(root / "shards").iterdir()]:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def anonymous_mb() -> float:
    """Anonymous resident memory of this process and its children."""
    me = psutil.Process()
    total = 0
    for process in [me, *me.children(recursive=True)]:
        status = Path(f"/proc/{process.pid}/status").read_text()
        total += int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1])
    return total / 1000


def measure(root: Path, case: str, count: int) -> dict[str, float]:
    """One case, once, in this process."""
    kind, workers, place = case.split()
    torch.set_num_threads(1)
    if place == "cold":
        forget(root)
    source, tokens_of = batches(root, kind, int(workers), place, count)
    next(source)
    read = 0
    started = time.perf_counter()
    for _ in range(count - 2):
        read += tokens_of(next(source))
    seconds = time.perf_counter() - started
    return {"tokens": read, "tokens_per_s": read / seconds, "anonymous_mb": anonymous_mb()}


def main() -> None:
    """Make the data, measure every case in a process of its own, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=100_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--place", type=Path, help="folder for the data, on the disk to measure; by default temporary")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/loader.json"))
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        folder, case, count = options.case
        print(json.dumps(measure(Path(folder), case, int(count))), flush=True)
        return
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="speechloom-loader-", dir=options.place) as place:
        count = make(Path(place) / "data", options.tokens) // BATCH
        make_litdata(Path(place) / "data")
        for _ in range(options.rounds):
            for name, case in CASES.items():
                command = [sys.executable, "-m", "benchmarks.loader", "--case", f"{place}/data", case, str(count)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                row = json.loads(done.stdout.splitlines()[-1])
                if name not in rows or row["tokens_per_s"] > rows[name]["tokens_per_s"]:
                    rows[name] = row
    print(f"{count} batches of {BATCH} x {LENGTH}\n{'way':<38}{'M tokens/s':>12}{'anonymous MB':>14}")
    for name, row in rows.items():
        print(f"{name:<38}{row['tokens_per_s'] / 1e6:>12.1f}{row['anonymous_mb']:>14.0f}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    setting = {"tokens": options.tokens, "rounds": options.rounds, "batches": count, "cpus": os.cpu_count()}
    options.out.write_text(json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
