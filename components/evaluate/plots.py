"""A picture of a model's figures with their intervals, for the tracker."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BESIDE = ("chance", "reference")
OF_FIVE = re.compile("_(mos|dnsmos|visqol)_")
"""Names of figures on a scale of 1 to 5, which want an axis of their own."""


def interval_figure(metrics: dict[str, float], title: str) -> Figure:
    """One row a figure that has an interval: a dot, the interval, a tick at its chance or reference."""
    from matplotlib.figure import Figure

    names = sorted(name for name in metrics if f"{name}_low" in metrics and f"{name}_items" in metrics)
    graded = [name for name in names if OF_FIVE.search(name)]
    parts = [part for part in ([name for name in names if name not in graded], graded) if part] or [[]]
    figure = Figure(figsize=(8, 1.0 + 0.32 * len(names)), layout="constrained")
    for axes, part in zip(
        figure.subplots(len(parts), squeeze=False, height_ratios=[len(part) or 1 for part in parts])[:, 0],
        parts,
        strict=True,
    ):
        _draw(axes, metrics, part)
    figure.suptitle(f"{title}: figures, 95% intervals, and what they are measured against", fontsize=9)
    return figure


def _draw(axes: Any, metrics: dict[str, float], names: Sequence[str]) -> None:
    """The rows of one axis."""
    for row, name in enumerate(reversed(names)):
        value, low, high = metrics[name], metrics[f"{name}_low"], metrics[f"{name}_high"]
        axes.plot([low, high], [row, row], color="#0b6e69", linewidth=2.5, solid_capstyle="round")
        axes.plot([value], [row], "o", color="#0b6e69")
        for beside in BESIDE:
            if f"{name}_{beside}" in metrics:
                axes.plot(
                    [metrics[f"{name}_{beside}"]], [row], "|", color="#c2571a", markersize=14, markeredgewidth=2.5
                )
    axes.set_yticks(range(len(names)), list(reversed(names)), fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
