"""Bootstrap intervals: how far a figure could be from what it shows, had other facts been drawn.

Items about one fact succeed and fail together, so whole facts are resampled (a cluster bootstrap, Efron and Tibshirani
1993, chapter 8), and a comparison is made on the differences at the same items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_DRAWS = 2000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A ratio of sums and the interval that covers the true one at the stated level."""

    value: float
    low: float
    high: float
    num_clusters: int
    """Resampled units: facts or utterances."""


def ratio_interval(
    scores: Sequence[float],
    weights: Sequence[float],
    clusters: Sequence[str],
    *,
    seed: int,
    level: float,
    counts: bool = True,
) -> Interval:
    """sum(scores) / sum(weights) with its percentile interval over resampled clusters.

    scores, weights, clusters: one entry an item; items with equal cluster names are drawn together; level: 0.95 for a
    95% interval. Deterministic in seed. Items that all fail, or all succeed, leave nothing to resample and percentiles
    would claim certainty: the interval is then the exact binomial one (Clopper-Pearson) of that many clusters. counts:
    whether scores count successes or errors, as this needs; false for grades on a scale.
    Raises ValueError when there is no item or no weight.
    """
    scores_C, weights_C = _per_cluster(scores, weights, clusters)
    value = float(scores_C.sum() / weights_C.sum())
    reach = _reach(len(scores_C), level)
    if not counts:
        low, high = _percentiles(scores_C, weights_C, seed, level)
    elif value == 0.0 and not scores_C.any():
        low, high = 0.0, reach
    elif value == 1.0 and np.array_equal(scores_C, weights_C):
        low, high = 1.0 - reach, 1.0
    else:
        low, high = _percentiles(scores_C, weights_C, seed, level)
    return Interval(value=value, low=low, high=high, num_clusters=len(scores_C))


def difference_interval(
    scores: Sequence[float],
    baselines: Sequence[float],
    weights: Sequence[float],
    clusters: Sequence[str],
    *,
    seed: int,
    level: float,
    counts: bool = True,
) -> Interval:
    """sum(scores - baselines) / sum(weights), paired: both at the same items, in the same draws.

    The interval excludes 0 when the two differ beyond chance. Where no item differs at all it reaches as far to both
    sides as the exact binomial bound of no success, if the scores are counts.
    """
    differences = np.asarray(scores, dtype=np.float64) - np.asarray(baselines, dtype=np.float64)
    scores_C, weights_C = _per_cluster(differences, weights, clusters)
    value = float(scores_C.sum() / weights_C.sum())
    if scores_C.any() or not counts:
        low, high = _percentiles(scores_C, weights_C, seed, level)
    else:
        high = _reach(len(scores_C), level)
        low = -high
    return Interval(value=value, low=low, high=high, num_clusters=len(scores_C))


def _per_cluster(
    scores: Sequence[float] | np.ndarray, weights: Sequence[float], clusters: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of scores and weights, (clusters,) float64 each, in the order of the sorted cluster names."""
    scores_I, weights_I = np.asarray(scores, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if scores_I.size == 0 or not weights_I.sum() > 0:
        raise ValueError(f"interval: got {scores_I.size} items of weight {weights_I.sum():g}, wanted at least one")
    names, cluster_I = np.unique(np.asarray(clusters), return_inverse=True)
    return np.bincount(cluster_I, scores_I, len(names)), np.bincount(cluster_I, weights_I, len(names))


def _percentiles(scores_C: np.ndarray, weights_C: np.ndarray, seed: int, level: float) -> tuple[float, float]:
    """Percentiles of the ratio when as many clusters are drawn with replacement, NUM_DRAWS times."""
    num = len(scores_C)
    rng = np.random.default_rng(seed)
    counts_DC = rng.multinomial(num, np.full(num, 1.0 / num), NUM_DRAWS)
    ratios_D = (counts_DC @ scores_C) / (counts_DC @ weights_C)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(ratios_D, [tail, 1.0 - tail])
    return float(low), float(high)


def _reach(num_clusters: int, level: float) -> float:
    """The largest success rate at which no success in num_clusters trials is not yet surprising."""
    return float(1.0 - ((1.0 - level) / 2.0) ** (1.0 / num_clusters))
