"""Small corpora of bulk text, written as any kind of file, and what collect makes of them: for the tests of both."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.collect import bulk
from components.collect.config import BulkCorpusConfig, BulkLanguageConfig, BulkTextConfig
from components.collect.items import Items
from components.shared.contracts import Question, Text
from components.shared.executor import ExecutorConfig, ExecutorKind
from components.shared.manifest import read_table, seal, verify
from components.shared.tracking import TerminalTracker

RNG = np.random.default_rng(3)
ENGLISH = re.findall(
    r"\w+",
    "time year people way day man thing woman life child world school state family student group country problem hand"
    " part place case week company system program question work government number night point",
)
CHINESE = "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会那后能对着事其"
ONE = ExecutorConfig(kind=ExecutorKind.local, num_workers=1)


def english(words: int = 60) -> str:
    """A text of its own in sentences of ten words; two of them share hardly three words in a row."""
    drawn = [ENGLISH[i] for i in RNG.integers(0, len(ENGLISH), words)]
    return "The " + " and the ".join(" ".join(drawn[i : i + 10]).capitalize() + "." for i in range(0, words, 10))


def chinese(characters: int = 100) -> str:
    """A text of its own in sentences of twenty characters."""
    drawn = [CHINESE[i] for i in RNG.integers(0, len(CHINESE), characters)]
    return "".join("".join(drawn[i : i + 20]) + "。" for i in range(0, characters, 20))


def settings(**changes: Any) -> BulkTextConfig:
    config = BulkTextConfig(
        corpora={"web": corpus()},
        languages={
            "en": BulkLanguageConfig(shingle=5, held_out_ngram=8),
            "zh": BulkLanguageConfig(shingle=8, held_out_ngram=13),
        },
        min_characters=20,
        max_characters=5000,
        similarity=0.75,
        num_hashes=112,
        validation_share=0.1,
        part_mb=1,
    )
    return replace(config, **changes)


def corpus(**changes: Any) -> BulkCorpusConfig:
    config = BulkCorpusConfig(
        path="web", text_column="text", language="en", language_column="", license="ODC-By-1.0", max_units=0
    )
    return replace(config, **changes)


def lines_of(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def put(root: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    """Rows as a file of the kind that its name says."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=50)
    elif name.endswith(".arrow"):
        table = pa.Table.from_pylist(rows)
        with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table, max_chunksize=100)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines_of(rows)))
    elif name.endswith(".zst"):
        path.write_bytes(pa.compress(lines_of(rows), codec="zstd", asbytes=True))
    else:
        path.write_bytes(lines_of(rows))
    return path


def collected(
    root: Path,
    config: BulkTextConfig,
    executor: ExecutorConfig = ONE,
    asked: tuple[str, ...] = (),
    held: tuple[tuple[str, str], ...] = (),
    work: str = "work",
) -> tuple[list[Text], dict[str, float], str]:
    """What comes of the corpora: (rows, figures, hash of the table)."""
    found = bulk.plan_bulk(config, 17, root, TerminalTracker())
    items = Items(stories=[], questions=[_question(text) for text in asked], spoken={})
    leaks = bulk.held_file(found, [items], held, root / work)
    folder = root / f"texts-{work}-{len(list(root.glob('texts-*')))}"
    folder.mkdir()
    figures = bulk.write_bulk(found, leaks, folder, root / work, executor, TerminalTracker())
    manifest = seal(folder, contract="Text")
    verify(folder)
    return list(read_table(folder, Text)), figures, manifest.content_hash


def _question(text: str) -> Question:
    return Question(
        id="q",
        language="en",
        question=text,
        answer="a",
        candidates=["a"],
        relation="r",
        fact="f",
        withheld=False,
        question_utterance="u",
        candidate_utterances=["c"],
        split="test",
    )


def dropped(figures: dict[str, float]) -> dict[str, int]:
    return {key.removeprefix("bulk_dropped_"): int(n) for key, n in figures.items() if "dropped" in key and n}
