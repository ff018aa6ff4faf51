"""Limits of the data-quality gates: one list of rules a stage, applied by components/shared/checks.py."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """What a rule looks at in data/<stage>/stats.parquet."""

    row = "row"
    """A sample of the stage's rows."""
    shard = "shard"
    """Sums and shares, one record a shard."""


@dataclass(kw_only=True)
class Rule:
    """One rule: the values of a column stay inside [min, max] for at least `mostly` of the records."""

    column: str
    """Name of the column in stats.parquet."""
    level: Level
    min: float | None
    """Smallest allowed value, in the column's unit; null: no bound."""
    max: float | None
    """Largest allowed value, in the column's unit; null: no bound."""
    mostly: float
    """Share of the records that must satisfy the rule, 0..1."""


@dataclass(kw_only=True)
class ChecksConfig:
    """One list of rules for every stage that writes a table or a model."""

    collect: list[Rule]
    speech_tokenizer: list[Rule]
    tokenize: list[Rule]
    text_to_token: list[Rule]
    synthesize: list[Rule]
    mix: list[Rule]
    pretrain: list[Rule]
    dialogues: list[Rule]
    sft: list[Rule]
    speech_decoder: list[Rule]
