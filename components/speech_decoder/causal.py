"""Parts of the causal variant: layers that look at no later frame, and the memory that lets them go on block by block.

Through attention a frame sees its own block of tokens and the `causal_blocks - 1` blocks before; convolutions look back
alone, norms at one frame alone. What earlier blocks computed never changes, so a stream keeps it (Past) and computes
new frames alone: any prefix of whole blocks decodes as it does within a longer decode. Names and shapes of parameters
are those of the published layout; with causal off each layer is the plain one of torch.

Shapes: B batch, C channels, F frames or tokens, H heads, K head size.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Past:
    """What each layer remembers of the blocks before: the ends of convolutions' inputs, attention's keys and values."""

    def __init__(self, num_blocks: int) -> None:
        """num_blocks: blocks that attention sees, the present one included."""
        self._num_blocks = num_blocks
        self._ends: dict[nn.Module, Tensor] = {}
        self._seen: dict[nn.Module, deque[tuple[Tensor, Tensor]]] = {}

    def join(self, layer: nn.Module, hidden: Tensor, count: int) -> Tensor:
        """hidden: (B, C, F) -> (B, C, count + F): behind the last `count` frames before, zeros at the very start."""
        before = self._ends.get(layer)
        joined = F.pad(hidden, (count, 0)) if before is None else torch.cat([before, hidden], dim=-1)
        self._ends[layer] = joined[..., joined.shape[-1] - count :]
        return joined

    def attend(self, layer: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """key, value: (B, H, F, K) of one block -> those of all blocks that it sees, earlier ones first."""
        blocks = self._seen.setdefault(layer, deque(maxlen=self._num_blocks))
        blocks.append((key, value))
        keys, values = zip(*blocks, strict=True)
        return torch.cat(keys, dim=2), torch.cat(values, dim=2)

    @property
    def num_kept(self) -> int:
        """Numbers remembered, in all layers."""
        tensors = [*self._ends.values(), *(t for blocks in self._seen.values() for pair in blocks for t in pair)]
        return sum(tensor.numel() for tensor in tensors)


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The frames that a level of the network works on."""

    first: int
    """Number of the first one in the whole sequence."""
    length: int
    valid: Tensor | None = None
    """(B, 1, F), 1 or 0; None: none is padding."""
    blocks: Tensor | None = None
    """(F,), int64: block of each, where attention must keep to blocks; None: it sees all of the frames."""
    past: Past | None = None
    """What came before, when these frames go on from there."""

    def halved(self) -> Frames:
        """Every second frame, the even ones of the whole sequence."""
        odd = self.first % 2
        return replace(
            self,
            first=(self.first + 1) // 2,
            length=(self.first + self.length + 1) // 2 - (self.first + 1) // 2,
            valid=None if self.valid is None else self.valid[:, :, odd::2],
            blocks=None if self.blocks is None else self.blocks[odd::2],
        )


def seen_blocks(blocks: Tensor, num_blocks: int) -> Tensor:
    """blocks: (F,), int64 -> (F, F), bool: row i sees column j of its own block or the num_blocks - 1 before."""
    behind = blocks[:, None] - blocks[None, :]
    return (behind >= 0) & (behind < num_blocks)


class Conv(nn.Conv1d):
    """A convolution padded evenly on both sides or, when causal, on the left."""

    def __init__(self, in_size: int, out_size: int, kernel: int, *, causal: bool, stride: int = 1) -> None:
        super().__init__(in_size, out_size, kernel, stride, padding=0 if causal else (kernel - 1) // 2)
        self.causal = causal

    def forward(self, hidden: Tensor, frames: Frames | None = None) -> Tensor:
        """hidden: (B, in, F) -> (B, out, F), or with stride 2 the even frames of the whole sequence."""
        if not self.causal:
            return super().forward(hidden)
        count = self.kernel_size[0] - 1
        if frames is None or frames.past is None:
            return super().forward(F.pad(hidden, (count, 0)))
        joined = frames.past.join(self, hidden, count)
        return super().forward(joined[..., frames.first % self.stride[0] :])


class ConvTranspose(nn.ConvTranspose1d):
    """Doubles the length with a kernel of 4; when causal, frame f comes from f // 2 and the one before."""

    def __init__(self, size: int, *, causal: bool) -> None:
        super().__init__(size, size, 4, stride=2, padding=0 if causal else 1)
        self.causal = causal

    def forward(self, hidden: Tensor, low: Frames, high: Frames) -> Tensor:  # type: ignore[override]
        """hidden: (B, C, frames of low) -> (B, C, frames of high)."""
        if not self.causal:
            return super().forward(hidden)[:, :, : high.length]  # doubling an odd length adds a frame
        joined = F.pad(hidden, (2, 0)) if low.past is None else low.past.join(self, hidden, 2)
        offset = high.first - 2 * (low.first - 2)
        return super().forward(joined)[:, :, offset : offset + high.length]


class Norm(nn.GroupNorm):
    """A group norm over the whole sequence or, when causal, over each frame by itself."""

    def __init__(self, num_groups: int, size: int, *, causal: bool) -> None:
        super().__init__(num_groups, size)
        self.causal = causal

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: (B, C, F) -> (B, C, F)."""
        if not self.causal:
            return super().forward(hidden)
        rows = hidden.transpose(1, 2)
        return super().forward(rows.flatten(0, 1)).view(rows.shape).transpose(1, 2)
