"""Attention of packed batches: explicit scores for short sequences on a CPU, PyTorch's own kernels elsewhere.

On a CPU the fused kernel's backward pass is slow in bfloat16: at 24 sequences of 256 tokens and 4 heads of 64 explicit
products took 0.20 s where it took 0.28 s, forward and backward, on one core of a Zen 5; with 2 heads of 128 0.08 s.
Shapes: B sequences, H heads, K key-value heads, T tokens, D a head's width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface

from components.shared.packing import attention_mask

NAME = "packed"
LONGEST_EXPLICIT = 1024
"""Tokens of a sequence up to which the scores of a CPU batch are held in full."""


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """query (B, H, T, D), key and value (B, K, T, D), attention_mask (B, 1, T, T) bool -> (B, T, H, D)."""
    if query.device.type == "cpu" and query.shape[2] <= LONGEST_EXPLICIT and not dropout:
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        scores = torch.matmul(query * scaling, key.transpose(-1, -2))
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        out = torch.matmul(scores.softmax(-1).to(value.dtype), value)
    else:
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling, enable_gqa=True
        )
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, packed_attention)


def arguments(model: Any, segments: torch.Tensor) -> dict[str, Any]:
    """What the decoder is called with so that every piece is blind to the others. segments: (B, T), 0 for padding."""
    return {"attention_mask": attention_mask(segments)}


@contextmanager
def packed(model: Any) -> Iterator[None]:
    """The model attends as a packed batch needs it inside the block, as it did before after it."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
