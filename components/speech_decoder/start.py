"""How a training from scratch begins, where the published one begins with random weights. Ours; docs/results.md.

Token embeddings begin as the vectors that the tokenizer's codes stand for: codes that sound alike are alike from the
first step, and what is learned of one is learned of its neighbours.

The velocity network begins as the straight line from the noisy mel to the content. The path's velocity is mel - noise.
Near time 0 the noisy mel is the noise and, with the prior loss, the content is the mean mel, so content - noisy is a
good first guess. A U-Net with random weights needs hundreds of steps to find this map of 80 channels through its norms;
here its linear shortcuts carry it from the first step and the rest learns what to add.

The network and its key names stay as published.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from components.speech_decoder.unet import UNet

_LINEAR_AT = 2.0
"""Where Mish is almost a straight line: its value there is 1.944, its slope 1.069."""
_MISH, _SLOPE = 1.944, 1.069
_GAIN = 0.5
"""Deviation of the last norm's output around that point."""
_DEVIATION = 1.1
"""Deviation of content - noisy mel, which the last norm divides by: noise of 1 and a little content."""


@torch.no_grad()
def begin_straight(network: UNet, num_bins: int) -> None:
    """Set the weights of the outermost level so that the velocity is about content - noisy mel.

    Does nothing when the outermost level has fewer channels than mel bins.
    """
    first: Any = network.down_blocks[0]
    last: Any = network.up_blocks[-1]
    final: Any = network.final_block.block
    out: Any = network.final_proj
    size = out.in_channels
    if size < num_bins:
        return
    rows = torch.arange(num_bins)
    for level in (first, last):
        level[0].block2.block[1].weight.zero_()  # the ResNet block is its shortcut: Mish(0) = 0
        for block in level[1]:
            block.attn1.to_out[0].weight.zero_()
            block.ff.net[2].weight.zero_()
            block.attn1.to_out[0].bias.zero_()
            block.ff.net[2].bias.zero_()
    _carry(first[0].res_conv, {0: -1.0, num_bins: 1.0}, num_bins)  # inputs: noisy mel, content, speaker, prompt
    below = last[0].res_conv.in_channels - size
    _carry(last[0].res_conv, {below: 1.0}, num_bins)  # inputs: from below, then the first level's output
    _carry(last[2], {0: 1.0}, num_bins)
    _carry(final[0], {0: 1.0}, num_bins)
    final[1].weight.fill_(_GAIN)
    final[1].bias.fill_(_LINEAR_AT)
    weight = _DEVIATION / (_GAIN * _SLOPE)
    out.weight.mul_(0.1)
    out.weight[rows, :num_bins] = 0.0
    out.weight[rows, rows, 0] = weight
    out.bias.copy_(-_MISH * out.weight.sum(dim=(1, 2)))


def _carry(conv: nn.Conv1d, sources: dict[int, float], num_bins: int) -> None:
    """Output channels 0 .. num_bins - 1 become weighted copies of the inputs that begin at each source."""
    rows = torch.arange(num_bins)
    assert conv.bias is not None
    conv.weight[rows] = 0.0
    conv.bias[rows] = 0.0
    middle = conv.kernel_size[0] - 1 if getattr(conv, "causal", False) else conv.kernel_size[0] // 2
    for begin, value in sources.items():
        conv.weight[rows, begin + rows, middle] = value


@torch.no_grad()
def begin_alike(embedding: nn.Embedding, codes: torch.Tensor) -> None:
    """Set token embeddings to the codes' principal components, scaled together to a deviation of 1.

    codes: (num_codes, width), float32, the tokenizer's. Raises ValueError when there are more or fewer than embeddings.
    """
    num_codes, size = embedding.weight.shape
    if len(codes) != num_codes:
        raise ValueError(f"speech tokenizer: got {len(codes)} codes, wanted {num_codes} as the speech tokens state")
    codes = codes.float().cpu()
    centred = codes - codes.mean(dim=0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    parts = (centred @ directions.T)[:, :size]
    parts = parts / parts.std().clamp(min=1e-6)
    embedding.weight.copy_(nn.functional.pad(parts, (0, size - parts.shape[1])))
