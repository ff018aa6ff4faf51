"""From item scores to the figures of metrics.json: value, interval, baseline, and the difference of the two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from components.evaluate.config import SoundJudge
from components.evaluate.intervals import difference_interval, ratio_interval
from components.shared.contracts import ItemScore

ACCURACIES = ("s_to_s", "s_to_t", "t_to_t", "asked", "real")
GRADES = tuple(judge.value for judge in SoundJudge)
"""Modes whose scores are grades on a scale and not counts of successes or errors."""


def summarise(scores: Iterable[ItemScore], *, seed: int, level: float) -> dict[str, float]:
    """Figures of every task and mode: <task>_<mode> over all items and <task>_<mode>_<group> apart.

    Accuracies are also given over all groups and by language (when there are two), with `_chance` for the baseline.
    Error rates, lengths and grades never mix groups, since recorded and synthesised speech are no one figure; their
    baseline is called `_reference`. Each comes with _low, _high and _items, and where every item has a baseline with
    _difference (value minus baseline, paired), _difference_low and _difference_high.
    """
    rows: dict[str, list[ItemScore]] = defaultdict(list)
    languages = defaultdict(set)
    scores = list(scores)
    for row in scores:
        languages[row.task, row.mode].add(row.language)
    for row in scores:
        name = f"{row.task}_{row.mode}"
        for group in row.groups:
            rows[f"{name}_{group}"].append(row)
        if row.mode in ACCURACIES:
            rows[name].append(row)
            if len(languages[row.task, row.mode]) > 1:
                rows[f"{name}_{row.language}"].append(row)
    metrics: dict[str, float] = {}
    for name in sorted(rows):
        metrics |= _figure(name, rows[name], seed, level)
    return metrics


def _figure(name: str, rows: list[ItemScore], seed: int, level: float) -> dict[str, float]:
    scores, weights, clusters = ([getattr(row, key) for row in rows] for key in ("score", "weight", "cluster"))
    counts = rows[0].mode not in GRADES
    value = ratio_interval(scores, weights, clusters, seed=seed, level=level, counts=counts)
    figure = {
        name: value.value,
        f"{name}_low": value.low,
        f"{name}_high": value.high,
        f"{name}_items": float(len(rows)),
    }
    baselines = [row.baseline for row in rows if row.baseline is not None]
    if len(baselines) < len(rows):
        return figure
    difference = difference_interval(scores, baselines, weights, clusters, seed=seed, level=level, counts=counts)
    beside = "chance" if rows[0].mode in ACCURACIES else "reference"
    return figure | {
        f"{name}_{beside}": sum(baselines) / sum(weights),
        f"{name}_difference": difference.value,
        f"{name}_difference_low": difference.low,
        f"{name}_difference_high": difference.high,
    }
