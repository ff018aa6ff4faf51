"""Settings of language models that several rooms train: shape and optimizer; light, for their config.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from components.shared.identity import FREE


@dataclass(kw_only=True)
class LmShapeConfig:
    """A Llama; not used when training starts from a base model."""

    hidden_size: int
    """Width of the residual stream."""
    feed_forward_size: int
    """Width of the gated feed-forward layer."""
    num_layers: int
    """Transformer blocks."""
    num_heads: int
    """Attention heads; divides hidden_size."""
    num_key_value_heads: int
    """Heads of keys and values; divides num_heads."""
    rope_theta: float
    """Base of the rotary positions."""
    init_std: float
    """Standard deviation of the random weights."""
    tied: bool
    """One matrix for embedding and head."""
    pad_vocabulary_to: int
    """The embedding is padded to a multiple of this many rows."""


class OptimizerKind(Enum):
    """What turns gradients into steps."""

    adamw = "adamw"
    """As published."""
    muon = "muon"
    """Muon for the matrices between embedding and head, AdamW for the rest (muon.py)."""


@dataclass(kw_only=True)
class OptimizerConfig:
    """The optimizer and its linear schedule."""

    kind: OptimizerKind
    """adamw (paper) or muon, which learns faster at small scale."""
    peak_lr: float
    """Learning rate after the warm-up (paper: 6e-5 in pre-training, 5e-5 in fine-tuning)."""
    final_lr: float
    """Learning rate of the last step (paper: 6e-6 in pre-training, 5e-6 in fine-tuning)."""
    warmup_steps: int
    """Steps of linear warm-up (not stated in the paper)."""
    weight_decay: float
    """Decoupled decay of matrices; vectors are not decayed."""
    beta1: float
    """AdamW's decay of the mean of the gradient."""
    beta2: float
    """AdamW's decay of the mean of its square."""


class Kept(Enum):
    """What of a layer's forward pass is held for the backward pass; the rest is computed again."""

    everything = "everything"
    """Nothing is computed again."""
    products = "products"
    """Results of matrix products and of attention: half of the memory for a tenth of the time (docs/results.md)."""
    inputs = "inputs"
    """A layer's input alone: a seventh of the memory for a fifth of the time."""


@dataclass(kw_only=True)
class ComputeConfig:
    """How a step is computed; what it computes is the same with every choice, but for rounding."""

    compile: bool = field(metadata=FREE)
    """torch.compile of the decoder layers."""
    kept: Kept = field(metadata=FREE)
    """What of a layer is held for the backward pass: everything, products or inputs."""
