"""Token embeddings -> one hidden vector a token: transformer blocks with relative positions and block attention.

Parameter names are those of the published decoder (`encoder.*` of flow.pt), so that its weights load as they are.
Source: Conformer-style encoder of CosyVoice without convolution and macaron parts; relative positions after
Transformer-XL as espnet writes them; block attention of GLM-4-Voice: a token sees its own block and all before it.

Shapes: B batch, T tokens, D hidden size, H heads, K head size (D = H * K).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.speech_decoder.causal import Past, seen_blocks
from components.speech_decoder.config import EncoderConfig


class Encoder(nn.Module):
    """A stack of attention blocks, normalised before each part and once at the end."""

    def __init__(self, config: EncoderConfig, input_size: int, causal_blocks: int = 0) -> None:
        """causal_blocks: see ShapeConfig; 0: a token sees all earlier blocks."""
        super().__init__()
        self.block_size, self.causal_blocks = config.block_size, causal_blocks
        self.embed = _Projection(input_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.encoders = nn.ModuleList(_Block(config) for _ in range(config.num_blocks))
        self.after_norm = nn.LayerNorm(config.hidden_size)

    def forward(self, embedded: Tensor, valid: Tensor, *, first: int = 0, past: Past | None = None) -> Tensor:
        """embedded: (B, T, input), float32; valid: (B, T), bool -> (B, T, D), float32; padded rows hold nothing.

        past: of the causal variant, what came before these tokens, all of one block; the first is token `first`.
        """
        num_tokens = embedded.shape[1]
        hidden = self.embed(embedded)
        hidden = self.dropout(hidden * math.sqrt(hidden.shape[-1]))
        num_before = 0 if past is None else min(first, (self.causal_blocks - 1) * self.block_size)
        offsets = self.dropout(relative_positions(num_before + num_tokens, hidden.shape[-1]).to(hidden))
        if past is None:
            seen = block_mask(num_tokens, self.block_size, hidden.device, self.causal_blocks) & valid[:, None, :]
        else:
            seen = torch.ones(1, num_tokens, num_before + num_tokens, dtype=torch.bool, device=hidden.device)
        for block in self.encoders:
            hidden = block(hidden, offsets, seen, past)
        return self.after_norm(hidden)


class _Projection(nn.Module):
    """The input layer `embed.out`: linear, then normalised."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(input_size, hidden_size), nn.LayerNorm(hidden_size))

    def forward(self, embedded: Tensor) -> Tensor:
        return self.out(embedded)


class _Block(nn.Module):
    """Attention and feed-forward, each on the normalised input and added to it."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.self_attn = RelativeAttention(config.hidden_size, config.num_heads, config.attention_dropout)
        self.feed_forward = _FeedForward(config.hidden_size, config.feed_forward_size, config.dropout)
        self.norm_mha = nn.LayerNorm(config.hidden_size)
        self.norm_ff = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, offsets: Tensor, seen: Tensor, past: Past | None) -> Tensor:
        hidden = hidden + self.dropout(self.self_attn(self.norm_mha(hidden), offsets, seen, past))
        return hidden + self.dropout(self.feed_forward(self.norm_ff(hidden)))


class _FeedForward(nn.Module):
    def __init__(self, hidden_size: int, inner_size: int, dropout: float) -> None:
        super().__init__()
        self.w_1 = nn.Linear(hidden_size, inner_size)
        self.w_2 = nn.Linear(inner_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.w_2(self.dropout(F.silu(self.w_1(hidden))))


class RelativeAttention(nn.Module):
    """Attention whose scores are content (q + u) k plus distance (q + v) p (Dai et al. 2019, section 3.3)."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.linear_q = nn.Linear(hidden_size, hidden_size)
        self.linear_k = nn.Linear(hidden_size, hidden_size)
        self.linear_v = nn.Linear(hidden_size, hidden_size)
        self.linear_out = nn.Linear(hidden_size, hidden_size)
        self.linear_pos = nn.Linear(hidden_size, hidden_size, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(num_heads, hidden_size // num_heads))
        self.pos_bias_v = nn.Parameter(torch.empty(num_heads, hidden_size // num_heads))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def forward(self, hidden: Tensor, offsets: Tensor, seen: Tensor, past: Past | None = None) -> Tensor:
        """hidden: (B, T, D); offsets: (2S-1, D), see relative_positions; seen: (B, T, S), bool -> (B, T, D).

        S = T, or more where the past adds keys.
        """
        query, key, value = (
            layer(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, T, K)
            for layer in (self.linear_q, self.linear_k, self.linear_v)
        )
        if past is not None:
            key, value = past.attend(self, key, value)
        num_queries, num_keys = query.shape[2], key.shape[2]
        position = self.linear_pos(offsets).unflatten(-1, (self.num_heads, -1)).transpose(0, 1)  # (H, 2S-1, K)
        distance = (query + self.pos_bias_v[:, None]) @ position.transpose(1, 2)  # (B, H, T, 2S-1)
        steps = torch.arange(num_keys, device=hidden.device)
        column = (num_keys - 1) - (steps[num_keys - num_queries :, None] - steps)  # offset i - j stands in this column
        bias = distance.gather(-1, column.expand(*distance.shape[:2], -1, -1)) / math.sqrt(query.shape[-1])
        bias = bias.masked_fill(~seen[:, None], float("-inf"))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            query + self.pos_bias_u[:, None], key, value, attn_mask=bias.to(query.dtype), dropout_p=dropout
        )
        return self.linear_out(mixed.transpose(1, 2).flatten(2))


def relative_positions(num_tokens: int, size: int) -> Tensor:
    """Sinusoids of the offsets T-1, ..., 0, ..., -(T-1): (2T-1, size), float32, sine and cosine interleaved."""
    offsets = torch.arange(num_tokens - 1, -num_tokens, -1, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, size, 2, dtype=torch.float32) * -(math.log(10_000.0) / size))
    return torch.stack([torch.sin(offsets * rates), torch.cos(offsets * rates)], dim=-1).flatten(1)


def block_mask(num_tokens: int, block_size: int, device: torch.device, num_blocks: int = 0) -> Tensor:
    """(T, T), bool: query i sees key j when j's block is i's own or an earlier one; block_size 0: everything.

    num_blocks: with so many blocks at most, its own counted; 0: all earlier ones.
    """
    if block_size == 0:
        return torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=device)
    block = torch.arange(num_tokens, device=device) // block_size
    return seen_blocks(block, num_blocks or num_tokens)
