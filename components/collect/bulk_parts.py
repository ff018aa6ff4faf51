"""Makes the parts of bulk text: first what one part of a file holds, cleaned, then the tables without near-duplicates.

Both write a folder a job: rows in Parquet, blocks of signatures, and counts.json. Neither holds more than a few row
groups and one block of signatures.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from components.collect import near_duplicates
from components.collect.bulk_files import Part, read
from components.collect.cleaning import clean, cut, has_word, words_of
from components.collect.config import BulkCorpusConfig, BulkLanguageConfig, BulkTextConfig
from components.collect.contamination import Leaks
from components.collect.languages import detect, language_of
from components.shared.contracts import Schema, Text
from components.shared.manifest import read_json, write_json

ROW_GROUP_BYTES = 8 * 2**20
"""Text that is gathered before it is written."""
TABLE_BYTES = 90 * 10**6
"""Size of a published Parquet file after which the next one begins."""
SIGNATURES_AT_ONCE = 1024
"""That are brought to one hash a band together."""
COUNTS = "counts.json"
DETECT, COLUMN = "detect", "column"
_DICTIONARIES = ["language", "corpus", "license", "split"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One part to read and clean."""

    part: Part
    name: str
    """Of the corpus."""
    corpus: BulkCorpusConfig
    config: BulkTextConfig
    """Without its corpora."""
    seed: int
    leaks: str
    """Path of a JSON file {asked: [words], held: [words]}, which all workers see."""


def make_reading(job: Reading, folder: Path) -> None:
    """Write the documents of a part that may be kept (rows.parquet), their signatures (block-*) and counts.json."""
    folder.mkdir()
    counts: Counter[str] = Counter()
    languages = job.config.languages
    signatures = _Signatures(folder, job.config)
    # py3langid's products are small: threads of BLAS would only wait for each other, on cores of other workers.
    with _Table(folder / "rows.parquet") as table, threadpool_limits(1, user_api="blas"):
        for row in _rows(job, counts):
            words = words_of(row.text)
            reason = _leaks(job.leaks).reason(words)
            if reason:
                counts[f"dropped_{reason}"] += 1
                continue
            counts["units"] += len(words)
            table.add(row)
            signatures.add(words, languages[row.language])
    signatures.flush()
    write_json(folder / COUNTS, counts | {"rows": table.num_rows, "blocks": signatures.num_blocks})


def counts_of(folder: Path) -> Counter[str]:
    """What was counted while a folder was made."""
    return Counter(read_json(folder / COUNTS))


def _rows(job: Reading, counts: Counter[str]) -> Iterator[Text]:
    """Documents of the part in pieces, each in a language that is kept; counts what is left out."""
    config, corpus = job.config, job.corpus
    file = hashlib.blake2b(job.part.name.encode(), digest_size=8).hexdigest()
    column = corpus.language_column if corpus.language == COLUMN else ""
    for document in read(job.part, corpus.text_column, column):
        counts["documents"] += 1
        counts["bytes"] += len(document.text.encode())
        text, touched = clean(document.text)
        counts["cleaned_documents"] += touched
        reason = document.reason or _unfit(text, config.min_characters)
        if reason:
            counts[f"dropped_{reason}"] += 1
            continue
        id = f"{job.name}-{file}-{document.place:012d}"
        split = "validation" if _uniform(f"{job.seed} {id}") < config.validation_share else "train"
        pieces = cut(text, config.max_characters, config.min_characters)
        counts["cut_documents"] += len(pieces) > 1
        for number, piece in enumerate(pieces):
            unfit = _unfit(piece, config.min_characters)
            language = "" if unfit else _language(piece, document.language, corpus)
            if unfit or language not in config.languages:
                counts[f"dropped_{unfit or 'other_language'}"] += 1
                continue
            yield Text(
                id=f"{id}-{number:04d}" if len(pieces) > 1 else id,
                text=piece,
                language=language,
                corpus=job.name,
                license=corpus.license,
                split=split,
            )


def _unfit(text: str, least: int) -> str:
    """Why a text is not worth keeping, or an empty string."""
    if not text:
        return "empty_text"
    if not has_word(text):
        return "no_word"
    return "short_text" if len(text) < least else ""


def _language(text: str, said: str, corpus: BulkCorpusConfig) -> str:
    if corpus.language == DETECT:
        return detect(text)
    return language_of(said) if corpus.language == COLUMN else corpus.language


def _uniform(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) / 2**64


@functools.lru_cache(maxsize=1)
def _leaks(path: str) -> Leaks:
    known = json.loads(Path(path).read_text(encoding="utf-8"))
    return Leaks(known["asked"], known["held"])


class _Signatures:
    """Gathers what documents are compared by and writes it in blocks."""

    def __init__(self, folder: Path, config: BulkTextConfig) -> None:
        self.folder, self.num_hashes = folder, config.num_hashes
        self.bands = near_duplicates.bands_of(config.similarity, config.num_hashes)[0] if config.similarity else 0
        self.waiting: list[list[int]] = []
        self.hashes: list[np.ndarray] = []
        self.count = self.num_blocks = 0

    def add(self, words: list[str], language: BulkLanguageConfig) -> None:
        """Note one document."""
        if not self.bands:
            return
        self.waiting.append(near_duplicates.signature(words, language.shingle, self.num_hashes))
        self.count += 1
        if len(self.waiting) == SIGNATURES_AT_ONCE:
            self._hash()
        if self.count == near_duplicates.DOCUMENTS_PER_BLOCK:
            self.flush()

    def flush(self) -> None:
        """Write what has been gathered."""
        self._hash()
        if self.hashes:
            block = self.folder / f"block-{self.num_blocks:05d}"
            near_duplicates.write_block(block, np.concatenate(self.hashes))
            self.num_blocks, self.count, self.hashes = self.num_blocks + 1, 0, []

    def _hash(self) -> None:
        if self.waiting:
            self.hashes.append(near_duplicates.band_hashes(self.waiting, self.bands))
            self.waiting = []


class _Table:
    """A Parquet file of texts, written in row groups of about ROW_GROUP_BYTES."""

    def __init__(self, path: Path) -> None:
        self.schema = Schema.of(Text)
        self.writer = pq.ParquetWriter(path, self.schema, compression="zstd", use_dictionary=_DICTIONARIES)
        self.rows: list[Text] = []
        self.size = self.num_rows = 0

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._flush()
        self.writer.close()

    def add(self, row: Text) -> None:
        """Append a row; its contract is kept by how it is made."""
        self.rows.append(row)
        self.size += len(row.text)
        self.num_rows += 1
        if self.size >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        columns = {name: [getattr(row, name) for row in self.rows] for name in self.schema.names}
        self.writer.write_table(pa.table(columns, schema=self.schema))
        self.rows, self.size = [], 0


@dataclass(frozen=True, kw_only=True)
class Source:
    """The rows of one finished reading."""

    rows: str
    first: int
    """Number of its first document among all."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Finished readings that follow each other and are published together."""

    sources: tuple[Source, ...]
    repeats: str
    """Path of one byte a document (near_duplicates.mark_repeats), or an empty string: all are kept."""


def make_tables(job: Tables, folder: Path) -> None:
    """Write the rows that repeat no earlier one as table-*.parquet of at most 100 MB, and counts.json."""
    folder.mkdir()
    counts: Counter[str] = Counter()
    writer: pq.ParquetWriter | None = None
    path = folder / "table-00000.parquet"
    for group in _gathered(job, counts):
        if writer is None:
            path = folder / f"table-{counts['tables']:05d}.parquet"
            writer = pq.ParquetWriter(path, group.schema, compression="zstd", use_dictionary=_DICTIONARIES)
            counts["tables"] += 1
        writer.write_table(group, row_group_size=len(group))
        if path.stat().st_size >= TABLE_BYTES:
            writer.close()
            writer = None
    if writer is not None:
        writer.close()
    write_json(folder / COUNTS, counts)


def _gathered(job: Tables, counts: Counter[str]) -> Iterator[pa.Table]:
    """The rows to keep, in tables of about ROW_GROUP_BYTES; counts what is kept and left out."""
    waiting: list[pa.Table] = []
    for source in job.sources:
        start = source.first
        with pq.ParquetFile(source.rows) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                stop = start + len(table)
                if job.repeats:
                    repeated = near_duplicates.marked(job.repeats, start, stop)
                    counts["dropped_near_duplicate"] += int(repeated.sum())
                    table = table.filter(pa.array(~repeated))
                start = stop
                _count(table, counts)
                waiting.append(table)
                if sum(one.nbytes for one in waiting) >= ROW_GROUP_BYTES:
                    yield pa.concat_tables(waiting)
                    waiting = []
    if any(len(table) for table in waiting):
        yield pa.concat_tables(waiting)


def _count(table: pa.Table, counts: Counter[str]) -> None:
    """Count rows and characters by language, and rows by split."""
    import pyarrow.compute as pc

    sized = pa.table({"language": table["language"], "size": pc.utf8_length(table["text"])})
    for row in sized.group_by("language").aggregate([("size", "sum"), ("size", "count")]).to_pylist():
        counts[f"texts_{row['language']}"] += row["size_count"]
        counts[f"characters_{row['language']}"] += row["size_sum"]
    counts["texts_validation"] += pc.sum(pc.equal(table["split"], "validation")).as_py() or 0
