"""Crops of recorded waves with their pitch, for HiFT; the batch of a step is a pure function of (seed, step)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from components.shared.audio import read_wave
from components.speech_decoder.data import Pair
from components.speech_decoder.mel import HOP, SAMPLE_RATE_HZ, WINDOW
from components.speech_decoder.pitch import pitch_of

EDGE_FRAMES = 2
"""Frames on both sides of a crop, so that the mel of its first and last frame is that of the whole wave."""


@dataclass(frozen=True, kw_only=True)
class Crops:
    """Rows of equal length."""

    wave: Tensor
    """(B, 256 (F + 4)), float32, -1..1, 22.05 kHz: F frames and the edges."""
    pitch: Tensor
    """(B, F), float32, Hz; 0 where unvoiced."""
    index: int
    """Number of the batch in the run: the seed of its noise."""

    def to(self, device: torch.device) -> Crops:
        """The same batch on a device."""
        return replace(self, wave=self.wave.to(device), pitch=self.pitch.to(device))


class Waves:
    """Wave and pitch of a pair, read from its audio; kept in memory when asked to."""

    def __init__(self, keep: bool) -> None:
        self._kept: dict[str, tuple[np.ndarray, np.ndarray]] | None = {} if keep else None

    def of(self, pair: Pair) -> tuple[Tensor, Tensor]:
        """(256 frames,) float32, -1..1, 22.05 kHz, whole frames alone, and (frames,) float32, Hz.

        The wave is kept as 16-bit integers and rounded to them either way. Raises ValueError as read_wave does.
        """
        kept = None if self._kept is None else self._kept.get(pair.id)
        if kept is None:
            wave, _ = read_wave(pair.audio, SAMPLE_RATE_HZ)
            whole = wave[: len(wave) // HOP * HOP]
            kept = np.round(np.clip(whole, -1.0, 1.0) * 32767).astype(np.int16), pitch_of(whole)
            if self._kept is not None:
                self._kept[pair.id] = kept
        return torch.from_numpy(kept[0].astype(np.float32) / 32767), torch.from_numpy(kept[1])


def long_enough(pairs: list[Pair], crop_frames: int, dropped: Counter[str]) -> list[Pair]:
    """The pairs that a crop with its edges fits into; others are counted as too_short_for_vocoder."""
    wanted_s = (crop_frames + 2 * EDGE_FRAMES + 1) * HOP / SAMPLE_RATE_HZ  # and a frame for rounded durations
    fit = [pair for pair in pairs if pair.duration_s >= wanted_s]
    if len(fit) < len(pairs):
        dropped["too_short_for_vocoder"] += len(pairs) - len(fit)
    return fit


class CropBatches(Dataset[Crops]):
    """Batches by number: every crop is drawn anew, from utterances by their length, at any frame."""

    def __init__(
        self, pairs: list[Pair], waves: Waves, *, crop_frames: int, rows: int, seed: int, num_batches: int
    ) -> None:
        """Raises ValueError when a crop is shorter than a mel window, or when there are no rows or no pairs."""
        if rows < 1:
            raise ValueError(f"vocoder.rows_per_batch: got {rows}, wanted at least 1")
        if crop_frames * HOP < WINDOW:
            wanted = WINDOW // HOP
            raise ValueError(f"vocoder.crop_frames: got {crop_frames}, wanted at least {wanted}, one mel window")
        if not pairs:
            raise ValueError(f"vocoder: no utterance holds a crop of {crop_frames} frames; see vocoder.crop_frames")
        self._pairs, self._waves = pairs, waves
        self._crop_frames, self._rows, self._seed, self._num_batches = crop_frames, rows, seed, num_batches
        seconds = np.array([pair.duration_s for pair in pairs])
        self._ends = np.cumsum(seconds / seconds.sum())

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, index: int) -> Crops:
        rng = np.random.default_rng([self._seed, index])
        length = self._crop_frames + 2 * EDGE_FRAMES
        waves, pitches = [], []
        for place in rng.random(self._rows):
            number = min(int(np.searchsorted(self._ends, place, side="right")), len(self._pairs) - 1)
            wave, pitch = self._waves.of(self._pairs[number])
            start = int(rng.integers(0, len(pitch) - length + 1))
            waves.append(wave[start * HOP : (start + length) * HOP])
            pitches.append(pitch[start + EDGE_FRAMES : start + length - EDGE_FRAMES])
        return Crops(wave=torch.stack(waves), pitch=torch.stack(pitches), index=index)


class WholeWaves(Dataset[Crops]):
    """Whole utterances, one a batch, without edges, for validation."""

    def __init__(self, pairs: list[Pair], waves: Waves) -> None:
        self._pairs, self._waves = pairs, waves

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Crops:
        wave, pitch = self._waves.of(self._pairs[index])
        return Crops(wave=wave[None], pitch=pitch[None], index=index)
