"""Which languages the text-to-token model cannot say, found out on a few documents before all are tried in vain."""

from __future__ import annotations

from pathlib import Path

from components.shared.executor import map_shards
from components.shared.tracking import Tracker
from components.synthesize.config import SynthesizeConfig
from components.synthesize.selection import first_documents
from components.synthesize.shard import failed_share, keyed, make, placement, read_record
from components.synthesize.survey import Chunk


def find_unsayable(
    chunks: list[Chunk], folder: Path, config: SynthesizeConfig, work: Path, tracker: Tracker
) -> list[str]:
    """Languages of whose spans more than config.max_failed_share fail, in config.probe_documents documents of each.

    chunks: what was selected; folder: of the text-to-token model. The spans are planned and said as those of any shard.
    """
    first: dict[str, Chunk] = {}
    for chunk in sorted(chunks, key=lambda chunk: -chunk.num_documents):
        share = config.probe_documents / chunk.num_documents
        first.setdefault(chunk.language, first_documents(chunk, share))
    jobs = keyed(first.values(), folder, config)
    paths = map_shards(
        make,
        list(jobs.values()),
        list(jobs),
        work=work,
        config=config.executor,
        progress=lambda done, total: tracker.progress(done, total, "synthesize: probe of each language"),
        **placement(config),
    )
    shares = {language: failed_share(read_record(path).counts) for language, path in zip(first, paths, strict=True)}
    unsayable = sorted(language for language, share in shares.items() if share > config.max_failed_share)
    for language in unsayable:
        tracker.say(
            f"synthesize: {language} stays text: {shares[language]:.0%} of its spans fail in "
            f"{first[language].num_documents} documents, accepted are {config.max_failed_share:.0%}"
        )
    return unsayable
