"""Settings of the tokenize stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class TokenizeConfig:
    """Section tokenize of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness."""
