"""The table and the picture of a sweep: means over seeds with their intervals, every run a point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LEVEL = 0.95
NAMES = ("experiment", "revision")


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row an experiment: its runs' figures as they are when there is one, else (mean, half of the interval).

    The interval is Student's over the runs (LEVEL): it says how much seeds matter, not how few the items are.
    """
    out = []
    for experiment in dict.fromkeys(row["experiment"] for row in rows):
        own = [row for row in rows if row["experiment"] == experiment]
        figures = {column: [row[column] for row in own] for column in own[0] if column not in NAMES}
        cells = {column: values[0] if len(values) == 1 else _spread(values) for column, values in figures.items()}
        out.append({"experiment": experiment, **cells})
    return out


def _spread(values: list[Any]) -> Any:
    import numpy as np
    from scipy import stats

    if any(value is None for value in values):
        return None
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(half)


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """The rows of a summary as a table, figures with three digits."""
    lines = [f"| {' | '.join(rows[0])} |", "|---" * len(rows[0]) + "|"]
    lines += [f"| {' | '.join(_cell(value) for value in row.values())} |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return " ± ".join(_cell(part) for part in value)
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw every figure over the experiments in their order: runs as points, means with their intervals as lines."""
    from matplotlib.figure import Figure

    means = summary(rows)
    experiments = [row["experiment"] for row in means]
    columns = [column for column in rows[0] if column not in NAMES]
    figure = Figure(figsize=(3.2 * len(columns), 3.0), layout="constrained")
    for axes, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        points = [(experiments.index(row["experiment"]), row[column]) for row in rows if row[column] is not None]
        axes.plot([x for x, _ in points], [y for _, y in points], "o", color="tab:gray", markersize=3)
        known = [(number, row[column]) for number, row in enumerate(means) if row[column] is not None]
        middles, halves = zip(*(cell if isinstance(cell, tuple) else (cell, 0.0) for _, cell in known), strict=True)
        axes.errorbar([number for number, _ in known], middles, yerr=halves, capsize=3, color="tab:blue")
        axes.set_xticks(range(len(experiments)), experiments)
        axes.set_title(column, fontsize=9)
    figure.savefig(path, dpi=120)
