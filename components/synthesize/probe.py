"""Which languages the text-to-token model cannot say, found out on a few documents before all are tried in vain."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from components.shared.contracts import Text
from components.shared.executor import map_shards
from components.shared.tracking import Tracker
from components.synthesize.config import SynthesizeConfig
from components.synthesize.shard import failed_share, keyed, make, read_record, seed_of


def find_unsayable(
    documents: list[Text], folder: Path, config: SynthesizeConfig, work: Path, tracker: Tracker
) -> list[str]:
    """Languages of whose spans more than config.max_failed_share fail, in config.probe_documents documents of each.

    folder: of the text-to-token model; the spans are planned and said as those of any shard, under work.
    """
    parts: dict[str, list[Text]] = defaultdict(list)
    for document in sorted(documents, key=lambda document: seed_of(config.seed, "probe", document.id)):
        if len(parts[document.language]) < config.probe_documents:
            parts[document.language].append(document)
    jobs = keyed(list(parts.values()), folder, config)
    paths = map_shards(
        make,
        list(jobs.values()),
        list(jobs),
        work=work,
        config=config.executor,
        progress=lambda done, total: tracker.progress(done, total, "synthesize: probe of each language"),
    )
    shares = {language: failed_share(read_record(path)[0]) for language, path in zip(parts, paths, strict=True)}
    unsayable = sorted(language for language, share in shares.items() if share > config.max_failed_share)
    for language in unsayable:
        tracker.say(
            f"synthesize: {language} stays text: {shares[language]:.0%} of its spans fail in "
            f"{len(parts[language])} documents, accepted are {config.max_failed_share:.0%}"
        )
    return unsayable
