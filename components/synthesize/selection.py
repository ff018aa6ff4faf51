"""Which texts are used: a share of the speech tokens for every language that can be said, up to the target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from components.shared.contracts import Text
from components.shared.speakable import speakable
from components.synthesize.config import SynthesizeConfig
from components.synthesize.shard import seed_of
from components.text_to_token.model import TextToToken


def select(
    texts: Iterable[Text],
    model: TextToToken,
    config: SynthesizeConfig,
    dropped: Counter[str],
    unsayable: Collection[str] = (),
) -> tuple[list[Text], dict[str, float]]:
    """(texts of splits train and validation to use, in their own order; expected speech tokens by language).

    Which ones are used below a target depends on their ids alone, so that a grown corpus keeps most of what it had.
    Left out and counted in dropped: texts without a word (no_words), in a language that was not learnt (language) or
    that is named unsayable (unsayable), and those beyond the target (beyond_target). Raises ValueError when a language
    has no share.
    """
    by_language: dict[str, list[tuple[int, int, Text]]] = {}
    for position, text in enumerate(texts):
        if text.split == "test":
            continue
        if text.language not in model.pace.languages:
            dropped["language"] += 1
            continue
        if text.language in unsayable:
            dropped["unsayable"] += 1
            continue
        if text.language not in config.language_shares:
            raise ValueError(
                f"synthesize.language_shares: text {text.id!r} is in {text.language!r}, "
                f"wanted a share for it beside {', '.join(config.language_shares)}"
            )
        by_language.setdefault(text.language, []).append((seed_of(config.seed, "use", text.id), position, text))
    total_share = sum(config.language_shares[language] for language in by_language)
    chosen: list[tuple[int, Text]] = []
    expected: dict[str, float] = {}
    for language, candidates in sorted(by_language.items()):
        target = config.target_tokens * config.language_shares[language] / total_share
        expected[language] = 0.0
        for _, position, text in sorted(candidates, key=lambda candidate: candidate[:2]):
            said = speakable(text.text, language)
            if not said:
                dropped["no_words"] += 1
            elif expected[language] >= target:
                dropped["beyond_target"] += 1
            else:
                expected[language] += config.ratio * model.pace.expected(said, language)
                chosen.append((position, text))
    return [text for _, text in sorted(chosen, key=lambda pair: pair[0])], expected
