"""Settings of language models that several rooms train: shape and optimizer; light, for their config.py."""

from __future__ import annotations

from dataclasses import dataclass


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


@dataclass(kw_only=True)
class OptimizerConfig:
    """AdamW with a linear schedule."""

    peak_lr: float
    """Learning rate after the warm-up (paper: 6e-5 in pre-training, 5e-5 in fine-tuning)."""
    final_lr: float
    """Learning rate of the last step (paper: 6e-6 in pre-training, 5e-6 in fine-tuning)."""
    warmup_steps: int
    """Steps of linear warm-up (not stated in the paper)."""
    weight_decay: float
    """AdamW's decay of matrices; vectors are not decayed."""
    beta1: float
    """Decay of the mean of the gradient."""
    beta2: float
    """Decay of the mean of its square."""
