"""Settings of the dialogues stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class DialoguesConfig:
    """Section dialogues of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness."""
