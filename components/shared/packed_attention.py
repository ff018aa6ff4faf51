"""Attention of packed batches, in which every piece is blind to the others; the kernel is chosen by device and length.

- Short sequences on a CPU: explicit products under a mask. The fused kernel's backward pass is slow in bfloat16: at 24
  sequences of 256 tokens and 4 heads of 64 explicit products took 0.20 s where it took 0.28 s, forward and backward, on
  one core of a Zen 5; with 2 heads of 128 0.08 s.
- Long sequences on a CPU, and float32 on a GPU: the fused kernel, piece by piece; nothing of (T x T) is ever held.
  8192 tokens in 12 pieces, 4 heads of 64, two busy cores: 0.15 s, under one mask 1.8 s; 4 x 1024 tokens in 8 pieces
  each: 0.075 s, by explicit products 0.10 s.
- A GPU: PyTorch's variable-length kernel (torch 2.11 and later), before it FlexAttention with a mask of blocks.

Shapes: B sequences, T tokens, H heads, K key-value heads, D a head's width, P pieces, N = B x T.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from components.shared.packing import attention_mask

NAME = "packed"
LONGEST_EXPLICIT = 512
"""Tokens of a sequence up to which the scores of a CPU batch are held in full."""


def arguments(model: Any, segments: torch.Tensor) -> dict[str, Any]:
    """What the decoder is called with so that every piece is blind to the others.

    segments: (B, T), 0 for padding. A model outside `packed` gets a mask (B, 1, T, T), bool, which all of them take.
    """
    short = segments.device.type == "cpu" and segments.shape[1] <= LONGEST_EXPLICIT
    if model.config._attn_implementation != NAME or short:
        return {"attention_mask": attention_mask(segments)}
    if segments.device.type == "cuda" and not _varlen_settings():
        return {"attention_mask": None, "blocks": _block_mask(segments)}
    return {"attention_mask": None, "borders": borders(segments)}


def borders(segments: torch.Tensor) -> torch.Tensor:
    """Where pieces begin in the flattened batch, and its end: (P + 1,), int32; padding is a piece of its own."""
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    starts = begins.flatten().nonzero()[:, 0]
    found = torch.cat([starts, starts.new_tensor([segments.numel()])]).int()
    torch._dynamo.maybe_mark_dynamic(found, 0)  # one compilation for any number of pieces
    return found


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    borders: torch.Tensor | None = None,
    blocks: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """query (B, H, T, D), key and value (B, K, T, D) -> (B, T, H, D).

    One of attention_mask (B, 1, T, T) bool, borders (P + 1,) int32 and blocks (a BlockMask) says who sees whom. Raises
    ValueError with dropout, which no kernel here has.
    """
    if dropout:
        raise ValueError(f"attention_dropout: got {dropout}, wanted 0 for training on packed sequences")
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotary positions leave float32 behind under autocast
    if borders is not None:
        q, k, v = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))
        return _by_borders(q, k, v, borders, query.shape[2], scaling).unflatten(0, (query.shape[0], -1)), None
    if blocks is not None:
        out = _flex()(query, key, value, block_mask=blocks, scale=scaling, enable_gqa=True)
    elif query.device.type == "cpu" and query.shape[2] <= LONGEST_EXPLICIT:
        assert attention_mask is not None
        key, value = _for_every_head(query, key, 1), _for_every_head(query, value, 1)
        scores = torch.matmul(query * scaling, key.transpose(-1, -2))
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        out = torch.matmul(scores.softmax(-1).to(value.dtype), value)
    else:
        out = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2).contiguous(), None


def _by_borders(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, borders: torch.Tensor, longest: int, scaling: float
) -> torch.Tensor:
    """query (N, H, D), key and value (N, K, D) -> (N, H, D); longest: no piece has more tokens."""
    settings = _varlen_settings()
    if query.device.type != "cuda" or query.dtype == torch.float32 or not settings:
        return by_piece(query, key, value, borders, scaling)
    from torch.nn.attention.varlen import varlen_attn

    if "enable_gqa" not in settings:
        key, value = _for_every_head(query, key, 1), _for_every_head(query, value, 1)
    out = varlen_attn(
        query, key, value, borders, borders, longest, longest, scale=scaling, window_size=(-1, 0), **settings
    )
    assert isinstance(out, torch.Tensor)
    return out


@torch.compiler.disable
def by_piece(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, borders: torch.Tensor, scaling: float
) -> torch.Tensor:
    """What the variable-length kernel computes, by the fused kernel for plain batches, one piece after the other.

    query (N, H, D), key and value (N, K, D), borders (P + 1,) -> (N, H, D).
    """
    lengths = borders.diff().tolist()
    states = (query, _for_every_head(query, key, 1), _for_every_head(query, value, 1))
    queries, keys, values = (part.transpose(0, 1)[None].split(lengths, dim=2) for part in states)
    pieces = zip(queries, keys, values, strict=True)
    out = [scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling) for q, k, v in pieces]
    return torch.cat(out, dim=2)[0].transpose(0, 1)


def _for_every_head(query: torch.Tensor, states: torch.Tensor, axis: int) -> torch.Tensor:
    """Keys or values repeated for the heads that share them; the axis holds the heads."""
    groups = query.shape[axis] // states.shape[axis]
    return states.repeat_interleave(groups, dim=axis) if groups > 1 else states


@cache
def _varlen_settings() -> dict[str, Any]:
    """What the variable-length kernel is told besides scale and window; empty where this torch has no such kernel.

    Torch 2.10 has it with a fixed scale and another flag for causality; shared key-value heads came in 2.12.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return {}
    known = inspect.signature(varlen_attn).parameters
    if not {"scale", "window_size"} <= set(known):
        return {}
    return {"return_aux": None} | ({"enable_gqa": True} if "enable_gqa" in known else {})


@cache
def _flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def _block_mask(segments: torch.Tensor) -> Any:
    """The mask of packing.attention_mask as blocks of 128 x 128 tokens; those that nobody sees are not computed."""
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(batch: torch.Tensor, _: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (segments[batch, query] == segments[batch, key]) & (query >= key)

    batch, length = segments.shape
    return create_block_mask(sees, batch, None, length, length, device=segments.device)


AttentionInterface.register(NAME, packed_attention)


@contextmanager
def packed(model: Any) -> Iterator[None]:
    """The model attends as a packed batch needs it inside the block, as it did before after it."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
