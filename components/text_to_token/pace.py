"""What real speech takes: tokens for a text, and the longest repetition; the measure of generated speech.

Learnt from the pairs that the model is trained on, by language: tokens = base + a * letters + b * ideographs
+ c * marks with coefficients >= 0, then the span of the ratio of real to expected tokens.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.optimize import nnls

from components.shared.words import IDEOGRAPH, SPACE, SPOKEN, code_points, kinds

MAX_PERIOD = 6
"""Longest repeated pattern that counts as a loop, in tokens (half a second at 12.5 tokens/s)."""
_TAIL = 0.005
"""Share of the real pairs beyond either bound, before the slack."""
_SLACK = 1.15
"""Bounds are widened by this, since unseen texts vary more than seen ones."""
_ALONE = {
    "latin": re.compile(r"[a-z][a-z ',.?!]*"),
    "ideograph": re.compile(r"[\u3400-\u9fff][\u3400-\u9fff ,.?!]*"),
}
"""Texts in one script, as most are, need not be looked at letter by letter."""
_RARE = 1e-4
"""A script with a smaller share of the characters was not learnt."""


@dataclass(frozen=True, kw_only=True)
class LanguagePace:
    """Pace of one language."""

    base: float
    """Tokens of any utterance, silence at both ends."""
    per_letter: float
    per_ideograph: float
    per_mark: float
    low: float
    """Smallest accepted ratio of tokens to expected tokens."""
    high: float
    """Largest accepted ratio."""
    spread: float
    """Tokens of absolute error allowed on top, since short phrases are relatively uneven."""
    max_loop: int
    """Longest accepted repetition, in tokens."""
    per_word: float
    """Tokens a word on average (a character in Mandarin)."""
    scripts: tuple[str, ...]
    """Scripts that the texts are written in, such as latin; other ones cannot be said."""


@dataclass(frozen=True)
class Pace:
    """Paces by language."""

    languages: dict[str, LanguagePace]

    @classmethod
    def learn(cls, pairs: Iterable[tuple[str, str, np.ndarray]]) -> Pace:
        """From (language, speakable text, codes (tokens,)) of real pairs. Raises ValueError when there are none."""
        by_language: dict[str, list[tuple[np.ndarray, int, int, int]]] = {}
        scripts: dict[str, Counter[str]] = {}
        for language, said, codes in pairs:
            record = (features([said])[0], len(codes), int(longest_loops([codes])[0]), int(num_words([said])[0]))
            by_language.setdefault(language, []).append(record)
            scripts.setdefault(language, Counter()).update(_scripts(said))
        if not by_language:
            raise ValueError("text_to_token: no pairs to learn the pace of speech from")
        return cls({language: _learn(records, scripts[language]) for language, records in sorted(by_language.items())})

    def expected(self, said: str, language: str) -> float:
        """Tokens that real speech takes on average for a speakable text."""
        return float(self.expectations([said], language)[0])

    def expectations(self, said: Sequence[str], language: str) -> np.ndarray:
        """Tokens that real speech takes on average for each speakable text: (texts,) float64."""
        pace = self._of(language)
        return features(said) @ np.array([pace.base, pace.per_letter, pace.per_ideograph, pace.per_mark])

    def durations(self, parts: Sequence[str], language: str) -> tuple[float, np.ndarray]:
        """(tokens of silence at either end, expected tokens of each part of a text (parts,) float64)."""
        pace = self._of(language)
        return pace.base / 2, features(parts) @ np.array([0, pace.per_letter, pace.per_ideograph, pace.per_mark])

    def bounds(self, said: Sequence[str], language: str) -> np.ndarray:
        """Fewest and most tokens accepted for each speakable text: (texts, 2) int64."""
        pace, expected = self._of(language), self.expectations(said, language)
        low = np.maximum(1, np.floor(expected * pace.low - pace.spread))
        return np.stack([low, np.ceil(expected * pace.high + pace.spread)], axis=1).astype(np.int64)

    def can_say(self, said: str, language: str) -> bool:
        """Whether the speakable text is in a language and in scripts that the model has learnt."""
        if language not in self.languages:
            return False
        learnt = self.languages[language].scripts
        for script, alone in _ALONE.items():
            if alone.fullmatch(said):
                return script in learnt
        return bool(said) and _scripts(said).keys() <= set(learnt)

    def faults(self, bounds: np.ndarray, language: str, codes: Sequence[np.ndarray]) -> list[str]:
        """Of each text too_short, too_long or loop; an empty string for speech that could be real.

        bounds: (texts, 2) as `bounds` gave them; codes: of each text (tokens,), any integer type.
        """
        lengths = np.array([len(own) for own in codes], np.int64)
        looping = longest_loops(codes) > self._of(language).max_loop
        short, long = lengths < bounds[:, 0], lengths > bounds[:, 1]
        return np.select([short, long, looping], ["too_short", "too_long", "loop"], "").tolist()

    def _of(self, language: str) -> LanguagePace:
        if language not in self.languages:
            raise ValueError(f"text_to_token: got language {language!r}, trained on {', '.join(self.languages)}")
        return self.languages[language]

    def to_json(self) -> dict[str, Any]:
        """As plain dicts."""
        return {language: asdict(pace) for language, pace in self.languages.items()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Pace:
        """From what to_json gave."""
        languages = {}
        for language, pace in record.items():
            languages[language] = LanguagePace(**{**pace, "scripts": tuple(pace["scripts"])})
        return cls(languages)


def _learn(records: list[tuple[np.ndarray, int, int, int]], scripts: Counter[str]) -> LanguagePace:
    features = np.stack([record[0] for record in records])
    lengths = np.array([record[1] for record in records], dtype=np.float64)
    # weights of 1/length make it the relative error that counts, so that phrases matter as much as sentences
    weights = 1 / np.maximum(lengths, 1)
    (base, per_letter, per_ideograph, per_mark), _ = nnls(features * weights[:, None], lengths * weights)
    expected = np.maximum(features @ np.array([base, per_letter, per_ideograph, per_mark]), 1)
    low, high = np.quantile(lengths / expected, [_TAIL, 1 - _TAIL])
    loops = np.array([record[2] for record in records])
    return LanguagePace(
        base=float(base),
        per_letter=float(per_letter),
        per_ideograph=float(per_ideograph),
        per_mark=float(per_mark),
        low=float(low / _SLACK),
        high=float(high * _SLACK),
        spread=2.0,
        max_loop=int(np.ceil(np.quantile(loops, 1 - _TAIL) * _SLACK)) + MAX_PERIOD,
        per_word=float(lengths.sum() / sum(record[3] for record in records)),
        scripts=tuple(sorted(name for name, count in scripts.items() if count > _RARE * scripts.total())),
    )


def features(said: Sequence[str]) -> np.ndarray:
    """(1, letters and digits, ideographs, marks) of each speakable text: (texts, 4) float64."""
    joined = "\n".join([*said, ""])
    found, points = kinds(joined), code_points(joined)
    is_ideograph, is_spoken = (found & IDEOGRAPH) != 0, (found & SPOKEN) != 0
    columns = (is_spoken & ~is_ideograph, is_ideograph, _is_mark()[np.minimum(points, 127)])
    return np.stack([np.ones(len(said)), *(_sums(column, said) for column in columns)], axis=1)


def _sums(column: np.ndarray, said: Sequence[str]) -> np.ndarray:
    """Of each text, in a column of the characters of all texts with a line end behind each: (texts,) float64."""
    stops = np.cumsum([len(text) + 1 for text in said], dtype=np.int64)
    return np.diff(np.concatenate([[0], np.cumsum(column, dtype=np.int64)[stops - 1]])).astype(np.float64)


@cache
def _is_mark() -> np.ndarray:
    return np.isin(np.arange(128), [ord(mark) for mark in ",.?!"])


def _scripts(said: str) -> Counter[str]:
    """How many letters, digits and ideographs of each script there are."""
    found: Counter[str] = Counter()
    for character, count in Counter(said).items():
        if script := _script(character):
            found[script] += count
    return found


@cache
def _script(character: str) -> str:
    """latin, digit, ideograph, cyrillic ..., an empty string for what is not spoken."""
    if character.isascii():
        return ("latin" if character.isalpha() else "digit") if character.isalnum() else ""
    if kinds(character)[0] & IDEOGRAPH:
        return "ideograph"
    return unicodedata.name(character, "unknown").split()[0].lower() if character.isalnum() else ""


def num_words(said: Sequence[str]) -> np.ndarray:
    """Words of each speakable text, every ideograph one of them: (texts,) float64."""
    found = kinds("\n".join([*said, ""]))
    is_space, is_ideograph = (found & SPACE) != 0, (found & IDEOGRAPH) != 0
    # a unit begins at an ideograph, after one, and after a space
    begins = ~is_space
    begins[1:] &= is_space[:-1] | is_ideograph[1:] | is_ideograph[:-1]
    starts = np.flatnonzero(begins)
    counted = np.zeros(len(found), bool)
    if len(starts):
        counted[starts] = np.maximum.reduceat(found & SPOKEN, starts) != 0
    return _sums(counted, said)


def longest_loops(codes: Sequence[np.ndarray]) -> np.ndarray:
    """Length of the longest stretch of each utterance that repeats a pattern of at most MAX_PERIOD tokens, 0 if none.

    codes: of each (tokens,), any integer type; returns (utterances,) int64.
    """
    longest = np.zeros(len(codes), np.int64)
    flat = np.concatenate([np.empty(0, np.int64), *codes]).astype(np.int64)
    owner = np.repeat(np.arange(len(codes)), [len(own) for own in codes])
    for period in range(1, min(MAX_PERIOD, len(flat) // 2) + 1):
        same = (flat[period:] == flat[:-period]) & (owner[period:] == owner[:-period])
        edges = np.flatnonzero(np.diff(same, prepend=False, append=False))
        # two utterances have `period` places between them that are not the same, so no run spans both
        starts, runs = edges[::2], edges[1::2] - edges[::2]
        kept = runs >= period
        np.maximum.at(longest, owner[starts[kept]], runs[kept] + period)
    return longest
