"""The sources of pre-training: their token shards, made once and kept, and the streams of documents over them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.mix.config import MixConfig
from components.mix.documents import SOURCES, Job, document_lengths, make_shard, read_counts
from components.mix.schedule import SourceStream
from components.shared.executor import map_shards
from components.shared.fingerprint import fingerprint
from components.shared.manifest import hash_of, link, read_manifest, sha256_of
from components.shared.tracking import Tracker

TABLES = {
    "text": ("collect", "texts"),
    "speech": ("tokenize", "tokens"),
    "asr": ("tokenize", "tokens"),
    "tts": ("tokenize", "tokens"),
    "interleaved": ("synthesize", "interleaved"),
}


def make_shards(
    config: MixConfig, folders: dict[str, Path], tokenizer: Path, num_codes: int, work: Path, tracker: Tracker
) -> dict[str, list[Path]]:
    """Finished token shards of every source, made once for each (input shard, tokenizer, config, code).

    folders: the table of each source; tokenizer: folder of the LM's tokenizer.
    """
    jobs: dict[str, Job] = {}
    same_for_all = [sha256_of(tokenizer / "tokenizer.json"), config.seed, config.held_out_share, fingerprint("mix")]
    for source in SOURCES:
        for entry in read_manifest(folders[source]).files:
            if not entry.path.endswith(".parquet"):
                continue
            spoken = config.spoken_share if source == "interleaved" else 1.0
            key = hash_of([source, entry.path, entry.sha256, spoken, *same_for_all])
            jobs[key] = Job(
                source=source,
                parquet=folders[source] / entry.path,
                tokenizer=tokenizer,
                num_codes=num_codes,
                seed=config.seed,
                held_out_share=config.held_out_share,
                spoken_share=spoken,
            )
    paths = map_shards(
        make_shard,
        list(jobs.values()),
        list(jobs),
        work=work,
        config=config.executor,
        progress=lambda done, total: tracker.progress(done, total, "mix: token shards"),
    )
    made: dict[str, list[Path]] = {source: [] for source in SOURCES}
    for job, path in zip(jobs.values(), paths, strict=True):
        made[job.source].append(path)
    return made


@dataclass(frozen=True)
class Documents:
    """The documents of one split of a source, all shards in a row; arrays are (documents,)."""

    lengths: np.ndarray
    """Tokens, uint32."""
    shard: np.ndarray
    """Which shard, uint16."""
    number: np.ndarray
    """Number in that shard, uint32."""

    @property
    def num_tokens(self) -> int:
        """Tokens of one epoch."""
        return int(self.lengths.sum(dtype=np.int64))


@dataclass(frozen=True)
class Source:
    """The finished shards of one source."""

    index: int
    name: str
    folders: list[Path]
    documents: dict[str, Documents]
    """Split -> its documents."""
    counts: dict[str, int]
    """num_train, num_validation and what was dropped, over all shards."""

    @classmethod
    def read(cls, index: int, name: str, folders: list[Path]) -> Source:
        """Look into the shards of a source; each holds its training documents first."""
        counts: dict[str, int] = {}
        split_parts: dict[str, list[Documents]] = {"train": [], "validation": []}
        for shard, folder in enumerate(folders):
            lengths, found = document_lengths(folder), read_counts(folder)
            cut = found["num_train"]
            for split, part in (("train", slice(0, cut)), ("validation", slice(cut, len(lengths)))):
                number = np.arange(part.start, part.stop, dtype=np.uint32)
                split_parts[split].append(Documents(lengths[part], np.full(len(number), shard, np.uint16), number))
            counts = {key: counts.get(key, 0) + count for key, count in found.items()}
        documents = {split: _concatenate(parts) for split, parts in split_parts.items()}
        return cls(index, name, folders, documents, counts)

    def publish(self, target: Path) -> None:
        """Put the shards into the published folder: a second name for the same file where the disk allows it."""
        for shard, folder in enumerate(self.folders):
            for made, suffix in (("tokens.bin", "bin"), ("tokens.offsets", "offsets"), ("ids.parquet", "ids.parquet")):
                link(folder / made, target / f"{self.name}-{shard:05d}.{suffix}")

    def stream(self, split: str, budget: int, config: MixConfig) -> SourceStream:
        """The documents of a split in their order; validation gives each at most once."""
        documents = self.documents[split]
        return SourceStream(
            source=self.index,
            lengths=documents.lengths,
            shard=documents.shard,
            document=documents.number,
            budget=min(budget, documents.num_tokens) if split == "validation" else budget,
            seed=config.seed,
            sequence_length=config.sequence_length,
        )


def _concatenate(parts: list[Documents]) -> Documents:
    columns = [(part.lengths, part.shard, part.number) for part in parts]
    return Documents(*(np.concatenate(column) for column in zip(*columns, strict=True)))
