"""Curves of the stages that learn, paired for the page: a training curve and its validation share one chart."""

from __future__ import annotations

from pathlib import Path

from components.report.charts import Series, line_chart
from components.shared.manifest import read_json

TRAINED = ("speech_tokenizer", "text_to_token", "pretrain", "sft", "speech_decoder")
VALIDATION = "validation"
MAX_CHARTS = 4


def read_curves(path: Path) -> Series:
    """Name -> [(step, value), ...] of a curves.json; nothing when the stage kept none."""
    if not path.is_file():
        return {}
    return {name: [(float(x), float(y)) for x, y in points] for name, points in read_json(path).items() if points}


def charts_of(curves: Series) -> list[str]:
    """At most MAX_CHARTS charts of one stage as SVG, losses first; learning rates and speeds are left to MLflow."""
    groups: dict[str, Series] = {}
    for name in sorted(curves):
        groups.setdefault(_quantity(name), {})[_short(name)] = curves[name]
    wanted = [name for name in groups if not any(part in name for part in ("lr", "learning_rate", "per_s", "seconds"))]
    ordered = sorted(wanted, key=lambda name: ("loss" not in name, len(name), name))
    return [chart for name in ordered[:MAX_CHARTS] if (chart := line_chart(groups[name], name.replace("_", " ")))]


def _quantity(name: str) -> str:
    """What a curve measures, whichever data it was measured on: validation_loss and loss belong together."""
    words = [word for word in name.replace("/", "_").split("_") if word not in (VALIDATION, "train")]
    return "_".join(words) or name


def _short(name: str) -> str:
    return VALIDATION if VALIDATION in name else "training"
