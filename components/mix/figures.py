"""The picture of the mixture: planned and achieved shares of every source."""

from __future__ import annotations

from matplotlib.figure import Figure

from components.mix.plan import Budget


def shares_figure(budgets: list[Budget], achieved: dict[str, int]) -> Figure:
    """Two bars a source: its share of the tokens as planned and in the finished schedule."""
    planned_total = max(1, sum(budget.planned for budget in budgets))
    achieved_total = max(1, sum(achieved.values()))
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    places = range(len(budgets))
    axes.barh([p + 0.2 for p in places], [b.planned / planned_total for b in budgets], 0.38, label="planned")
    axes.barh([p - 0.2 for p in places], [achieved[b.source] / achieved_total for b in budgets], 0.38, label="achieved")
    axes.set_yticks(list(places), [f"{b.source} ({b.epochs:.1f} epochs)" for b in budgets])
    axes.set_xlabel("share of the tokens")
    axes.invert_yaxis()
    axes.legend()
    return figure
