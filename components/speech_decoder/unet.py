"""The velocity network of the flow: a U-Net of 1-D ResNet blocks and transformer blocks over mel frames.

Parameter names are those of the published decoder (`decoder.estimator.*` of flow.pt). Source: the decoder of Matcha-TTS
(Mehta et al. 2024, section 2.3) as CosyVoice conditions it: noisy mel, content, speaker and prompt stacked as channels.

Shapes: B batch, C channels, F mel frames, E time embedding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.speech_decoder.causal import Conv, ConvTranspose, Frames, Norm, Past, seen_blocks
from components.speech_decoder.config import UNetConfig

_TIME_SCALE = 1000.0


class UNet(nn.Module):
    """(noisy mel, content, speaker, prompt, time) -> velocity of the mel."""

    def __init__(self, config: UNetConfig, num_bins: int, compatible: bool, causal_blocks: int = 0) -> None:
        """causal_blocks: see ShapeConfig; 0: the published network."""
        super().__init__()
        self.compatible, self.causal_blocks = compatible, causal_blocks
        causal = causal_blocks > 0
        in_channels = 4 * num_bins
        channels = list(config.channels)
        time_size = 4 * channels[0]
        self.time_mlp = _TimeMlp(in_channels, time_size)
        down, middle, up = [], [], []
        size = in_channels
        for index, out_size in enumerate(channels):
            last = index == len(channels) - 1
            resize = Conv(out_size, out_size, 3, causal=causal) if last else _Halve(out_size, causal)
            down.append(_Level(config, size, out_size, time_size, resize, causal))
            size = out_size
        for _ in range(config.num_mid_blocks):
            middle.append(_Level(config, size, size, time_size, None, causal))
        rising = [*channels[::-1], channels[0]]
        for index, out_size in enumerate(rising[1:]):
            last = index == len(channels) - 1
            enlarge = Conv(out_size, out_size, 3, causal=causal) if last else _Double(out_size, causal)
            up.append(_Level(config, 2 * rising[index], out_size, time_size, enlarge, causal))
        self.down_blocks = nn.ModuleList(down)
        self.mid_blocks = nn.ModuleList(middle)
        self.up_blocks = nn.ModuleList(up)
        self.final_block = _ConvBlock(rising[-1], rising[-1], causal)
        self.final_proj = nn.Conv1d(rising[-1], num_bins, 1)

    def forward(
        self,
        noisy: Tensor,
        valid: Tensor | None,
        content: Tensor,
        time: Tensor,
        speaker: Tensor,
        prompt: Tensor,
        *,
        blocks: Tensor | None = None,
        first: int = 0,
        past: Past | None = None,
    ) -> Tensor:
        """The velocity at `time`: (B, bins, F), float32, zero where a frame is not valid.

        noisy, content, prompt: (B, bins, F); valid: (B, 1, F), 1 or 0, or None when no frame is padding; time: (B,),
        0..1; speaker: (B, bins). For the causal variant: blocks: (F,), int64, the block of each frame; or past, what
        came before these frames, all of one block, the first of them being frame `first` of the sequence.
        """
        embedded = self.time_mlp(time_embedding(time, 4 * noisy.shape[1]))
        hidden = torch.cat([noisy, content, speaker[:, :, None].expand_as(noisy), prompt], dim=1)
        frames = Frames(first=first, length=noisy.shape[-1], valid=valid, blocks=blocks, past=past)
        finer: list[Frames] = [frames]  # the frames of each level on the way down
        skips: list[Tensor] = []
        for level in cast(Iterable[_Level], self.down_blocks):
            frames = finer[-1]
            hidden = level.refine(hidden, frames, embedded, self._bias(frames))
            skips.append(hidden)
            hidden = level.resize(_keep(hidden, frames.valid), frames, frames)
            if level.halves:
                finer.append(frames.halved())
        frames = finer[-1]
        for level in cast(Iterable[_Level], self.mid_blocks):
            hidden = level.refine(hidden, frames, embedded, self._bias(frames))
        for level in cast(Iterable[_Level], self.up_blocks):
            frames, skip = finer.pop(), skips.pop()
            hidden = torch.cat([hidden, skip], dim=1)
            hidden = level.refine(hidden, frames, embedded, self._bias(frames))
            hidden = level.resize(_keep(hidden, frames.valid), frames, finer[-1] if finer else frames)
        hidden = self.final_block(hidden, frames)
        return _keep(self.final_proj(_keep(hidden, valid)), valid)

    def _bias(self, frames: Frames) -> Tensor | None:
        """What is added to the attention scores (float) or says which frames are seen (bool).

        compatible: the published code adds the 0/1 mask to the scores, which masks nothing; its weights were
        trained with that. Otherwise padded frames are not attended to.
        """
        valid, blocks = frames.valid, frames.blocks
        if blocks is not None:
            seen = seen_blocks(blocks, self.causal_blocks)[None, None]
            if valid is None:
                return seen
            itself = torch.eye(len(blocks), dtype=torch.bool, device=seen.device)  # or a padded row would see nothing
            return seen & valid[:, None].bool() | itself
        if valid is None:
            return None
        return (valid.transpose(1, 2) @ valid)[:, None] if self.compatible else valid[:, None].bool()


def _keep(hidden: Tensor, valid: Tensor | None) -> Tensor:
    return hidden if valid is None else hidden * valid


class _Level(nn.ModuleList):
    """A ResNet block, transformer blocks and, but in the middle, the way to the next level: 0, 1 and 2 in key names."""

    def __init__(
        self,
        config: UNetConfig,
        in_size: int,
        out_size: int,
        time_size: int,
        resize: nn.Module | None,
        causal: bool,
    ) -> None:
        inner = config.num_heads * config.head_size
        blocks = nn.ModuleList(
            _TransformerBlock(out_size, config.num_heads, inner, config.dropout) for _ in range(config.num_blocks)
        )
        parts: list[nn.Module] = [_ResNetBlock(in_size, out_size, time_size, causal), blocks]
        super().__init__(parts if resize is None else [*parts, resize])
        self.halves = isinstance(resize, _Halve)

    def refine(self, hidden: Tensor, frames: Frames, time: Tensor, bias: Tensor | None) -> Tensor:
        """hidden: (B, C, F) -> (B, out, F)."""
        hidden = self[0](hidden, frames, time).transpose(1, 2)
        blocks = self[1]
        assert isinstance(blocks, nn.ModuleList)
        for block in blocks:
            hidden = block(hidden, bias, frames.past)
        return hidden.transpose(1, 2)

    def resize(self, hidden: Tensor, frames: Frames, finer: Frames) -> Tensor:
        """hidden: (B, C, F) -> the next level's length; on the way up that of the finer frames."""
        way = self[2]
        return way(hidden, frames, finer) if isinstance(way, _Double) else way(hidden, frames)


class Mish(nn.Module):
    """x tanh(softplus(x)); spelt out on a CPU, where torch's own kernel takes twice as long."""

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: any shape -> the same shape."""
        return F.mish(hidden) if hidden.is_cuda else hidden * torch.tanh(F.softplus(hidden))


class _TimeMlp(nn.Module):
    def __init__(self, in_size: int, out_size: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_size, out_size)
        self.linear_2 = nn.Linear(out_size, out_size)

    def forward(self, embedded: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(embedded)))


class _ConvBlock(nn.Module):
    """Convolution over frames, group norm over the whole sequence (causal: over each frame), Mish."""

    def __init__(self, in_size: int, out_size: int, causal: bool) -> None:
        super().__init__()
        conv, norm = Conv(in_size, out_size, 3, causal=causal), Norm(8, out_size, causal=causal)
        self.block = nn.Sequential(conv, norm, Mish())

    def forward(self, hidden: Tensor, frames: Frames) -> Tensor:
        conv, norm, activation = self.block
        return _keep(activation(norm(conv(_keep(hidden, frames.valid), frames))), frames.valid)


class _ResNetBlock(nn.Module):
    """Two convolution blocks with the time added between them, around a 1 x 1 shortcut."""

    def __init__(self, in_size: int, out_size: int, time_size: int, causal: bool) -> None:
        super().__init__()
        self.mlp = nn.Sequential(Mish(), nn.Linear(time_size, out_size))
        self.block1 = _ConvBlock(in_size, out_size, causal)
        self.block2 = _ConvBlock(out_size, out_size, causal)
        self.res_conv = nn.Conv1d(in_size, out_size, 1)

    def forward(self, hidden: Tensor, frames: Frames, time: Tensor) -> Tensor:
        inner = self.block1(hidden, frames) + self.mlp(time)[:, :, None]
        return self.block2(inner, frames) + self.res_conv(_keep(hidden, frames.valid))


class _TransformerBlock(nn.Module):
    """Self-attention and a GELU feed-forward on (B, F, C), each normalised first and added."""

    def __init__(self, size: int, num_heads: int, inner_size: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm3 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attn1 = _Attention(size, num_heads, inner_size, dropout)
        self.ff = _FeedForward(size, dropout)

    def forward(self, hidden: Tensor, bias: Tensor | None, past: Past | None) -> Tensor:
        hidden = hidden + self.attn1(self.norm1(hidden), bias, past)
        return hidden + self.ff(self.norm3(hidden))


class _Attention(nn.Module):
    def __init__(self, size: int, num_heads: int, inner_size: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(size, inner_size, bias=False)
        self.to_k = nn.Linear(size, inner_size, bias=False)
        self.to_v = nn.Linear(size, inner_size, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner_size, size), nn.Dropout(dropout))

    def forward(self, hidden: Tensor, bias: Tensor | None, past: Past | None) -> Tensor:
        query, key, value = (
            layer(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        if past is not None:
            key, value = past.attend(self, key, value)
        masked = bias is not None and bias.dtype == torch.bool
        if query.device.type == "cpu" and (bias is None or masked) and torch.is_grad_enabled():
            # the fused kernel's backward is three times slower in bfloat16 on a CPU, measured at 206 frames
            scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
            weights = (scores if bias is None else scores.masked_fill(~bias, float("-inf"))).softmax(-1)
            mixed = weights.to(value.dtype) @ value
        else:
            added = bias if bias is None or masked else bias.to(query.dtype)
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=added)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    """Names as published: net.0.proj, then dropout, then net.2."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(_Gelu(size, 4 * size), nn.Dropout(dropout), nn.Linear(4 * size, size))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.net(hidden)


class _Gelu(nn.Module):
    def __init__(self, in_size: int, out_size: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_size, out_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.gelu(self.proj(hidden))


class _Halve(nn.Module):
    def __init__(self, size: int, causal: bool) -> None:
        super().__init__()
        self.conv = Conv(size, size, 3, stride=2, causal=causal)

    def forward(self, hidden: Tensor, frames: Frames) -> Tensor:
        return self.conv(hidden, frames)


class _Double(nn.Module):
    def __init__(self, size: int, causal: bool) -> None:
        super().__init__()
        self.conv = ConvTranspose(size, causal=causal)

    def forward(self, hidden: Tensor, frames: Frames, finer: Frames) -> Tensor:
        return self.conv(hidden, frames, finer)


def time_embedding(time: Tensor, size: int) -> Tensor:
    """time: (B,), 0..1 -> (B, size), float32: sines, then cosines, of 1000 times the time."""
    half = size // 2
    rates = torch.exp(torch.arange(half, device=time.device, dtype=torch.float32) * -(math.log(10_000.0) / (half - 1)))
    phases = _TIME_SCALE * time.float()[:, None] * rates
    return torch.cat([phases.sin(), phases.cos()], dim=-1)
