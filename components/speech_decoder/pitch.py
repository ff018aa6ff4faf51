"""The reference pitch that HiFT's predictor learns, frame by frame as the mel has it.

By SwiftF0 (Nieradzik 2025; MIT; a network of 14,386 weights that lies in the package). Why this one: docs/decisions.md.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from components.speech_decoder.mel import HOP, SAMPLE_RATE_HZ

LOWEST_HZ, HIGHEST_HZ = 50.0, 1000.0
"""What counts as a voice's pitch."""
_VOICED = 0.5
"""Confidence from which a frame is voiced; SwiftF0's own."""


def pitch_of(wave: np.ndarray) -> np.ndarray:
    """wave: (samples,), float32, -1..1, 22.05 kHz -> (samples // 256,), float32, Hz; 0 where unvoiced.

    Frame f is the pitch at sample 256 f + 128, the middle of mel frame f. The library's frames are 16 ms apart: between
    two voiced ones the pitch is interpolated, beside an unvoiced one the nearer of the two counts.
    """
    num_frames = len(wave) // HOP
    if num_frames == 0:
        return np.zeros(0, dtype=np.float32)
    found = _detector().detect(wave, SAMPLE_RATE_HZ, LOWEST_HZ, HIGHEST_HZ)
    pitch = np.where(found.confidence >= _VOICED, found.pitch_hz, 0.0)
    middles_s = (HOP * np.arange(num_frames) + HOP / 2) / SAMPLE_RATE_HZ
    last = len(pitch) - 1
    places = np.clip(middles_s / _period_s(), 0, last)
    left = np.floor(places).astype(int)
    right, share = np.minimum(left + 1, last), places - left
    between = (1 - share) * pitch[left] + share * pitch[right]
    nearer = np.where(share < 0.5, pitch[left], pitch[right])
    return np.where((pitch[left] > 0) & (pitch[right] > 0), between, nearer).astype(np.float32)


@cache
def _detector() -> Any:
    from swift_f0 import SwiftF0

    return SwiftF0(threads=1)


def _period_s() -> float:
    from swift_f0 import FRAME_PERIOD

    return float(FRAME_PERIOD)
