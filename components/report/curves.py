"""Curves of the stages that learn, paired for the page: a training curve and its validation share one chart."""

from __future__ import annotations

from pathlib import Path

from components.report.charts import Series, line_chart
from components.shared.manifest import read_json

TRAINED = ("speech_tokenizer", "text_to_token", "pretrain", "sft", "speech_decoder")
VALIDATION, TRAINING = "validation", "training"
WANTED = ("loss", "wer", "codes_used", "accuracy", "distance", "perplexity")
"""Words in the names of the quantities that are shown, the most telling ones first; the rest is left to MLflow."""
MAX_CHARTS = 4


def read_curves(path: Path) -> Series:
    """Name -> [(step, value), ...] of a curves.json; nothing when the stage kept none."""
    if not path.is_file():
        return {}
    return {name: [(float(x), float(y)) for x, y in points] for name, points in read_json(path).items() if points}


def charts_of(curves: Series) -> list[str]:
    """At most MAX_CHARTS charts of one stage as SVG, those of WANTED in its order."""
    groups: dict[str, Series] = {}
    for name in sorted(curves):
        title, label = _place(name)
        groups.setdefault(title, {})[label] = curves[name]
    ranks = {title: next((i for i, word in enumerate(WANTED) if word in title), None) for title in groups}
    ordered = sorted((title for title in groups if ranks[title] is not None), key=lambda t: (ranks[t], len(t), t))
    return [chart for title in ordered[:MAX_CHARTS] if (chart := line_chart(groups[title], title))]


def _place(name: str) -> tuple[str, str]:
    """(title of the chart, label of the curve): both data of one quantity together, all sources of a loss together."""
    words = [word for word in name.replace("/", "_").split("_") if word not in (VALIDATION, "train")]
    data = VALIDATION if VALIDATION in name else TRAINING
    if words[-1] == "source" and len(words) > 2:
        return f"{words[0]} by source, {data}", " ".join(words[1:-1])
    if words[0] == "wer" and len(words) > 1:
        return f"wer, {data}", " ".join(words[1:])
    return " ".join(words) or name, data
