"""What collect left out and why: rows by reason, and the stock phrases that the rule of shared n-grams passes over."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Ledger:
    """Filled while a run reads, writes and speaks; becomes metrics and part of the tables' manifests."""

    drops: Counter[str] = field(default_factory=Counter)
    """Reason -> rows left out."""
    stock: dict[str, set[str]] = field(default_factory=dict)
    """Language -> n-grams so common that training and test may share them."""

    def drop(self, reason: str, count: int = 1) -> None:
        """Count rows that are left out for a reason; a reason with no row is not listed."""
        if count:
            self.drops[reason] += count

    def set_aside(self, language: str, phrases: set[tuple[str, ...]]) -> None:
        """Note stock phrases."""
        separator = "" if language == "zh" else " "
        self.stock.setdefault(language, set()).update(separator.join(phrase) for phrase in phrases)
