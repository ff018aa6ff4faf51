"""How fast does collect turn bulk text into tables, step by step and on one core, and does its memory stay bounded?

    python -m benchmarks.texts [--mb 60] [--memory 30 300] [--out texts.json]

The corpus: lines of the pinned small corpora in documents of about 4 kB, dealt anew for each, two thirds English, one
third Chinese; a tenth are copies with one word in a hundred replaced. Each step is timed alone over the same documents
in this process; beside it stands the obvious way to do it without a library. Then the stage's own code runs over the
corpus as Parquet, JSONL and zstd-packed JSONL, one worker, each in a child process whose peak of resident memory is
read.
Seconds are those that the process had a core, which what else runs on the machine hardly changes. Tokens are counted as
4 characters of English or 1.5 of Chinese.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from threadpoolctl import threadpool_limits

from components.collect import bulk, near_duplicates
from components.collect.bulk_files import Part, find_parts, read
from components.collect.cleaning import clean, cut, has_word, words_of
from components.collect.config import (
    BulkCorpusConfig,
    BulkLanguageConfig,
    BulkTextConfig,
    SplitConfig,
    TextCorpusConfig,
    TextKind,
)
from components.collect.contamination import ItemIndex, Leaks
from components.collect.items import Items
from components.collect.languages import detect
from components.collect.ledger import Ledger
from components.collect.splits import units
from components.collect.texts import read_texts
from components.shared.executor import ExecutorConfig, ExecutorKind
from components.shared.manifest import write_json
from components.shared.tracking import TerminalTracker

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT_BYTES = 4000
NUM_HELD = 20_000
"""Patterns that documents are searched for: about what the tiny run has."""
PER_TOKEN = {"en": 4.0, "zh": 1.5}
"""Characters."""


def small_corpora() -> dict[str, list[str]]:
    """Language -> lines of the pinned corpora."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["collect"]["text_corpora"]
    configs = {
        name: TextCorpusConfig(**{**settings, "kind": TextKind[settings["kind"]], "max_units": 0})
        for name, settings in params.items()
    }
    split = SplitConfig(ngram=5, validation_share=0.0, test_share=0.0, stock_uses=5, min_speakers=10)
    lines: dict[str, list[str]] = {}
    for text in read_texts(configs, split, 17, ROOT, Ledger()):
        lines.setdefault(text.language, []).extend(re.findall(r"[^.!?。！？]+[.!?。！？]+\s*", text.text))
    return lines


def documents(lines: dict[str, list[str]], megabytes: float) -> Iterator[dict[str, str]]:
    """Documents of dealt lines with their language; every tenth is the one before it with some words replaced."""
    rng = np.random.default_rng(0)
    written, last = 0, {"text": "", "language": ""}
    while written < megabytes * 1e6:
        if last["text"] and rng.random() < 0.1:
            words = re.split(r"(\s+)", last["text"])
            for place in rng.integers(0, len(words), max(1, len(words) // 200)):
                words[place] = "anew"
            row = {**last, "text": "".join(words)}
        else:
            language = "zh" if rng.random() < 1 / 3 else "en"
            text, pool = "", lines[language]
            while len(text) * (3 if language == "zh" else 1) < DOCUMENT_BYTES:
                text += "\n".join(pool[i] for i in rng.integers(0, len(pool), 8))
            row = last = {"text": text, "language": language}
        written += len(row["text"].encode())
        yield row


def write(path: Path, rows: Iterator[dict[str, str]]) -> Path:
    """Rows as the kind of file that the name says, without holding them all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        schema = pa.schema([("text", pa.string()), ("language", pa.string())])
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            while some := [row for row, _ in zip(rows, range(1000), strict=False)]:
                writer.write_table(pa.Table.from_pylist(some, schema=schema))
        return path
    codec = "zstd" if path.suffix == ".zst" else None
    with pa.output_stream(str(path), compression=codec) as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return path


def settings(path: Path, language: str) -> BulkTextConfig:
    """As params.yaml has it, over one corpus."""
    section = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["collect"]["bulk_texts"]
    corpus = BulkCorpusConfig(
        path=str(path), text_column="text", language=language, language_column="language", license="x", max_units=0
    )
    languages = {name: BulkLanguageConfig(**values) for name, values in section["languages"].items()}
    return BulkTextConfig(**{**section, "corpora": {"web": corpus}, "languages": languages})


def patterns(lines: dict[str, list[str]]) -> list[str]:
    """N-grams of eight words that no document holds: a search that finds nothing looks at everything."""
    rng = np.random.default_rng(1)
    known = sorted({word for line in lines["en"] for word in words_of(line)})
    return [" ".join(known[i] for i in rng.integers(0, len(known), 8)) for _ in range(NUM_HELD)]


def plain_minhash(words: list[str], shingle: int, num_hashes: int, factors: np.ndarray) -> np.ndarray:
    """MinHash as it is usually written: a hash a shingle, num_hashes linear permutations of it, in numpy."""
    grams = {" ".join(words[i : i + shingle]) for i in range(max(1, len(words) - shingle + 1))}
    hashed = [int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest()) for gram in grams]
    known = np.array(hashed, np.uint64)[:, None]
    return ((known * factors[0] + factors[1]) % np.uint64(2**61 - 1)).min(axis=0)


def steps(lines: dict[str, list[str]], folder: Path, megabytes: float) -> dict[str, float]:
    """MB of UTF-8 text a CPU second of every step alone."""
    rows = list(documents(lines, megabytes))
    texts = [row["text"] for row in rows]
    size = sum(len(text.encode()) for text in texts) / 1e6
    config = settings(folder, "detect")
    speeds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any], share: float = 1.0) -> Any:
        started = time.process_time()
        result = work()
        speeds[name] = size * share / (time.process_time() - started)
        return result

    for ending in ("parquet", "jsonl", "jsonl.zst", "jsonl.gz"):
        path = folder / f"steps.{ending}"
        if ending == "jsonl.gz":
            path.write_bytes(pa.compress((folder / "steps.jsonl").read_bytes(), codec="gzip", asbytes=True))
        else:
            write(path, iter(rows))
        parts = find_parts(path, ["text"], 10**9, "here")
        timed(f"read {ending}", partial(_count, parts))
    timed("clean and cut", lambda: [cut(clean(text)[0], 32_000, 50) for text in texts if has_word(text)])
    words = timed("words", lambda: [words_of(text) for text in texts])
    detect("warm")
    with threadpool_limits(1, user_api="blas"):
        timed("language", lambda: [detect(text) for text in texts])
    held = patterns(lines)
    leaks = Leaks([], held)
    timed("leaks", lambda: [leaks.reason(found) for found in words])
    sizes = [config.languages[row["language"]].shingle for row in rows]
    pairs = list(zip(words, sizes, strict=True))
    signatures = timed("signatures", lambda: [near_duplicates.signature(w, n, config.num_hashes) for w, n in pairs])
    block = folder / "block"
    timed("bands sorted", lambda: near_duplicates.write_block(block, near_duplicates.band_hashes(signatures, 14)))
    ranges = near_duplicates.plan_ranges([near_duplicates.Block(folder=str(block), first=0)], len(texts))
    timed("repeats found", partial(near_duplicates.find_repeats, ranges[0], folder / "found"))

    few = slice(0, max(1, len(texts) // 8))
    share = sum(len(text.encode()) for text in texts[few]) / 1e6 / size
    index = ItemIndex(Items(stories=[], questions=[], spoken={}), "en")
    for pattern in held:
        index.by_start[tuple(pattern.split()[:3])].append(tuple(pattern.split()))
    timed("plain: words and leaks by word lists", lambda: [index.found_in(text) for text in texts[few]], share)
    factors = np.random.default_rng(0).integers(1, 2**61 - 1, (2, config.num_hashes), dtype=np.uint64)
    timed(
        "plain: signatures in numpy",
        lambda: [
            plain_minhash(units(row["text"], row["language"]), 5, config.num_hashes, factors) for row in rows[few]
        ],
        share,
    )
    return speeds


def _count(parts: list[Part]) -> int:
    return sum(1 for part in parts for _ in read(part, "text", ""))


def run_stage(folder: Path, path: Path, language: str, held: Path, answer: Any) -> None:
    """The stage's own code over one file, in a child process: CPU seconds, figures, peak of resident bytes."""
    executor = ExecutorConfig(kind=ExecutorKind.local, num_workers=1)
    planned = bulk.plan_bulk(settings(path, language), 17, ROOT, TerminalTracker())
    (folder / "texts").mkdir(parents=True)
    started = time.process_time()
    figures = bulk.write_bulk(planned, held, folder / "texts", folder, executor, TerminalTracker())
    seconds = time.process_time() - started
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    answer.put((seconds, figures, peak))


def whole(lines: dict[str, list[str]], folder: Path, megabytes: float, ending: str, language: str) -> dict[str, Any]:
    """What the stage needs for a file of so many megabytes of text."""
    held = folder / "held.json"
    write_json(held, {"asked": [], "held": patterns(lines)})
    path = write(folder / f"{ending}-{megabytes:g}" / f"web.{ending}", documents(lines, megabytes))
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    child = context.Process(target=run_stage, args=(path.parent / "work", path, language, held, answer))
    child.start()
    seconds, figures, peak = answer.get()
    child.join()
    tokens = sum(figures.get(f"bulk_characters_{name}", 0.0) / size for name, size in PER_TOKEN.items())
    size = figures["bulk_bytes"] / 1e6
    return {
        "file": ending,
        "language": language,
        "mb": size,
        "cpu_s": seconds,
        "mb_per_s": size / seconds,
        "tokens_per_s": tokens / seconds,
        "near_duplicates": figures.get("bulk_dropped_near_duplicate", 0.0) / figures["bulk_documents"],
        "peak_mb": peak / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=60.0, help="text for the steps and for each kind of file")
    parser.add_argument("--memory", type=float, nargs="*", default=[30.0, 300.0], help="sizes to look at memory with")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    lines = small_corpora()
    with tempfile.TemporaryDirectory(prefix="speechloom-texts-") as place:
        folder = Path(place)
        speeds = steps(lines, folder, options.mb)
        print(f"{'step, one core':40s}{'MB/s':>8s}")
        for name, speed in speeds.items():
            print(f"{name:40s}{speed:8.1f}")
        runs = [(options.mb, ending, "column") for ending in ("parquet", "jsonl", "jsonl.zst")]
        runs += [(options.mb, "parquet", "detect")]
        runs += [(size, ending, "column") for ending in ("parquet", "jsonl.zst") for size in options.memory]
        columns = f"{'MB':>6s}{'CPU s':>7s}{'MB/s':>7s}{'tokens/s':>11s}{'near-dup.':>10s}{'peak MB':>9s}"
        print(f"\n{'the stage, one worker':24s}{columns}")
        table = []
        for megabytes, ending, language in runs:
            row = whole(lines, folder / language, megabytes, ending, language)
            table.append(row)
            print(
                f"{ending + ', ' + language:24s}{row['mb']:6.0f}{row['cpu_s']:7.1f}{row['mb_per_s']:7.2f}"
                f"{row['tokens_per_s']:11,.0f}{row['near_duplicates']:10.1%}{row['peak_mb']:9.0f}",
                flush=True,
            )
    if options.out:
        options.out.write_text(json.dumps({"steps_mb_per_s": speeds, "stage": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
