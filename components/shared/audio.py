"""Reading, resampling and writing of waves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import soxr

WHISPER_RATE_HZ = 16_000
MAX_RATE_HZ = 24_000


def read_wave(path: Path, sample_rate_hz: int | None = None) -> tuple[np.ndarray, int]:
    """One mono wave: (samples,), float32, -1..1, and its rate in Hz, resampled when sample_rate_hz is given.

    Channels are averaged. Raises ValueError when the file is missing, not audio, empty, or holds NaN or infinity.
    """
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"{path}: not readable as audio: {error}") from error
    wave = samples.mean(axis=1)
    if wave.size == 0:
        raise ValueError(f"{path}: no samples")
    if not np.isfinite(wave).all():
        raise ValueError(f"{path}: holds NaN or infinite samples")
    if sample_rate_hz is None or sample_rate_hz == rate_hz:
        return wave, rate_hz
    return resample(wave, rate_hz, sample_rate_hz), sample_rate_hz


def resample(wave: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """wave: (samples,), float32, at from_hz -> (samples,), float32, at to_hz."""
    if from_hz == to_hz:
        return wave
    return soxr.resample(wave, from_hz, to_hz, quality="HQ").astype(np.float32)


def require_sound(wave: np.ndarray, sample_rate_hz: int, what: str, min_duration_s: float) -> None:
    """Raise ValueError, which begins with `what`, unless a wave has one channel, finite samples and enough of them."""
    if wave.ndim != 1 or len(wave) < min_duration_s * sample_rate_hz:
        raise ValueError(
            f"{what}: got shape {wave.shape} at {sample_rate_hz} Hz, wanted (samples,) of at least {min_duration_s} s"
        )
    if not np.isfinite(wave).all():
        raise ValueError(f"{what}: got NaN or infinite samples, wanted finite ones")


def write_flac(path: Path, wave: np.ndarray, sample_rate_hz: int) -> None:
    """Write a mono wave, (samples,), float32, -1..1, as 16-bit FLAC."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(wave, -1.0, 1.0), sample_rate_hz, format="FLAC", subtype="PCM_16")


def rms_dbfs(wave: np.ndarray) -> float:
    """Root mean square of a wave in decibels relative to full scale; -120 for silence."""
    return float(20 * np.log10(max(float(np.sqrt(np.mean(np.square(wave, dtype=np.float64)))), 1e-6)))
