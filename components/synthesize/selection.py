"""Which documents are used: a share of the tokens for every language that can be said, up to the target."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, replace

from components.synthesize.config import SynthesizeConfig
from components.synthesize.seeds import seed_of
from components.synthesize.survey import Chunk

LEAST_SHARE = 0.1
"""Of a chunk; after a language's first a smaller remainder is not made: statistics of a few documents say little."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is to be made."""

    chunks: list[Chunk]
    """In the order of the texts; the last one of a language may be cut to its first documents."""
    dropped: Counter[str]
    """Documents in a language that is named unsayable, and those beyond the target (beyond_target)."""

    @property
    def tokens(self) -> dict[str, float]:
        """Expected tokens of each language, speech and text together."""
        found: dict[str, float] = defaultdict(float)
        for chunk in self.chunks:
            found[chunk.language] += chunk.tokens
        return dict(found)


def select(chunks: list[Chunk], config: SynthesizeConfig, unsayable: Collection[str] = ()) -> Selection:
    """Take chunks of each language until its share of the target is there, but for less than a tenth of one.

    Which ones depends on their content and the seed alone, so that a grown corpus keeps most of what it had. Raises
    ValueError when a language has no share.
    """
    dropped: Counter[str] = Counter()
    by_language: dict[str, list[int]] = defaultdict(list)
    for index, chunk in enumerate(chunks):
        if chunk.language in unsayable:
            dropped["unsayable"] += chunk.num_documents
        elif chunk.language not in config.language_shares:
            raise ValueError(
                f"synthesize.language_shares: texts are in {chunk.language!r}, "
                f"wanted a share for it beside {', '.join(config.language_shares)}"
            )
        else:
            by_language[chunk.language].append(index)
    for language in by_language:
        if not config.language_shares[language] > 0:
            share = config.language_shares[language]
            raise ValueError(f"synthesize.language_shares.{language}: got {share}, wanted more than 0")
    total_share = sum(config.language_shares[language] for language in by_language)
    chosen: dict[int, Chunk] = {}
    for language, members in by_language.items():
        left = config.target_tokens * config.language_shares[language] / total_share
        begun = False
        for index in sorted(members, key=lambda index: (seed_of(config.seed, "use", chunks[index].content), index)):
            used = first_documents(chunks[index], left / max(1.0, chunks[index].tokens))
            if begun and used.num_documents < LEAST_SHARE * chunks[index].num_documents:
                used = first_documents(chunks[index], 0.0)
            dropped["beyond_target"] += chunks[index].num_documents - used.num_documents
            left -= used.tokens
            begun = True
            if used.num_documents:
                chosen[index] = used
    return Selection(chunks=[chosen[index] for index in sorted(chosen)], dropped=dropped)


def first_documents(chunk: Chunk, share: float) -> Chunk:
    """A chunk cut to a share of its documents, whole ones, at least as many as the share; share: any number."""
    count = min(chunk.num_documents, max(0, -int(-share * chunk.num_documents // 1)))
    kept = count / chunk.num_documents
    return replace(
        chunk,
        num_documents=count,
        num_chars=round(chunk.num_chars * kept),
        speech_tokens=chunk.speech_tokens * kept,
        text_tokens=chunk.text_tokens * kept,
    )
