"""Settings of the collect stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class CollectConfig:
    """Section collect of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness."""
