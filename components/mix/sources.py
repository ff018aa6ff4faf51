"""The sources of pre-training: their token shards, made once and kept, and the streams of documents over them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.mix.config import FILLER, MixConfig, sources_of
from components.mix.documents import SPLITS, VALIDATION, Job, make_shard, read_counts
from components.mix.order import MAX_SHARDS, Documents, SourceStream
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
    FILLER: ("collect", "texts"),
}


def make_shards(
    config: MixConfig, folders: dict[str, Path], tokenizer: Path, num_codes: int, work: Path, tracker: Tracker
) -> dict[str, list[Path]]:
    """Finished token shards of every source, made once for each (input shard, tokenizer, config, code).

    folders: the table of each source; tokenizer: folder of the LM's tokenizer.
    Raises ValueError for a source of more shards than the schedule can number.
    """
    jobs: dict[str, Job] = {}
    same_for_all = [sha256_of(tokenizer / "tokenizer.json"), config.seed, config.held_out_share, fingerprint("mix")]
    for source in sources_of(config):
        entries = [entry for entry in read_manifest(folders[source]).files if entry.path.endswith(".parquet")]
        check_number(source, len(entries))
        spoken = config.spoken_share if source == "interleaved" else 1.0
        filler = tuple(sorted(set(config.filler))) if source == FILLER else ()
        for entry in entries:
            key = hash_of([source, entry.path, entry.sha256, spoken, filler, *same_for_all])
            jobs[key] = Job(
                source=source,
                parquet=folders[source] / entry.path,
                tokenizer=tokenizer,
                num_codes=num_codes,
                seed=config.seed,
                held_out_share=config.held_out_share,
                spoken_share=spoken,
                filler=filler,
                share_cores=config.executor.num_workers > 1,
            )
    paths = map_shards(
        make_shard,
        list(jobs.values()),
        list(jobs),
        work=work,
        config=config.executor,
        progress=lambda done, total: tracker.progress(done, total, "mix: token shards"),
    )
    made: dict[str, list[Path]] = {source: [] for source in sources_of(config)}
    for job, path in zip(jobs.values(), paths, strict=True):
        made[job.source].append(path)
    return made


def check_number(source: str, num_shards: int) -> None:
    """Refuse what a record of the schedule cannot number. Raises ValueError."""
    if num_shards > MAX_SHARDS:
        stage = "/".join(TABLES[source])
        raise ValueError(
            f"mix: source {source} has {num_shards} shards, wanted at most {MAX_SHARDS}; make {stage} of larger ones"
        )


@dataclass(frozen=True)
class Source:
    """The finished shards of one source."""

    index: int
    name: str
    folders: list[Path]
    documents: dict[str, Documents]
    """Split -> its documents; each shard holds those for training first."""
    counts: Counter[str]
    """What make_shard counted, over all shards."""

    @classmethod
    def read(cls, index: int, name: str, folders: list[Path]) -> Source:
        """Look into the shards of a source."""
        of_shards = [read_counts(folder) for folder in folders]
        first = np.zeros(len(folders), np.int64)
        documents = {}
        for split in SPLITS:
            count = np.array([counts[f"num_{split}"] for counts in of_shards], np.int64)
            num_tokens = sum(counts[f"num_{split}_tokens"] for counts in of_shards)
            documents[split] = Documents(folders, first, count, num_tokens)
            first = first + count
        return cls(index, name, folders, documents, sum(map(Counter, of_shards), Counter()))

    def longer_than(self, num_tokens: int) -> int:
        """Training documents of more tokens."""
        train = self.documents["train"]
        return sum(int(np.count_nonzero(train.lengths(shard) > num_tokens)) for shard in range(len(self.folders)))

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
            documents=documents,
            budget=min(budget, documents.num_tokens) if split == VALIDATION else budget,
            seed=config.seed,
            sequence_length=config.sequence_length,
            shuffle_shards=config.shuffle_shards,
        )


def check_filler(config: MixConfig, source: Source) -> None:
    """Refuse a corpus of the filler that has no text to train on: a misspelt name fills nothing. Raises ValueError."""
    for corpus in config.filler:
        if not source.counts[f"rows_{corpus}"]:
            raise ValueError(f"mix.filler: {corpus!r} has no text to train on; wanted corpora of collect/texts")
