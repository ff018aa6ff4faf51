"""Does one core make interleaved documents fast enough that only the language model is waited for?

    python -m benchmarks.interleave [--words 1500000] [--rounds 3] [--out interleave.json]

A shard is made as in a run, from its rows to its finished Parquet file, by `components.synthesize.shard.make`, but the
engine answers at once, with speech tokens of the usual number: what is left is the CPU's work beside a GPU. One thread.
Tokens are those of the finished documents, speech and text, text as the text-to-token tokenizer counts it. Beside it
stands the obvious way: regular expressions for words, a call of the tokenizer a span, rows as Python objects.
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
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"  # read once, when the tokenizers are first used

import numpy as np
import pyarrow.parquet as pq

from components.config import load_config
from components.shared.assets import fetch
from components.shared.contracts import Interleaved, Segment, Text, from_table, to_table
from components.shared.engine import STOP, Completion, Request
from components.shared.executor import ExecutorConfig, ExecutorKind
from components.shared.manifest import seal, write_table
from components.shared.speakable import speakable
from components.shared.tokens import Vocabulary, add_speech, train_bpe
from components.shared.tracking import SilentTracker
from components.synthesize import shard
from components.synthesize.config import SynthesizeConfig
from components.synthesize.interleave import plan_spans
from components.synthesize.seeds import seed_of
from components.synthesize.survey import survey
from components.text_to_token.model import TextToToken, all_plain_ids, load, plain_ids, save_record

NUM_CODES = 16_384
VOCAB_SIZE = {"en": 16_384, "zh": 4_096}
"""Of the text. The Chinese sentences are few: a larger vocabulary would hold whole ones."""
WORDS_PER_DOCUMENT = 700
"""About the mean of FineWeb-Edu."""
PACE = {"per_letter": 0.8, "per_ideograph": 2.9, "per_mark": 3.0, "base": 2.0}
"""Tokens of speech at 12.5 a second: English at 170 words a minute, Mandarin at 260 characters."""


class Instant:
    """An engine that answers at once with random speech tokens, as many as real speech would have."""

    name, exact = "instant", False

    def __init__(self, model: TextToToken) -> None:
        self.counts: Counter[str] = Counter()
        v = model.vocabulary
        self.ids = np.random.default_rng(0).integers(v.first_audio_id, v.first_audio_id + v.num_codes, 200_000).tolist()
        self.start = 0

    def generate_all(self, requests: list[Request], progress: Any = None) -> list[Completion]:
        """Completions of two thirds of the longest length that is allowed: the pace's mean."""
        made = []
        for request in requests:
            length = 2 * request.max_new_tokens // 3
            self.start = (self.start + 997) % 190_000
            ids = self.ids[self.start : self.start + length]
            made.append(Completion(key=request.key, token_ids=ids, logprobs=None, finish_reason=STOP, error=""))
        return made


def english(words: int) -> list[str]:
    """Dialogues joined into documents, at least `words` words."""
    dialogues = json.loads((fetch("chitchat") / "chitchat_dataset/dataset.json").read_text(encoding="utf-8"))
    lines = [m["text"] for dialogue in dialogues.values() for turn in dialogue["messages"] for m in turn]
    documents: list[str] = []
    own: list[str] = []
    while len(documents) * WORDS_PER_DOCUMENT < words:
        for line in lines:
            own += line.split()
            if len(own) >= WORDS_PER_DOCUMENT:
                documents.append(" ".join(own))
                own = []
    return documents[: words // WORDS_PER_DOCUMENT]


def mandarin(characters: int) -> list[str]:
    """Sentences drawn into documents, `characters` characters in all."""
    rows = json.loads((fetch("hsk") / "hsk_sentences_audio/data/sentences.json").read_text(encoding="utf-8"))
    rng = np.random.default_rng(0)
    return ["".join(rows[i]["chinese"] for i in rng.integers(0, len(rows), 120)) for _ in range(characters // 1100)]


def make_model(folder: Path, texts: list[str], vocab_size: int) -> TextToToken:
    """A text-to-token folder without weights: tokenizer, pace and speech tokens as at scale."""
    tokenizer = add_speech(train_bpe(texts, vocab_size), NUM_CODES)
    tokenizer.save_pretrained(folder)
    scripts = ["latin", "digit", "ideograph", "cyrillic", "greek"]
    more = {"low": 0.4, "high": 1.5, "spread": 2.0, "max_loop": 40, "per_word": 4.0, "scripts": scripts}
    save_record(
        folder,
        Vocabulary.of(tokenizer, NUM_CODES),
        12.5,
        {"en": "a", "zh": "b"},
        words_in_speech=False,
        speakers=["a", "b"],
        pace={language: PACE | more for language in ("en", "zh")},
    )
    seal(folder)
    return load(folder)


def config_of() -> SynthesizeConfig:
    """The settings of h800, with all texts used and shards made in this process."""
    config = load_config(["scale=h800"], Path(__file__).resolve().parents[1]).synthesize
    executor = ExecutorConfig(kind=ExecutorKind.local, num_workers=1)
    return replace(config, target_tokens=10**12, executor=executor)


def obvious(documents: list[Text], config: SynthesizeConfig, model: TextToToken, engine: Instant, path: Path) -> None:
    """The same rows by way of Python objects, one span at a time."""
    import rjieba

    rows: list[Interleaved] = []
    for document in documents:
        if document.language == "zh":
            ends = np.cumsum([len(unit) for unit in rjieba.cut(document.text, False)]).tolist()
        else:
            ends = [found.end() for found in re.finditer(r"\S+", document.text)]
        starts = [0, *ends[:-1]]
        rng = np.random.default_rng(seed_of(config.seed, document.id))
        segments: list[Segment] = []
        end = 0
        for first, last in plan_spans(len(ends), config.mean_span, config.ratio, rng):
            start, stop = starts[first], ends[last - 1]
            text = document.text[start:stop]
            if not speakable(text, document.language):
                continue
            request = model.request(f"{document.id}:{start}", text, document.language)
            (completion,) = engine.generate_all([request])
            if model.fault(text, document.language, completion):
                continue
            codes = model.codes(completion.token_ids)
            if start > end:
                own = document.text[end:start]
                segments.append(Segment(modality="text", text=own, tokens=[], start=end, stop=start))
            segments.append(Segment(modality="speech", text=text, tokens=codes, start=start, stop=stop))
            end = stop
        if end < len(document.text):
            own = document.text[end:]
            segments.append(Segment(modality="text", text=own, tokens=[], start=end, stop=len(document.text)))
        rows.append(
            Interleaved(
                id=document.id,
                language=document.language,
                corpus=document.corpus,
                segments=segments,
                num_text_chars=sum(len(s.text) for s in segments if s.modality == "text"),
                num_speech_tokens=sum(len(s.tokens) for s in segments),
                engine=engine.name,
                license=document.license,
                split=document.split,
            )
        )
    pq.write_table(to_table(rows, Interleaved), path, compression="zstd")


def count(path: Path, model: TextToToken) -> dict[str, float]:
    """Speech and text tokens of a finished shard, and its bytes."""
    rows = from_table(pq.read_table(path), Interleaved)
    texts = [segment.text for row in rows for segment in row.segments if segment.modality == "text"]
    speech = sum(row.num_speech_tokens for row in rows)
    return {
        "speech_tokens": speech,
        "text_tokens": sum(len(ids) for ids in all_plain_ids(model.tokenizer, texts)),
        "bytes": path.stat().st_size,
    }


def timed(run: Callable[[], None], rounds: int) -> float:
    """CPU seconds of the best of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        run()
        best = min(best, time.process_time() - started)
    return best


def measure(language: str, texts: list[str], root: Path, rounds: int) -> list[dict[str, Any]]:
    """One row a way for the documents of one language."""
    config, model = config_of(), make_model(root / f"model-{language}", texts[:300], VOCAB_SIZE[language])
    documents = [
        Text(id=f"d{i:06d}", text=text, language=language, corpus="benchmark", license="MIT", split="train")
        for i, text in enumerate(texts)
    ]
    table = root / f"texts-{language}"
    write_table(table, documents, Text)
    work = root / f"work-{language}"
    started = time.process_time()
    chunks = survey(table, model.folder, config, work, SilentTracker()).chunks
    surveyed = time.process_time() - started
    (job,) = shard.keyed(chunks, model.folder, config).values()
    engine = Instant(model)
    shard._engine = lambda *_: engine  # type: ignore[assignment]
    ways = {"speechloom": root / f"ours-{language}", "obvious": root / f"obvious-{language}"}
    seconds = {
        "speechloom": timed(lambda: shard.make(job, ways["speechloom"]), rounds),
        "obvious": timed(lambda: obvious(documents, config, model, engine, ways["obvious"]), 1),
    }
    rows: list[dict[str, Any]] = []
    for way, path in ways.items():
        found = count(path, model)
        tokens = found["speech_tokens"] + found["text_tokens"]
        rows.append(
            {
                "language": language,
                "way": way,
                "characters": sum(map(len, texts)),
                **found,
                "seconds": seconds[way],
                "tokens_per_s": tokens / seconds[way],
                "bytes_per_token": found["bytes"] / tokens,
            }
        )
    rows[0]["survey_tokens_per_s"] = rows[0]["tokens_per_s"] * rows[0]["seconds"] / surveyed
    return rows


def make_alone(texts: Path, model: Path) -> None:
    """Make the one shard of a table with the instant engine and print the peak of memory, in MB."""
    config, engine = config_of(), Instant(load(model))
    config.documents_per_shard = 10**9
    shard._engine = lambda *_: engine  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        chunks = survey(texts, model, config, Path(folder), SilentTracker()).chunks
        (job,) = shard.keyed(chunks, model, config).values()
        shard.make(job, Path(folder) / "shard")
    status = Path("/proc/self/status").read_text(encoding="utf-8")  # getrusage counts the parent's as well
    print(int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024)


def peak_memory(words: int, root: Path) -> float:
    """MB that a process has taken at most which surveyed and made one shard of so many English words."""
    texts = english(words)
    model = root / "model"
    if not model.exists():
        make_model(model, texts[:300], VOCAB_SIZE["en"])
    rows = (
        Text(id=f"d{i:06d}", text=text, language="en", corpus="benchmark", license="MIT", split="train")
        for i, text in enumerate(texts)
    )
    table = root / f"texts-{words}"
    write_table(table, rows, Text, rows_per_shard=10**9)
    command = [sys.executable, "-m", "benchmarks.interleave", "--alone", str(table), str(model)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--words", type=int, default=1_500_000, help="of English; half as many characters of Chinese")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/interleave.json"))
    parser.add_argument("--alone", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        make_alone(*options.alone)
        return
    plain_ids(add_speech(train_bpe(["warm"], 256), 1), "up")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure("en", english(options.words), Path(folder), options.rounds)
        rows += measure("zh", mandarin(options.words // 2), Path(folder), options.rounds)
        memory = {words: peak_memory(words, Path(folder)) for words in (options.words, 4 * options.words)}
    print(f"{'language':<9}{'way':<12}{'speech':>11}{'text':>11}{'seconds':>9}{'tokens/s':>11}{'bytes/token':>13}")
    for row in rows:
        print(
            f"{row['language']:<9}{row['way']:<12}{row['speech_tokens']:>11,}{row['text_tokens']:>11,}"
            f"{row['seconds']:>9.2f}{row['tokens_per_s']:>11,.0f}{row['bytes_per_token']:>13.2f}"
        )
    for row in rows:
        if "survey_tokens_per_s" in row:
            print(f"survey of the texts, {row['language']}: {row['survey_tokens_per_s']:,.0f} tokens/s")
    for words, megabytes in memory.items():
        print(f"peak memory of one shard of {words:,} words: {megabytes:,.0f} MB")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    setting = {"words": options.words, "rounds": options.rounds, "threads": 1, "cpus": os.cpu_count()}
    options.out.write_text(
        json.dumps({"setting": setting, "rows": rows, "peak_mb": memory}, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
