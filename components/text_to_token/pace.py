"""What real speech takes: tokens for a text, and the longest repetition; the measure of generated speech.

Learnt from the pairs that the model is trained on, by language: tokens = base + a * letters + b * ideographs
+ c * marks with coefficients >= 0, then the span of the ratio of real to expected tokens.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls

MAX_PERIOD = 6
"""Longest repeated pattern that counts as a loop, in tokens (half a second at 12.5 tokens/s)."""
_TAIL = 0.005
"""Share of the real pairs beyond either bound, before the slack."""
_SLACK = 1.15
"""Bounds are widened by this, since unseen texts vary more than seen ones."""
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
            record = (_features(said), len(codes), longest_loop(codes), count_words(said))
            by_language.setdefault(language, []).append(record)
            scripts.setdefault(language, Counter()).update(_scripts(said))
        if not by_language:
            raise ValueError("text_to_token: no pairs to learn the pace of speech from")
        return cls({language: _learn(records, scripts[language]) for language, records in sorted(by_language.items())})

    def expected(self, said: str, language: str) -> float:
        """Tokens that real speech takes on average for a speakable text."""
        pace = self._of(language)
        return float(_features(said) @ np.array([pace.base, pace.per_letter, pace.per_ideograph, pace.per_mark]))

    def durations(self, parts: Sequence[str], language: str) -> tuple[float, np.ndarray]:
        """(tokens of silence at either end, expected tokens of each part of a text (parts,) float64)."""
        pace = self._of(language)
        rates = np.array([0, pace.per_letter, pace.per_ideograph, pace.per_mark])
        return pace.base / 2, np.array([float(_features(part) @ rates) for part in parts])

    def bounds(self, said: str, language: str) -> tuple[int, int]:
        """Fewest and most tokens accepted for a speakable text."""
        pace, expected = self._of(language), self.expected(said, language)
        low = max(1, int(np.floor(expected * pace.low - pace.spread)))
        return low, int(np.ceil(expected * pace.high + pace.spread))

    def can_say(self, said: str, language: str) -> bool:
        """Whether the speakable text is in a language and in scripts that the model has learnt."""
        if language not in self.languages:
            return False
        return bool(said) and set(_scripts(said)) <= set(self.languages[language].scripts)

    def fault(self, said: str, language: str, codes: Sequence[int]) -> str:
        """too_short, too_long or loop; an empty string for speech that could be real."""
        low, high = self.bounds(said, language)
        if len(codes) < low:
            return "too_short"
        if len(codes) > high:
            return "too_long"
        return "loop" if longest_loop(np.asarray(codes)) > self._of(language).max_loop else ""

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


def _features(said: str) -> np.ndarray:
    """(1, letters and digits, ideographs, marks) of a speakable text: (4,) float64."""
    ideographs = sum(is_ideograph(c) for c in said)
    spoken = sum(c.isalnum() for c in said)
    return np.array([1, spoken - ideographs, ideographs, sum(c in ",.?!" for c in said)], dtype=np.float64)


def _scripts(said: str) -> Iterator[str]:
    """The script of every letter, digit and ideograph."""
    for c in said:
        if c.isascii():
            if c.isalnum():
                yield "latin" if c.isalpha() else "digit"
        elif is_ideograph(c):
            yield "ideograph"
        elif c.isalnum():
            yield unicodedata.name(c, "unknown").split()[0].lower()


def count_words(said: str) -> int:
    """Words of a speakable text; every ideograph counts as one."""
    spaced = "".join(f" {c} " if is_ideograph(c) else c for c in said)
    return sum(any(c.isalnum() for c in word) for word in spaced.split())


def is_ideograph(character: str) -> bool:
    """Whether the character is a CJK ideograph."""
    return "\u3400" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff" or character >= "\U00020000"


def longest_loop(codes: np.ndarray) -> int:
    """Length of the longest stretch that repeats a pattern of at most MAX_PERIOD tokens at least twice, 0 if none.

    codes: (tokens,), any integer type.
    """
    longest = 0
    for period in range(1, min(MAX_PERIOD, len(codes) // 2) + 1):
        same = np.concatenate([[False], codes[period:] == codes[:-period], [False]])
        edges = np.flatnonzero(same[1:] != same[:-1])
        runs = edges[1::2] - edges[::2]
        run = int(runs.max()) if len(runs) else 0
        if run >= period:
            longest = max(longest, run + period)
    return longest
