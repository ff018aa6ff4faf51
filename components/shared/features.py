"""Mel filters and Whisper's log-mel features in torch, on any device, a batch at a time.

Equal to transformers' WhisperFeatureExtractor for a clip padded with silence, whatever else is in the batch.
Source  Slaney's Auditory Toolbox (mel scale), Radford et al. 2022, section 2.2 (features)
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from components.shared.audio import WHISPER_RATE_HZ

WINDOW = 400
"""Samples of an analysis window: 25 ms."""
HOP = 160
"""Samples between two frames: 10 ms."""
FRAMES_AT_ONCE = 12_000
"""Frames of a clip whose spectra are in memory together, two minutes; they take twenty times as much as features."""
RANGE = 8.0
"""How far below its maximum Whisper cuts a clip off, in decades of power."""
QUIETEST = 1e-10
"""Power below which all is silence."""


def mel_filters(num_mels: int, num_bins: int, sample_rate_hz: int, min_hz: float, max_hz: float) -> np.ndarray:
    """Triangular filters of equal area on Slaney's mel scale (linear below 1 kHz, logarithmic above).

    Returns (num_mels, num_bins) float32 for the power spectrum whose bins go from 0 to half the sample rate.
    """
    step, turn_hz, log_step = 200.0 / 3, 1000.0, np.log(6.4) / 27
    turn = turn_hz / step

    def to_mel(hz: float) -> float:
        return hz / step if hz < turn_hz else float(turn + np.log(hz / turn_hz) / log_step)

    mels = np.linspace(to_mel(min_hz), to_mel(max_hz), num_mels + 2)
    edges = np.where(mels < turn, mels * step, turn_hz * np.exp((mels - turn) * log_step))
    bins = np.linspace(0, sample_rate_hz / 2, num_bins)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    area = 2.0 / (edges[2:] - edges[:-2])
    return (np.clip(np.minimum(rising, falling), 0, None) * area[:, None]).astype(np.float32)


@lru_cache(maxsize=8)
def _whisper_filters(num_mels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    filters = mel_filters(num_mels, WINDOW // 2 + 1, WHISPER_RATE_HZ, 0.0, WHISPER_RATE_HZ / 2)
    return torch.from_numpy(filters).to(device), torch.hann_window(WINDOW, device=device)


def num_frames(num_samples: int) -> int:
    """Mel frames of so many samples: one for every hop that is begun."""
    return -(-num_samples // HOP)


def log_power(padded: Tensor, num_mels: int) -> Tensor:
    """Decades of mel power of waves that already carry half a window on both sides.

    padded: (B, samples) float32, 16 kHz -> (B, num_mels, (samples - 400) // 160 + 1) float32, at least -10.
    """
    filters, window = _whisper_filters(num_mels, padded.device)
    num_windows, parts = (padded.shape[1] - WINDOW) // HOP + 1, []
    for first in range(0, num_windows, FRAMES_AT_ONCE):
        last = min(first + FRAMES_AT_ONCE, num_windows) - 1
        samples = padded[:, first * HOP : last * HOP + WINDOW]
        spectrum = torch.stft(samples, WINDOW, HOP, window=window, center=False, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        parts.append(torch.matmul(filters, power).clamp(min=QUIETEST).log10())
    return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]


def scale(log_mel: Tensor, floor: Tensor | float) -> Tensor:
    """Cut log-mel off below a floor and bring it to Whisper's range, about -1..1."""
    floor = torch.as_tensor(floor, device=log_mel.device, dtype=log_mel.dtype)
    return (torch.maximum(log_mel, floor) + 4.0) / 4.0


def log_mel(
    waves: list[Tensor],
    num_mels: int,
    *,
    floor: float | None,
    multiple: int = 1,
    silence: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Whisper's features of clips of any lengths, padded with silence to the longest.

    waves: (samples,) float32, -1..1, 16 kHz, each with at least one sample. floor: constant cut in decades of mel
    power; None: 8 below the clip's own maximum. The longest clip's frames are filled up to a multiple of `multiple`,
    then come `silence` more. Returns features (B, num_mels, F) float32 and mask (B, F) bool, True where a frame's first
    sample is the clip's.
    """
    lengths = torch.tensor([len(wave) for wave in waves])
    frames = -(-num_frames(int(lengths.max())) // multiple) * multiple + silence
    samples = torch.zeros(len(waves), max(frames * HOP, WINDOW) + WINDOW)
    for row, wave in zip(samples, waves, strict=True):
        row[: len(wave)] = wave
    samples = samples.to(device)
    padded = functional.pad(samples[:, None], (WINDOW // 2, 0), mode="reflect")[:, 0]
    power = log_power(padded, num_mels)
    cut = power.amax(dim=(1, 2), keepdim=True) - RANGE if floor is None else floor
    mask = torch.arange(frames)[None, :] * HOP < lengths[:, None]
    return scale(power[:, :, :frames], cut), mask.to(device)
