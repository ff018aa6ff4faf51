"""Normal noise as a function of where it stands, so that no way of cutting a sequence changes it."""

from __future__ import annotations

import torch
from torch import Tensor

from components.speech_decoder.mel import HOP, NUM_BINS

_FRAMES_PER_SEED = 64
_SOURCE_SEEDS = 2**32
"""Seeds of the vocoder's noise begin here, far from those of the flow's."""


def frame_noise(first: int, num_frames: int) -> Tensor:
    """What the flow starts from at frames first .. first + num_frames - 1: (80, num_frames), float32."""
    return _noise(first, num_frames, NUM_BINS, 1, 0)


def source_noise(first: int, num_frames: int, num_rows: int) -> Tensor:
    """What the vocoder's source is mixed with at the samples of these frames: (num_rows, 256 num_frames), float32."""
    return _noise(first, num_frames, num_rows, HOP, _SOURCE_SEEDS)


def _noise(first: int, num_frames: int, num_rows: int, per_frame: int, first_seed: int) -> Tensor:
    start, stop = first // _FRAMES_PER_SEED, -(-(first + num_frames) // _FRAMES_PER_SEED)
    pieces = [
        torch.randn(num_rows, _FRAMES_PER_SEED * per_frame, generator=torch.Generator().manual_seed(first_seed + seed))
        for seed in range(start, stop)
    ]
    offset = (first - start * _FRAMES_PER_SEED) * per_frame
    return torch.cat(pieces, dim=1)[:, offset : offset + num_frames * per_frame]
