"""Log-mel spectrograms of the published decoder: 22.05 kHz, window 1024, hop 256, 80 bins of 0-8 kHz, natural log.

Source: HiFi-GAN's features (Kong et al. 2020), which CosyVoice keeps. Frame f covers samples around 256 f + 128, so
that F frames stand for exactly 256 F samples.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SAMPLE_RATE_HZ = 22_050
WINDOW = 1024
HOP = 256
NUM_BINS = 80
TOP_HZ = 8_000.0
FRAMES_PER_S = SAMPLE_RATE_HZ / HOP
MIN_MAGNITUDE = 1e-5
SILENCE = float(np.log(MIN_MAGNITUDE))
"""Log-mel value of digital silence."""
_PAD = (WINDOW - HOP) // 2


def log_mel(wave: Tensor) -> Tensor:
    """wave: (..., samples), float32, -1..1, 22.05 kHz -> (..., 80, samples // 256), float32, natural log.

    Raises ValueError when the wave is shorter than one window.
    """
    if wave.shape[-1] < WINDOW:
        raise ValueError(f"wave: got {wave.shape[-1]} samples, wanted at least one window of {WINDOW}")
    flat = wave.reshape(-1, wave.shape[-1])
    padded = F.pad(flat[:, None], (_PAD, _PAD), mode="reflect")[:, 0]
    spectrum = torch.stft(
        padded, WINDOW, HOP, window=window(wave.device), center=False, return_complex=True
    )  # (rows, 513, frames)
    magnitude = torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-9)
    mel = (filters(wave.device) @ magnitude).clamp(min=MIN_MAGNITUDE).log()
    return mel.reshape(*wave.shape[:-1], NUM_BINS, -1)


def window(device: torch.device) -> Tensor:
    """The analysis window: (1024,), periodic Hann."""
    return torch.hann_window(WINDOW, device=device)


def filters(device: torch.device) -> Tensor:
    """Triangular mel filters: (80, 513), float32, each of equal area (Slaney's scale)."""
    return _filters().to(device)


@cache
def _filters() -> Tensor:
    edges = _to_hz(np.linspace(0.0, _to_mel(TOP_HZ), NUM_BINS + 2))
    bins = np.linspace(0.0, SAMPLE_RATE_HZ / 2, WINDOW // 2 + 1)
    width = np.diff(edges)
    slopes = edges[:, None] - bins[None, :]
    rising, falling = -slopes[:-2] / width[:-1, None], slopes[2:] / width[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return torch.from_numpy((triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32))


_LINEAR_HZ_PER_MEL = 200.0 / 3
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0


def _to_mel(hz: float) -> float:
    """Slaney's scale: linear below 1 kHz, logarithmic above."""
    return hz / _LINEAR_HZ_PER_MEL if hz < _BREAK_HZ else _BREAK_MEL + float(np.log(hz / _BREAK_HZ)) / _LOG_STEP


def _to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < _BREAK_MEL, mel * _LINEAR_HZ_PER_MEL, _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL)))
