"""What the texts hold: every shard of them is dealt into chunks of documents, and each chunk's tokens are foreseen.

A chunk is what one shard of synthesize is made of: documents of one language in one shard of texts, dealt by their ids,
so that any chunk is a fair sample of its texts. Nothing but a few numbers a chunk stays in memory.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.shared.contracts import Text, from_table
from components.shared.executor import map_shards
from components.shared.fingerprint import module_fingerprint
from components.shared.manifest import hash_of, inside, read_json, read_manifest, shard_paths, write_json
from components.shared.tracking import Tracker
from components.synthesize.config import SynthesizeConfig
from components.synthesize.seeds import seed_of
from components.text_to_token.model import all_plain_ids, load

_BATCH_ROWS = 256
"""Texts in memory at a time."""
_COUNTED_CHARS = 2000
"""Of each chunk's first documents this much is tokenized, to know how many characters a text token has."""
_COUNTED_DOCUMENTS = 8
_SPOKEN = re.compile(r"[^\W_]")


@dataclass(kw_only=True)
class Chunk:
    """Documents of one language in one shard of texts whose ids were dealt to it."""

    part: str
    """Path of the shard of texts."""
    language: str
    number: int
    num_documents: int = 0
    """Documents with something to say, for training and validation."""
    content: str = ""
    """sha256 of the documents."""
    num_chars: int = 0
    speech_tokens: float = 0.0
    """Expected of the spans."""
    text_tokens: float = 0.0
    """Expected of what stays text."""

    @property
    def tokens(self) -> float:
        """Expected of the documents, speech and text together."""
        return self.speech_tokens + self.text_tokens


@dataclass(kw_only=True)
class Survey:
    """All texts in numbers."""

    chunks: list[Chunk] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    """Documents in a language that the model did not learn (language) and those with nothing to say (no_words)."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    part: str
    model: str
    seed: int
    ratio: float
    documents_per_shard: int


def survey(texts: Path, folder: Path, config: SynthesizeConfig, work: Path, tracker: Tracker) -> Survey:
    """Look through the table of texts once; shards that were seen before are not read again.

    folder: of the text-to-token model. Raises ValueError for a table that does not fit its contract.
    """
    hashes = {inside(texts, entry.path): [entry.path, entry.sha256] for entry in read_manifest(texts).files}
    settings = [config.seed, config.ratio, config.documents_per_shard]
    same_for_all = [settings, read_manifest(folder).content_hash, module_fingerprint(__name__)]
    jobs = {
        hash_of([same_for_all, hashes[path]]): _Job(
            part=str(path),
            model=str(folder),
            seed=config.seed,
            ratio=config.ratio,
            documents_per_shard=config.documents_per_shard,
        )
        for path in shard_paths(texts, Text)
    }
    made = map_shards(
        _look,
        list(jobs.values()),
        list(jobs),
        work=work,
        config=config.executor,
        progress=lambda done, total: tracker.progress(done, total, "synthesize: survey of the texts"),
    )
    found = Survey()
    for job, path in zip(jobs.values(), made, strict=True):
        record = read_json(path)
        found.chunks += [Chunk(part=job.part, **chunk) for chunk in record["chunks"]]
        found.dropped.update(record["dropped"])
    return found


def documents(chunk: Chunk, documents_per_shard: int, seed: int) -> Iterator[Text]:
    """The documents of a chunk in the order of their shard, read a batch at a time."""
    dealt, chunks = _deal(chunk.part, documents_per_shard, seed)
    number = chunks.index((chunk.language, chunk.number))
    for _, text in _texts(chunk.part, dealt == number):
        if has_words(text.text):
            yield text


def has_words(text: str) -> bool:
    """Whether there is a letter, a digit or an ideograph in a text."""
    return _SPOKEN.search(text) is not None


def _look(job: _Job, path: Path) -> None:
    """Write the chunks of one shard of texts."""
    model = load(job.model)
    dealt, chunks = _deal(job.part, job.documents_per_shard, job.seed)
    found = [Chunk(part="", language=language, number=number) for language, number in chunks]
    digests = [hashlib.sha256() for _ in found]
    samples: list[list[str]] = [[] for _ in found]
    dropped: Counter[str] = Counter()
    for place, text in _texts(job.part, dealt >= 0):
        if text.language not in model.pace.languages or not has_words(text.text):
            dropped["no_words" if text.language in model.pace.languages else "language"] += 1
            continue
        chunk = found[dealt[place]]
        chunk.num_documents += 1
        chunk.num_chars += len(text.text)
        chunk.speech_tokens += job.ratio * model.pace.expected(text.text, text.language)
        digests[dealt[place]].update(repr(tuple(vars(text).values())).encode("utf-8", "surrogatepass"))
        if len(samples[dealt[place]]) < _COUNTED_DOCUMENTS:
            samples[dealt[place]].append(text.text[:_COUNTED_CHARS])
    for chunk, digest, sample in zip(found, digests, samples, strict=True):
        chunk.content = digest.hexdigest()
        counted = sum(len(ids) for ids in all_plain_ids(model.tokenizer, sample))
        chunk.text_tokens = (1 - job.ratio) * chunk.num_chars * counted / max(1, sum(map(len, sample)))
    records = [asdict(chunk) for chunk in found if chunk.num_documents]
    for record in records:
        del record["part"]  # the table may move; what was found in it stays true
    write_json(path, {"chunks": records, "dropped": dropped})


def _deal(part: str, documents_per_shard: int, seed: int) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """(which chunk each row belongs to, -1 for those of the test split (rows,) int64; (language, number) of each)."""
    return _deal_file(part, Path(part).stat().st_mtime_ns, documents_per_shard, seed)


@lru_cache(maxsize=1)
def _deal_file(part: str, _: int, documents_per_shard: int, seed: int) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """The same, kept for the next chunk of the file while it does not change."""
    rows = pq.read_table(part, columns=["id", "language", "split"]).to_pydict()
    used = [split != "test" for split in rows["split"]]
    totals = Counter(language for language, use in zip(rows["language"], used, strict=True) if use)
    counts = {language: -(-total // documents_per_shard) for language, total in totals.items()}
    chunks = [(language, number) for language in sorted(counts) for number in range(counts[language])]
    first = {language: chunks.index((language, 0)) for language in counts}
    dealt = [
        first[language] + (seed_of(seed, "deal", name) % counts[language] if counts[language] > 1 else 0) if use else -1
        for name, language, use in zip(rows["id"], rows["language"], used, strict=True)
    ]
    return np.array(dealt, np.int64), chunks


def _texts(part: str, wanted: np.ndarray) -> Iterator[tuple[int, Text]]:
    """(place, row) of the wanted rows of a shard of texts; wanted: (rows,) bool."""
    first = 0
    with pq.ParquetFile(part) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            own = wanted[first : first + len(batch)]
            rows = from_table(pa.Table.from_batches([batch.filter(pa.array(own))]), Text)
            yield from zip((first + np.flatnonzero(own)).tolist(), rows, strict=True)
            first += len(batch)
