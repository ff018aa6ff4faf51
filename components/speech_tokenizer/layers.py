"""Layers of Whisper's encoder and decoder: convolutions, attention with boolean masks, blocks with a key-value cache.

Shapes: B clips, T query positions, S key positions, D width. Masks are bool, True where a query may look.
Source  Radford et al. 2022 (Whisper); causal convolution and block-causal attention of the GLM-4-Voice tokenizer
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.shared.packed_linear import linear_gelu


class Convolution(nn.Conv1d):
    """One of the encoder's two convolutions of kernel 3, padded on both sides or, when causal, on the left only.

    The causal output is the other one delayed: 10 ms by the first and 10 ms by the second, so that pre-trained weights
    keep their meaning (together one hidden frame).
    """

    def __init__(self, channels: int, width: int, stride: int, causal: bool) -> None:
        super().__init__(channels, width, kernel_size=3, stride=stride, padding=0 if causal else 1)
        self.causal = causal

    def forward(self, frames: Tensor) -> Tensor:
        """frames: (B, channels, frames) -> (B, width, ceil(frames / stride))."""
        if self.causal:
            frames = functional.pad(frames, (2, 0))
        return super().forward(frames)


class Attention(nn.Module):
    """Multi-head attention; the key projection has no bias, as in Whisper."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """queries: (B, T, D); keys, values: (B, heads, S, D / heads); mask: broadcasts to (B, heads, T, S)."""
        heads = self._split(self.q_proj(queries))
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(heads, keys, values, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def project(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of states (B, S, D), each (B, heads, S, D / heads)."""
        return self._split(self.k_proj(states)), self._split(self.v_proj(states))

    def _split(self, states: Tensor) -> Tensor:
        return states.unflatten(2, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Base of both blocks: the pre-normalised two-layer perceptron at their end."""

    def __init__(self, width: int, inner: int, dropout: float, activation_dropout: float) -> None:
        super().__init__()
        self.dropout, self.activation_dropout = dropout, activation_dropout
        self.final_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def feed_forward(self, states: Tensor) -> Tensor:
        """states: (B, T, D) -> (B, T, D), the residual included."""
        inner = linear_gelu(self.fc1, self.final_layer_norm(states))
        inner = functional.dropout(inner, self.activation_dropout, self.training)
        return states + self.drop(self.fc2(inner))

    def drop(self, states: Tensor) -> Tensor:
        """Dropout before a residual sum."""
        return functional.dropout(states, self.dropout, self.training)


class EncoderBlock(FeedForward):
    """Self-attention and perceptron of the encoder."""

    def __init__(
        self, width: int, heads: int, inner: int, dropout: float, attention_dropout: float, activation_dropout: float
    ) -> None:
        super().__init__(width, inner, dropout, activation_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.self_attn = Attention(width, heads, attention_dropout)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """states: (B, T, D), mask: (B, 1, T, T) bool -> (B, T, D)."""
        normed = self.self_attn_layer_norm(states)
        states = states + self.drop(self.self_attn(normed, *self.self_attn.project(normed), mask))
        return self.feed_forward(states)


class Cache:
    """Keys and values of one decoder block: of the text so far, and of the encoder's states."""

    def __init__(self, cross: tuple[Tensor, Tensor]) -> None:
        self.cross = cross
        self.own: tuple[Tensor, Tensor] | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add new positions; returns all of them."""
        if self.own is not None:
            keys, values = torch.cat([self.own[0], keys], 2), torch.cat([self.own[1], values], 2)
        self.own = (keys, values)
        return self.own

    def keep(self, rows: Tensor) -> None:
        """Keep the given rows of the batch, in this order."""
        self.cross = (self.cross[0][rows], self.cross[1][rows])
        if self.own is not None:
            self.own = (self.own[0][rows], self.own[1][rows])


class DecoderBlock(EncoderBlock):
    """Causal self-attention, attention to the encoder's states, perceptron."""

    def __init__(
        self, width: int, heads: int, inner: int, dropout: float, attention_dropout: float, activation_dropout: float
    ) -> None:
        super().__init__(width, heads, inner, dropout, attention_dropout, activation_dropout)
        self.encoder_attn_layer_norm = nn.LayerNorm(width)
        self.encoder_attn = Attention(width, heads, attention_dropout)

    def decode(self, states: Tensor, cache: Cache, causal: Tensor, encoder_valid: Tensor) -> Tensor:
        """states: (B, T, D) of new text positions; causal: (T, S) bool; encoder_valid: (B, 1, 1, K) bool."""
        normed = self.self_attn_layer_norm(states)
        keys, values = cache.append(*self.self_attn.project(normed))
        states = states + self.drop(self.self_attn(normed, keys, values, causal))
        normed = self.encoder_attn_layer_norm(states)
        states = states + self.drop(self.encoder_attn(normed, *cache.cross, encoder_valid))
        return self.feed_forward(states)


def attention_mask(valid: Tensor, block: int | None, causal: bool) -> Tensor:
    """Who sees whom: i sees j when j is valid and, with blocks, (j <= i or both in one block); when causal, j <= i.

    valid: (B, T) bool -> (B, 1, T, T) bool. The first position is always visible, so that no row is empty.
    """
    position = torch.arange(valid.shape[1], device=valid.device)
    keys = valid.clone()
    keys[:, 0] = True
    mask = keys[:, None, None, :]
    past = position[None, :] <= position[:, None]
    if causal:
        return mask & past
    if block is not None:
        place = position // block
        return mask & (past | (place[None, :] == place[:, None]))
    return mask.expand(-1, -1, len(position), -1)
