"""Token documents of one Parquet shard of one source, written as they are made: memory does not grow with the shard."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.mix.rows import Row, read_rows
from components.shared.formats import Formats, OutsideVocabularyError
from components.shared.tokens import Vocabulary, load_tokenizer

TRAIN, VALIDATION = "train", "validation"
SPLITS = (TRAIN, VALIDATION)
BATCH_UNITS = 1 << 19
"""Characters and codes that are encoded together: the tokenizer holds some 100 bytes a token meanwhile."""
MAX_LENGTH = 2**32 - 1
"""Tokens of a document: pieces count them in uint32 (shared.packed_data.PIECE)."""
MAX_DOCUMENTS = 2**32
"""Documents of a shard, for the same reason. The tokens of a shard may be more: offsets are uint64."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One token shard to make."""

    source: str
    parquet: Path
    tokenizer: Path
    num_codes: int
    seed: int
    held_out_share: float
    spoken_share: float
    filler: tuple[str, ...]
    """Corpora that the filler takes, sorted; none for other sources."""
    share_cores: bool
    """Other workers want the cores of this machine: encode with one thread."""


def make_shard(job: Job, folder: Path) -> None:
    """Write the documents of a job into a new folder: those for training first, then those for validation.

    tokens.bin (uint32), tokens.offsets (uint64, one more than documents), ids.parquet, and counts.parquet: documents
    and tokens of both splits, rows dropped, training rows of each of the filler's corpora.
    Raises ValueError, naming source, document and file, for a code or token id that the vocabulary does not hold.
    """
    if job.share_cores:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = load_tokenizer(job.tokenizer)
    formats = Formats(tokenizer, Vocabulary.of(tokenizer, job.num_codes))
    counts: Counter[str] = Counter({f"rows_{corpus}": 0 for corpus in job.filler})
    with _Writer(folder) as writer:
        for batch in _batches(_kept(job, counts)):
            try:
                tokens, lengths = formats.documents([row.parts for row in batch])
            except OutsideVocabularyError as error:
                document = f"{job.source} document {batch[error.place].id!r}"
                raise ValueError(f"{job.parquet}: {document}: {error}") from error
            writer.add([row.id for row in batch], [row.split for row in batch], tokens, lengths)
        writer.finish(job, counts)


def read_counts(folder: Path) -> dict[str, int]:
    """The counts of a finished shard."""
    return pq.read_table(folder / "counts.parquet").to_pylist()[0]


def document_lengths(folder: Path, start: int, stop: int) -> np.ndarray:
    """Tokens of documents start..stop-1 of a finished shard: (documents,), uint32."""
    path = folder / "tokens.offsets"
    offsets = np.fromfile(path, dtype="<u8", count=stop - start + 1, offset=8 * start)
    return np.diff(offsets).astype(np.uint32)


def split_of(row_id: str, split: str, seed: int, held_out_share: float) -> str:
    """The split of a row: its own, but a share of the training rows, picked by id, is held out for validation."""
    if split == TRAIN and uniform(f"held out {seed} {row_id}") < held_out_share:
        return VALIDATION
    return split


def uniform(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) / 2**64


def _kept(job: Job, counts: Counter[str]) -> Iterator[Row]:
    """The rows that become documents, each in its split; counts those that do not."""

    def is_spoken(row_id: str, split: str) -> bool:
        # What validates stays spoken: its losses compare the arms of an ablation.
        if split_of(row_id, split, job.seed, job.held_out_share) != TRAIN:
            return True
        return uniform(f"spoken {job.seed} {row_id}") < job.spoken_share

    counts.update({"dropped_test": 0, "dropped_empty": 0})
    for row in read_rows(job.parquet, job.source, is_spoken, list(job.filler)):
        split = split_of(row.id, row.split, job.seed, job.held_out_share)
        if split not in SPLITS:
            counts["dropped_test"] += 1
        elif not row.parts:
            counts["dropped_empty"] += 1
        else:
            if job.filler and split == TRAIN:
                counts[f"rows_{row.corpus}"] += 1
            yield Row(row.id, split, row.corpus, row.parts)


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    units = 0
    for row in rows:
        batch.append(row)
        units += sum(len(part) for part in row.parts)
        if units >= BATCH_UNITS:
            yield batch
            batch, units = [], 0
    if batch:
        yield batch


class _Writer:
    """Tokens go to disk as they come; of a document its length and its id stay, some 50 bytes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.streams = {split: (folder / f"{split}.bin").open("wb") for split in SPLITS}
        self.ids: dict[str, list[pa.Array]] = {split: [] for split in SPLITS}
        self.lengths: dict[str, list[np.ndarray]] = {split: [np.empty(0, np.int64)] for split in SPLITS}

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self.streams.values():
            stream.close()

    def add(self, ids: list[str], splits: list[str], tokens: np.ndarray, lengths: np.ndarray) -> None:
        """Documents of both splits: ids and splits of each, tokens (tokens,) uint32 in a row, lengths (documents,)."""
        of_split = np.array(splits)
        for split in SPLITS:
            chosen = of_split == split
            self.streams[split].write(tokens[np.repeat(chosen, lengths)].astype("<u4", copy=False).data)
            self.ids[split].append(pa.array(ids, pa.string()).filter(pa.array(chosen)))
            self.lengths[split].append(lengths[chosen])

    def finish(self, job: Job, counts: Counter[str]) -> None:
        """Join the splits and write offsets, ids and counts. Raises ValueError for what PIECE cannot count."""
        for stream in self.streams.values():
            stream.close()
        train, held_out = (self.folder / f"{split}.bin" for split in SPLITS)
        with train.open("ab") as target, held_out.open("rb") as source:
            shutil.copyfileobj(source, target, 1 << 20)
        held_out.unlink()
        train.rename(self.folder / "tokens.bin")
        lengths = np.concatenate([part for split in SPLITS for part in self.lengths[split]])
        check_countable(lengths, f"{job.parquet}: source {job.source}")
        offsets = np.concatenate([np.zeros(1, np.uint64), np.cumsum(lengths.astype(np.uint64))])
        (self.folder / "tokens.offsets").write_bytes(offsets.astype("<u8").tobytes())
        ids = pa.chunked_array([chunk for split in SPLITS for chunk in self.ids[split]], pa.string())
        pq.write_table(pa.table({"id": ids}), self.folder / "ids.parquet")
        for split in SPLITS:
            counts[f"num_{split}"] = sum(len(part) for part in self.lengths[split])
            counts[f"num_{split}_tokens"] = sum(int(part.sum()) for part in self.lengths[split])
        pq.write_table(pa.table({name: [count] for name, count in counts.items()}), self.folder / "counts.parquet")


def check_countable(lengths: np.ndarray, what: str) -> None:
    """Refuse a shard that records of PIECE cannot count; lengths: (documents,), tokens of each."""
    if len(lengths) and int(lengths.max()) > MAX_LENGTH:
        raise ValueError(f"{what}: a document of {int(lengths.max())} tokens, wanted at most {MAX_LENGTH}; cut it")
    if len(lengths) > MAX_DOCUMENTS:
        raise ValueError(f"{what}: {len(lengths)} documents, wanted at most {MAX_DOCUMENTS}; make smaller shards")
