"""Settings of the report stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class ReportConfig:
    """Section report of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness."""
