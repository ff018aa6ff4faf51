"""Spectrograms as small PNG images with a palette, drawn without axes: time to the right, frequency up."""

from __future__ import annotations

import io
import itertools
from functools import cache

import matplotlib
import numpy as np
from PIL import Image

WINDOW_S, HOP_S = 0.032, 0.010
HEIGHT = 96
"""Rows of the image."""
TOP_HZ = 8000.0
RANGE_DB = 70.0
"""Darkest shade, below the loudest point of the clip."""


def spectrogram_png(wave: np.ndarray, sample_rate_hz: int) -> bytes:
    """wave: (samples,), float32, -1..1 -> PNG, one column every 10 ms, HEIGHT rows up to 8 kHz on a mel-like scale."""
    levels_db = spectrogram_db(wave, sample_rate_hz)
    shades = np.clip(1.0 + (levels_db - levels_db.max()) / RANGE_DB, 0.0, 1.0)
    image = Image.fromarray((shades[::-1] * 255).astype(np.uint8), mode="P")
    image.putpalette(_palette())
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def spectrogram_db(wave: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """(HEIGHT, frames) float32, power in decibels, lowest frequency first; frequencies spaced evenly in mel."""
    window, hop = round(WINDOW_S * sample_rate_hz), round(HOP_S * sample_rate_hz)
    padded = np.pad(wave, (0, max(0, window - len(wave))))
    frames_TW = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop] * np.hanning(window)
    power_TF = np.abs(np.fft.rfft(frames_TW, axis=1)) ** 2
    top_mel = 2595.0 * np.log10(1.0 + min(TOP_HZ, sample_rate_hz / 2) / 700.0)
    edges_hz = 700.0 * (10.0 ** (np.linspace(0.0, top_mel, HEIGHT + 1) / 2595.0) - 1.0)
    edges = np.floor(edges_hz / (sample_rate_hz / 2) * (power_TF.shape[1] - 1)).astype(int)
    sums_TH = np.stack([power_TF[:, a : max(a + 1, b)].mean(axis=1) for a, b in itertools.pairwise(edges)], 1)
    return (10.0 * np.log10(sums_TH + 1e-10)).T.astype(np.float32)


@cache
def _palette() -> list[int]:
    """Matplotlib's magma as 256 RGB triples in a row."""
    colors = matplotlib.colormaps["magma"](np.arange(256))[:, :3]
    return [round(255 * value) for value in colors.ravel()]
