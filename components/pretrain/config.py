"""Settings of the pretrain stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class PretrainConfig:
    """Section pretrain of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness."""
