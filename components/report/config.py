"""Settings of the report stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class ReportConfig:
    """Section report of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness; the page has none."""
    scale: str
    """Name of the scale, shown at the head of the page."""
    max_sounds_mb: float
    """Largest sum of the sounds in the page, in megabytes before base64; samples beyond it are left out and counted."""
    max_samples: int
    """Samples shown of each model."""
