"""How fast does one core turn rows into token shards and shards into a schedule, in how much memory?

    python -m benchmarks.mix [--words 1500000] [--documents 2000000] [--out mix.json]

Shards are made as in a run, by `components.mix.documents.make_shard`, with one thread; beside it stands the obvious
way: the table as Python objects, a call of the tokenizer a text, tokens as lists. The schedule is planned for documents
of lognormal lengths and utterances, at 8192 tokens and windows of 4096 sequences, beside best fit of one document after
the other.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"  # read once, when the tokenizers are first used

import numpy as np
import pyarrow.parquet as pq

from benchmarks.interleave import english
from components.mix.documents import Job, make_shard
from components.mix.order import Documents, SourceStream
from components.mix.schedule import windows, write
from components.shared.contracts import Interleaved, Segment, Text, from_table
from components.shared.formats import Formats
from components.shared.manifest import write_table
from components.shared.packing import best_fit_bins
from components.shared.tokens import Vocabulary, add_speech, load_tokenizer, train_bpe

NUM_CODES, VOCAB_SIZE = 16_384, 16_384
SPAN_WORDS, CODES_PER_WORD = 10, 4
"""Of ten words in thirty-three, ten are speech: the ratio of the paper."""
SEQUENCE, WINDOW = 8192, 4096


def interleaved(number: int, text: str) -> Interleaved:
    """A document of which every third stretch of ten words is random speech tokens."""
    rng = np.random.default_rng(number)
    words, segments, at = text.split(" "), [], 0
    for start in range(0, len(words), SPAN_WORDS):
        said = " ".join(words[start : start + SPAN_WORDS]) + " "
        spoken = (start // SPAN_WORDS) % 3 == 2
        tokens = rng.integers(0, NUM_CODES, CODES_PER_WORD * SPAN_WORDS).tolist() if spoken else []
        modality = "speech" if spoken else "text"
        segments.append(Segment(modality=modality, text=said, tokens=tokens, start=at, stop=at + len(said)))
        at += len(said)
    return Interleaved(
        id=f"d{number:06d}",
        language="en",
        corpus="benchmark",
        segments=segments,
        num_text_chars=sum(len(s.text) for s in segments if s.modality == "text"),
        num_speech_tokens=sum(len(s.tokens) for s in segments),
        engine="random",
        license="MIT",
        split="train",
    )


def write_rows(source: str, words: int, folder: Path) -> Path:
    """A table of one source as one shard, read from disk like any other; its Parquet file."""
    texts = english(words)
    if source == "text":
        rows: Any = (
            Text(id=f"d{i:06d}", text=text, language="en", corpus="benchmark", license="MIT", split="train")
            for i, text in enumerate(texts)
        )
        write_table(folder, rows, Text, rows_per_shard=10**9)
    else:
        write_table(folder, (interleaved(i, text) for i, text in enumerate(texts)), Interleaved, rows_per_shard=10**9)
    path = folder / "part-00000.parquet"
    pq.write_table(pq.read_table(path), path, compression="zstd", row_group_size=2000)  # as collect and synthesize do
    return path


def job_of(source: str, parquet: Path, tokenizer: Path) -> Job:
    """A job as the stage makes it."""
    return Job(
        source=source,
        parquet=parquet,
        tokenizer=tokenizer,
        num_codes=NUM_CODES,
        seed=17,
        held_out_share=0.01,
        spoken_share=1.0,
        filler=(),
        share_cores=True,
    )


def obvious(job: Job, folder: Path) -> None:
    """The same tokens by way of Python objects, one text at a time."""
    tokenizer = load_tokenizer(job.tokenizer)
    formats = Formats(tokenizer, Vocabulary.of(tokenizer, NUM_CODES))
    documents = []
    rows: list[Any] = from_table(pq.read_table(job.parquet), Text if job.source == "text" else Interleaved)
    for row in rows:
        if job.source == "text":
            documents.append(formats.text_document(row.text))
        else:
            documents.append(formats.interleaved_document(row.segments))
    folder.mkdir()
    flat = [token for document in documents for token in document]
    (folder / "tokens.bin").write_bytes(np.array(flat, dtype="<u4").tobytes())


def timed(run: Callable[[Job, Path], None], job: Job, root: Path, rounds: int) -> tuple[float, int]:
    """(CPU seconds of the best of some rounds, tokens made)."""
    best, tokens = float("inf"), 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=root) as place:
            started = time.process_time()
            run(job, Path(place) / "shard")
            best = min(best, time.process_time() - started)
            tokens = (Path(place) / "shard" / "tokens.bin").stat().st_size // 4
    return best, tokens


def peak_memory(run: str, job: Job) -> float:
    """MB that a process of its own takes at most to make one shard."""
    command = [sys.executable, "-m", "benchmarks.mix", "--alone", run, job.source, str(job.parquet), str(job.tokenizer)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def alone(run: str, source: str, parquet: str, tokenizer: str) -> None:
    """Make one shard and print the peak of memory, in MB."""
    with tempfile.TemporaryDirectory() as folder:
        way = make_shard if run == "speechloom" else obvious
        way(job_of(source, Path(parquet), Path(tokenizer)), Path(folder) / "shard")
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024)


def measure_shards(source: str, words: int, root: Path, rounds: int) -> list[dict[str, Any]]:
    """One row a way: tokens a second of a core, and the peak of memory for this size and four times as much."""
    tokenizer = root / "tokenizer"
    if not tokenizer.exists():
        add_speech(train_bpe(english(300_000), VOCAB_SIZE), NUM_CODES).save_pretrained(tokenizer)
    small = job_of(source, write_rows(source, words, root / f"{source}-small"), tokenizer)
    large = job_of(source, write_rows(source, 4 * words, root / f"{source}-large"), tokenizer)
    rows = []
    for name, run in (("speechloom", make_shard), ("obvious", obvious)):
        seconds, tokens = timed(run, small, root, rounds)
        rows.append(
            {
                "source": source,
                "way": name,
                "tokens": tokens,
                "tokens_per_s": tokens / seconds,
                "peak_mb": peak_memory(name, small),
                "peak_mb_of_four_times": peak_memory(name, large),
            }
        )
    return rows


def lengths_of(num_documents: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Documents of 100 tokens and more, lognormal with median 540, and utterances of 30 to 400."""
    text = np.clip(rng.lognormal(6.3, 0.9, num_documents // 2), 100, None)
    return {"text": text.astype(np.int64), "speech": rng.integers(30, 400, num_documents - len(text))}


def measure_schedule(num_documents: int, shuffle_shards: int, root: Path) -> dict[str, Any]:
    """Plan and write a schedule of one epoch of both sources, 100 shards each."""
    rng = np.random.default_rng(0)
    streams = []
    for index, (name, lengths) in enumerate(lengths_of(num_documents, rng).items()):
        folders = []
        for number, part in enumerate(np.array_split(lengths, 100)):
            folders.append(root / f"{name}-{shuffle_shards}-{number}")
            folders[-1].mkdir()
            (folders[-1] / "tokens.offsets").write_bytes(np.concatenate([[0], np.cumsum(part)]).astype("<u8").tobytes())
        count = np.array([len(part) for part in np.array_split(lengths, 100)])
        documents = Documents(folders, np.zeros(100, np.int64), count, int(lengths.sum()))
        streams.append(SourceStream(index, documents, documents.num_tokens, 17, SEQUENCE, shuffle_shards))
    tokens = sum(stream.budget for stream in streams)
    started = time.process_time()
    num_sequences = write(root, "train", windows(streams, SEQUENCE, WINDOW, 17))
    seconds = time.process_time() - started
    return {
        "shuffle_shards": shuffle_shards,
        "documents_per_s": num_documents / seconds,
        "sequences_per_s": num_sequences / seconds,
        "padding_share": 1 - tokens / (num_sequences * SEQUENCE),
    }


def one_at_a_time(lengths: np.ndarray, capacity: int) -> int:
    """Bins of best fit, longest first, a document after the other, with the same index of rooms."""
    with_room: dict[int, list[int]] = {}
    occupied, num_bins = 0, 0
    for length in np.sort(lengths)[::-1].tolist():
        fitting = occupied >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            place = with_room[room].pop()
            if not with_room[room]:
                occupied &= ~(1 << room)
        else:
            room, place = capacity, num_bins
            num_bins += 1
        if room > length:
            with_room.setdefault(room - length, []).append(place)
            occupied |= 1 << (room - length)
    return num_bins


def measure_packing() -> dict[str, Any]:
    """One window of whole documents: microseconds a document of both ways, best of three, and the padding."""
    rng = np.random.default_rng(1)
    lengths = np.concatenate([part[part <= SEQUENCE] for part in lengths_of(200_000, rng).values()])
    lengths = rng.permutation(lengths)
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), WINDOW * SEQUENCE))]
    best = {"grouped": float("inf"), "one_at_a_time": float("inf")}
    bins = {"grouped": 0, "one_at_a_time": 0}
    for _ in range(3):
        for name in best:
            started = time.process_time()
            if name == "grouped":
                bins[name] = len(best_fit_bins(lengths, SEQUENCE)[1])
            else:
                bins[name] = one_at_a_time(lengths, SEQUENCE)
            best[name] = min(best[name], time.process_time() - started)
    assert bins["grouped"] == bins["one_at_a_time"]
    padding = 1 - int(lengths.sum()) / (bins["grouped"] * SEQUENCE)
    us = {f"{name}_us_per_document": 1e6 * seconds / len(lengths) for name, seconds in best.items()}
    return {"documents": len(lengths), **us, "padding_share": padding}


def main() -> None:
    """Print the tables and write them as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mix", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--words", type=int, default=1_500_000, help="of the smaller of two shards")
    parser.add_argument("--documents", type=int, default=2_000_000, help="of the schedule")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("mix.json"))
    parser.add_argument("--alone", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        alone(*options.alone)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        result: dict[str, Any] = {"packing": measure_packing()}
        result["schedule"] = [measure_schedule(options.documents, shards, root) for shards in (0, 16)]
        result["shards"] = [
            row
            for source in ("text", "interleaved")
            for row in measure_shards(source, options.words, root, options.rounds)
        ]
    for row in [result["packing"], *result["schedule"], *result["shards"]]:
        print(", ".join(f"{k} {v:,.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
