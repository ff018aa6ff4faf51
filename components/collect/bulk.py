"""The story of bulk text: files in parts, parts read and cleaned, near-duplicates found, tables written.

Every step is a map over keyed shards (components.shared.executor): restartable, the same for any number of workers. A
worker's memory does not grow with the files, the stage's own by some bytes a part and what the marks of repeats map.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from components.collect import near_duplicates
from components.collect.audio_shards import file_state
from components.collect.bulk_files import find_parts, passed_over
from components.collect.bulk_parts import (
    COLUMN,
    DETECT,
    TABLE_BYTES,
    Reading,
    Source,
    Tables,
    counts_of,
    make_reading,
    make_tables,
)
from components.collect.cleaning import words_of
from components.collect.config import BulkTextConfig
from components.collect.contamination import held_ngrams
from components.collect.items import Items
from components.collect.texts import locate
from components.shared.executor import ExecutorConfig, map_shards
from components.shared.fingerprint import module_fingerprint
from components.shared.manifest import atomic, hash_of, write_json
from components.shared.tracking import Tracker

LEAST_HELD_WORDS = 5
"""A held-out text of fewer words is a stock phrase: documents may hold it."""
FIRST_ROUND = 16
"""Parts that are read before it is known how many a limit takes."""

_Read = tuple[Reading, Path, Counter[str]]
"""(job, its finished folder, what it counted)."""


@dataclass(frozen=True, kw_only=True)
class Bulk:
    """Bulk text that was found and looked at, not yet read."""

    config: BulkTextConfig
    readings: dict[str, list[Reading]]
    """Corpus -> its parts in order; the texts that documents may not hold are not named yet."""
    seed: int


def plan_bulk(config: BulkTextConfig, seed: int, root: Path, tracker: Tracker) -> Bulk:
    """Find the files of all corpora, before hours are spent on anything.

    Raises ValueError when a corpus is missing, a file is cut off or lacks a column, or settings contradict each other.
    """
    _check(config)
    plain = replace(config, corpora={})
    readings = {}
    for name, corpus in config.corpora.items():
        what = f"collect.bulk_texts.corpora.{name}"
        columns = [corpus.text_column, corpus.language_column] if corpus.language == COLUMN else [corpus.text_column]
        path = locate(corpus.path, root, what)
        parts = find_parts(path, columns, config.part_mb * 10**6, what)
        readings[name] = [
            Reading(part=part, name=name, corpus=corpus, config=plain, seed=seed, leaks="") for part in parts
        ]
        others = ", ".join(f"{count} {ending}" for ending, count in sorted(passed_over(path).items()))
        tracker.say(
            f"collect: {len({part.path for part in parts})} files in {len(parts)} parts in bulk corpus {name}"
            + (f"; passed over {others}" if others else "")
        )
    return Bulk(config=config, readings=readings, seed=seed)


def _check(config: BulkTextConfig) -> None:
    where = "collect.bulk_texts"
    if config.min_characters < 1 or config.max_characters < 3 * config.min_characters:
        got = f"got {config.min_characters} to {config.max_characters}"
        raise ValueError(f"{where}: min_characters, max_characters: {got}; wanted at least 1, and thrice as much")
    if config.part_mb < 1:
        raise ValueError(f"{where}.part_mb: got {config.part_mb}, wanted at least 1")
    if config.similarity:
        near_duplicates.bands_of(config.similarity, config.num_hashes)
    for name, corpus in config.corpora.items():
        if corpus.language == COLUMN and not corpus.language_column:
            raise ValueError(f"{where}.corpora.{name}.language_column: got '', wanted a name, as language: column says")
        if corpus.language not in (DETECT, COLUMN, *config.languages):
            wanted = ", ".join([*config.languages, DETECT, COLUMN])
            raise ValueError(f"{where}.corpora.{name}.language: got {corpus.language!r}, wanted one of {wanted}")


def held_file(bulk: Bulk, items: Iterable[Items], held: Iterable[tuple[str, str]], work: Path) -> Path:
    """A file of what no document may hold: questions and stories, and n-grams of (text, language) that is held out."""
    asked = {" ".join(words_of(text)) for found in items for text in _asked(found)} - {""}
    sizes = {name: language.held_out_ngram for name, language in bulk.config.languages.items()}
    grams = {
        gram
        for text, language in held
        if language in sizes
        for gram in held_ngrams(text, sizes[language], LEAST_HELD_WORDS)
    }
    known = {"asked": sorted(asked), "held": sorted(grams)}
    path = work / "held" / f"{hash_of(known)}.json"
    if not path.exists():
        write_json(path, known)
    return path.resolve()


def _asked(items: Items) -> list[str]:
    return [item.question for item in items.questions] + [item.story for item in items.stories]


def write_bulk(
    bulk: Bulk, leaks: Path, folder: Path, work: Path, executor: ExecutorConfig, tracker: Tracker
) -> dict[str, float]:
    """Add the bulk texts to a folder of texts as further part-*.parquet; the caller seals it. Returns the figures.

    leaks: as held_file wrote it. Raises ValueError when a file is damaged, or nothing of a corpus is left.
    """
    started, ready = time.monotonic(), _finished(work)
    run = _Run(work=work, executor=executor, tracker=tracker)
    read: list[_Read] = []
    for name, readings in bulk.readings.items():
        found = _read(readings, bulk, str(leaks), run)
        _check_left(name, found)
        read += found
    firsts = [0, *accumulate(counts["rows"] for _, _, counts in read)]
    repeats = _mark(read, firsts, run) if bulk.config.similarity else None
    tables = _publish(read, firsts, repeats, folder, run)
    elapsed = time.monotonic() - started
    figures = sum((counts for _, _, counts in read), Counter()) + sum(tables, Counter())
    for reason in sorted(key for key in figures if key.startswith("dropped_")):
        tracker.say(f"collect: bulk texts: dropped {figures[reason]} for {reason.removeprefix('dropped_')}")
    made = sum(counts["bytes"] for _, path, counts in read if path.name not in ready)
    speed = {"bulk_mb_per_s": made / 1e6 / elapsed} if made else {}
    return {f"bulk_{key}": float(value) for key, value in sorted(figures.items())} | speed


@dataclass(frozen=True, kw_only=True)
class _Run:
    """How jobs become shards."""

    work: Path
    executor: ExecutorConfig
    tracker: Tracker

    def map(self, make: Callable[[Any, Path], None], jobs: list[Any], keys: list[str], what: str) -> list[Path]:
        """Finished shards of the jobs, in their order."""

        def progress(done: Iterable[int], total: int | None) -> Iterable[int]:
            return self.tracker.progress(done, total, f"bulk texts: {what}")

        return map_shards(make, jobs, keys, work=self.work, config=self.executor, progress=progress)


def _finished(work: Path) -> set[str]:
    shards = work / "shards"
    return {path.name for path in shards.iterdir()} if shards.is_dir() else set()


def _read(readings: list[Reading], bulk: Bulk, leaks: str, run: _Run) -> list[_Read]:
    """Read a corpus: all of its parts or, with a limit, those of a seeded order that reach it; in their own order."""
    code = module_fingerprint("components.collect.bulk_parts")
    jobs = [replace(reading, leaks=leaks) for reading in readings]
    keys = [hash_of([asdict(replace(job, leaks=Path(leaks).name)), file_state(job.part.path), code]) for job in jobs]
    most = jobs[0].corpus.max_units
    order = list(np.random.default_rng([bulk.seed, *jobs[0].name.encode()]).permutation(len(jobs)))
    if not most:
        order = list(range(len(jobs)))
    done: dict[int, _Read] = {}
    taken, size = 0, FIRST_ROUND if most else len(jobs)
    while order and (not most or taken < most):
        chosen, order = order[:size], order[size:]
        paths = run.map(make_reading, [jobs[i] for i in chosen], [keys[i] for i in chosen], "parts read")
        for i, path in zip(chosen, paths, strict=True):
            if not most or taken < most:  # however many parts a round holds, the same are taken
                done[i] = (jobs[i], path, counts_of(path))
                taken += done[i][2]["units"]
        size = max(1, round(max(0, most - taken) * len(done) / max(1, taken)))
    return [done[i] for i in sorted(done)]


def _check_left(name: str, read: list[_Read]) -> None:
    """Raises ValueError when no document of a corpus is left: a wrong column or language, most likely."""
    counts = sum((counts for _, _, counts in read), Counter())
    if not counts["rows"]:
        dropped = ", ".join(f"{key.removeprefix('dropped_')} {n}" for key, n in counts.items() if "dropped_" in key)
        raise ValueError(
            f"collect.bulk_texts.corpora.{name}: none of {counts['documents']} documents is left: {dropped or 'no row'}"
        )


def _mark(read: list[_Read], firsts: list[int], run: _Run) -> Path:
    """One byte a document, 1 where it repeats an earlier one."""
    blocks = [
        near_duplicates.Block(
            folder=str(path / f"block-{number:05d}"), first=first + number * near_duplicates.DOCUMENTS_PER_BLOCK
        )
        for (_, path, counts), first in zip(read, firsts, strict=False)
        for number in range(counts["blocks"])
    ]
    same_for_all = [[path.name for _, path, _ in read], module_fingerprint("components.collect.near_duplicates")]
    ranges = near_duplicates.plan_ranges(blocks, firsts[-1])
    keys = [hash_of([job.low, job.high, same_for_all]) for job in ranges]
    found = run.map(near_duplicates.find_repeats, ranges, keys, "near-duplicates")
    marks = run.work / "marks" / f"{hash_of(keys)}.npy"
    if not marks.exists():
        with atomic(marks) as temporary:
            near_duplicates.mark_repeats(found, firsts[-1], temporary)
    return marks


def _publish(read: list[_Read], firsts: list[int], repeats: Path | None, folder: Path, run: _Run) -> list[Counter[str]]:
    """Write the tables and put them into the folder after its other parts; returns their counts."""
    groups: list[list[Source]] = []
    room = 0
    for (_, path, _), first in zip(read, firsts, strict=False):
        rows = path / "rows.parquet"
        size = rows.stat().st_size
        if size > room:
            groups.append([])
            room = TABLE_BYTES
        groups[-1].append(Source(rows=str(rows), first=first))
        room -= size
    jobs = [Tables(sources=tuple(group), repeats=str(repeats or "")) for group in groups]
    same_for_all = [repeats.name if repeats else "", module_fingerprint("components.collect.bulk_parts")]
    keys = [hash_of([[Path(source.rows).parent.name for source in job.sources], same_for_all]) for job in jobs]
    paths = run.map(make_tables, jobs, keys, "tables")
    number = len(list(folder.glob("part-*.parquet")))
    for path in paths:
        for table in sorted(path.glob("table-*.parquet")):
            _link(table, folder / f"part-{number:05d}.parquet")
            number += 1
    return [counts_of(path) for path in paths]


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no hard links
        shutil.copyfile(source, target)
