"""Settings of the synthesize stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class SynthesizeConfig:
    """Section synthesize of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness."""
