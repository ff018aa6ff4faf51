"""Rates that a plan is computed from, each beside its source, and how a plan prints numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

RATES = Path("docs/rates.yaml")
MAY_BE_ZERO = (
    "said_again_share",
    "text_compression",
    "interleaved_bytes_per_token",
    "packed_bytes_per_token",
    "padding_share",
    "margin_share",
)


class Rates:
    """The rates file: every value beside its source."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError when the file is missing, is no YAML or holds a value without its source."""
        if not path.is_file():
            raise ValueError(f"{path}: no such file; wanted rates such as docs/rates.yaml")
        try:
            self.values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
        self.path = path

    def of(self, *keys: str) -> float:
        """A number above 0, or 0 where nothing is divided by it.

        Raises ValueError when it is not there or has no source.
        """
        found: Any = self.values
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        name = ".".join(keys)
        if not isinstance(found, dict) or not found.get("source"):
            raise ValueError(f"{self.path}: {name}: got {found!r}, wanted {{value: ..., source: ...}}")
        value = found.get("value")
        least = "of 0 or more" if keys[-1] in MAY_BE_ZERO else "above 0"
        if not isinstance(value, (int, float)) or value < 0 or (value == 0 and keys[-1] not in MAY_BE_ZERO):
            raise ValueError(f"{self.path}: {name}: got {value!r}, wanted a number {least}")
        return float(value)


def count(value: float) -> str:
    """A number with three digits or so: 31.5B, 600.0B, 1.0T."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:,.1f}{name}"
    return f"{value:,.0f}"


def size(value: float) -> str:
    """Bytes: 2.4 TB; nothing for 0."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if value >= unit:
            return f"{value / unit:,.1f} {name}"
    return "" if value == 0 else f"{value / 1e3:,.1f} kB"


def hours(value: float) -> str:
    """Hours: 4,641; nothing for 0."""
    return "" if value == 0 else f"{value:,.0f}" if value >= 10 else f"{value:,.2g}"
