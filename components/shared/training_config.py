"""Settings of one training run; apart from training.py so that a room's config.py stays light."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class TrainerConfig:
    """The budget and the machinery of one training run."""

    num_steps: int
    """Optimizer steps."""
    precision: str
    """Lightning precision: bf16-mixed, bf16-true or 32-true."""
    gradient_clip: float
    """Largest gradient norm; 0 leaves gradients alone."""
    accumulate_batches: int
    """Batches a step."""
    log_every_steps: int
    """Steps between two points of a curve."""
    validate_every_steps: int
    """Steps between two validations."""
    checkpoint_every_steps: int
    """Steps between two checkpoints to resume from."""
