"""Settings of the sft stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class SftConfig:
    """Section sft of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness."""
