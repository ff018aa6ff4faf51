"""Which words of a text are said: spans of Poisson length, placed without bias, that cover a given share.

The paper's spans are drawn from a Poisson distribution until they cover 0.3 of the text (Zeng et al. 2024, section
2.3). Here the share is met to the word, which fixes the sum of the lengths; Poisson lengths of a known sum are
multinomial, so they are drawn at once and no span is cut to fit.
"""

from __future__ import annotations

from functools import cache

import numpy as np


def plan_spans(num_words: int, mean_span: float, ratio: float, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Spans (start, stop) of words, in order, that never overlap and cover round(ratio * num_words) words.

    mean_span: mean length in words, at least 1; lengths follow a Poisson distribution without its zero, of that mean.
    ratio: 0..1. Neighbours have a word between them where the share leaves room for it. A text too short for a whole
    span gets one of the length that the share allows.
    Raises ValueError for numbers outside these ranges.
    """
    if num_words < 0 or not mean_span >= 1 or not 0 <= ratio <= 1:
        got = f"num_words={num_words}, mean_span={mean_span}, ratio={ratio}"
        raise ValueError(f"plan_spans: got {got}; wanted num_words >= 0, mean_span >= 1, ratio in 0..1")
    covered = int(np.floor(ratio * num_words + 0.5))
    if covered == 0:
        return []
    lengths = _lengths(covered, mean_span, rng)
    return _around(lengths, _gaps(num_words - covered, len(lengths), rng), rng)


def _lengths(covered: int, mean_span: float, rng: np.random.Generator) -> np.ndarray:
    """Lengths of at least 1 that sum to covered: as many as independent draws need to come nearest to the sum."""
    rate = _rate(mean_span)
    drawn = np.zeros(1)
    while drawn[-1] < covered:
        number = int(covered / mean_span) + 8
        # the first event of a Poisson process that has one, then the rest of it
        first = -np.log1p(rng.random(number) * np.expm1(-rate))
        drawn = np.concatenate([drawn, drawn[-1] + np.cumsum(1 + rng.poisson(np.maximum(rate - first, 0)))])
    count = max(1, min(covered, int(np.abs(drawn - covered).argmin())))
    lengths = rng.multinomial(covered, np.full(count, 1 / count))
    empty = lengths == 0
    lengths[empty] = 1
    return lengths - rng.multivariate_hypergeometric(lengths - 1, int(empty.sum()))


@cache
def _rate(mean_span: float) -> float:
    """The rate of a Poisson distribution whose mean without its zero is mean_span, by bisection."""
    low, high = 1e-9, mean_span
    for _ in range(60):
        rate = (low + high) / 2
        low, high = (rate, high) if rate / -np.expm1(-rate) < mean_span else (low, rate)
    return high


def _gaps(free: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Words after each of `count` spans, at least one where there are enough, every way equally likely."""
    least = int(free >= count)
    spare = free - least * count
    bars = np.sort(rng.choice(spare + count - 1, count - 1, replace=False))
    return np.diff(bars, prepend=-1, append=spare + count - 1) - 1 + least


def _around(lengths: np.ndarray, gaps: np.ndarray, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Spans and gaps laid in a ring that is opened at a word chosen at random.

    In the ring all words are alike, so the ends of the text are said about as often as its middle. A span that the
    opening would cut is kept whole at the end of the text that has more of it.
    """
    starts = np.concatenate([[0], np.cumsum(lengths + gaps)])
    opening = int(rng.integers(starts[-1]))
    at = int(np.searchsorted(starts, opening, side="right")) - 1
    inside = opening - starts[at]
    if inside < lengths[at]:
        to_the_end = 2 * inside + rng.random() - 0.5 > lengths[at]
        opening = starts[at] + (lengths[at] if to_the_end else 0)
    begins = (starts[:-1] - opening) % starts[-1]
    order = np.argsort(begins)
    return [(int(begins[i]), int(begins[i] + lengths[i])) for i in order]
