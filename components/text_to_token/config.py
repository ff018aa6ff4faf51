"""Settings of the text_to_token stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class TextToTokenConfig:
    """Section text_to_token of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness."""
