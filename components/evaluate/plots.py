"""A picture of a model's figures with their intervals, for the tracker."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BESIDE = ("chance", "reference")


def interval_figure(metrics: dict[str, float], title: str) -> Figure:
    """One row a figure that has an interval: a dot, the interval, a tick at its chance or reference."""
    from matplotlib.figure import Figure

    names = sorted(name for name in metrics if f"{name}_low" in metrics and f"{name}_items" in metrics)
    figure = Figure(figsize=(8, 1.0 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
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
    axes.set_title(f"{title}: figures, 95% intervals, and what they are measured against", fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure
