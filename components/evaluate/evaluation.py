"""What the evaluation of one model gives back to the stage, and the errors of what was heard as item scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from components.shared.contracts import ItemScore
from components.shared.recognizer import count_errors, error_measure


@dataclass(kw_only=True)
class Evaluation:
    """Scores of items, and what else is worth keeping of one model."""

    scores: list[ItemScore]
    metrics: dict[str, float] = field(default_factory=dict)
    """Beside the figures that are made of the scores."""
    files: dict[str, Any] = field(default_factory=dict)
    """Name -> JSON that is kept beside the scores."""


class Said(Protocol):
    """An item with a name and a language: a row of speech tokens, a span."""

    @property
    def id(self) -> str:
        """Name of the item."""

    @property
    def language(self) -> str:
        """ISO 639-1."""


def error_score(
    item: Said, *, task: str, groups: list[str], reference: str, answer: str, beside: str | None
) -> ItemScore | None:
    """Errors of an answer in words (characters for Mandarin), with those of the baseline's answer at the same item.

    reference: what was really said; beside None: there is no baseline. None when nothing of the reference is left after
    normalisation.
    """
    errors = count_errors(reference, answer, item.language)
    if errors.length == 0:
        return None
    return ItemScore(
        id=item.id,
        task=task,
        mode=error_measure(item.language),
        groups=groups,
        language=item.language,
        cluster=item.id,
        score=float(errors.errors),
        baseline=None if beside is None else float(count_errors(reference, beside, item.language).errors),
        weight=float(errors.length),
        reference=reference,
        answer=answer,
    )


def kept(scores: Sequence[ItemScore | None]) -> list[ItemScore]:
    """Without the items that had nothing to compare."""
    return [score for score in scores if score is not None]


def by_language(rows: Sequence[Said]) -> dict[str, list[int]]:
    """Language -> places of its rows, languages in sorted order."""
    places: dict[str, list[int]] = {language: [] for language in sorted({row.language for row in rows})}
    for place, row in enumerate(rows):
        places[row.language].append(place)
    return places
