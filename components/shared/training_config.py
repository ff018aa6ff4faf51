"""Settings of one training run; apart from training.py so that a room's config.py stays light."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from components.shared.identity import FREE


class StrategyKind(Enum):
    """How the ranks of a training share the model."""

    auto = "auto"
    """One process, one device."""
    ddp = "ddp"
    """Every rank holds the whole model."""
    fsdp2 = "fsdp2"
    """Weights, gradients and the optimizer's state are sharded over the ranks."""


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
    strategy: StrategyKind = field(metadata=FREE)
    """auto (one device), ddp or fsdp2; a process alone is one device whatever this says."""
    log_every_steps: int = field(metadata=FREE)
    """Steps between two points of a curve."""
    validate_every_steps: int = field(metadata=FREE)
    """Steps between two validations."""
    checkpoint_every_steps: int = field(metadata=FREE)
    """Steps between two checkpoints to resume from."""
    keep_last: int = field(metadata=FREE)
    """Latest checkpoints that stay, at least 1; one more has room on disk while it is written."""
    keep_every_steps: int = field(metadata=FREE)
    """Checkpoints of the multiples of so many steps stay as well; 0: no others."""
    resume_from: str = field(metadata=FREE)
    """Folder of a checkpoint to go on from when the run has none of its own, as after a change of code; or empty."""
