"""One batch: features read from disk or from memory, augmented; labels; what the un-quantised Whisper makes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from components.shared.audio import WHISPER_RATE_HZ, read_wave, resample
from components.shared.features import log_mel
from components.speech_tokenizer.config import AugmentConfig
from components.speech_tokenizer.transcripts import NO_LABEL, batch_of
from components.speech_tokenizer.whisper_config import FRAMES_PER_S, WhisperVQConfig

MEL_MULTIPLE = 8
"""Batches are padded to a multiple of this many mel frames, a token at 12.5 a second."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One utterance as training sees it."""

    id: str
    path: Path
    duration_s: float
    transcript: tuple[int, ...]
    """Text ids with prompt and end; empty when there is no transcript."""
    text: str
    language: str
    origin: str
    corpus: str
    is_pseudo: bool


@dataclass
class Batch:
    """Some clips. Shapes: B clips, M mel bins, F mel frames, K speech tokens, D width, L text positions."""

    features: Tensor | None
    """(B, M, F) float32, augmented in training; None when `front` is there."""
    mask: Tensor
    """True where there is speech: (B, F) bool of the features, or (B, K) bool of the front."""
    front: Tensor | None
    """(B, K, D) float32: states behind pooling, when the layers below are frozen and their states kept in memory."""
    inputs: Tensor
    """(B, L) int64."""
    targets: Tensor
    """(B, L) int64, transcripts.NO_LABEL where nothing is learnt."""
    clean: Tensor | None
    """(B, M, F) float32: before noise and masks, cut off as Whisper does; what the un-quantised Whisper hears."""
    wanted: Tensor | None
    """(B, K, D) bfloat16: pooled final states of the un-quantised Whisper, when they are kept in memory."""
    clips: list[Clip]

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on a device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if torch.is_tensor(value)
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class Kept:
    """What stays in memory of one clip from epoch to epoch."""

    heard: Tensor
    """(M, F) float32 features of whole tokens, or (K, D) float32 states behind pooling when that is frozen."""
    length: int
    """Frames of the features that are speech, or rows of the states."""
    wanted: Tensor
    """(K, D) bfloat16, pooled final states of the un-quantised Whisper; no rows without one."""


class ClipFeatures(Dataset[Batch]):
    """Numbered batches: a key is (number of the batch, clip numbers).

    needs_clean: whether the un-quantised Whisper has to hear the clip as well. `kept`, by clip id, is filled when clips
    are kept in memory; they are then not read again and their waves not augmented.
    """

    def __init__(
        self,
        clips: list[Clip],
        shape: WhisperVQConfig,
        augment: AugmentConfig | None,
        seed: int,
        pad: int,
        *,
        needs_clean: bool = False,
    ) -> None:
        self.clips, self.shape, self.augment, self.seed, self.pad = clips, shape, augment, seed, pad
        self.needs_clean = needs_clean
        self.kept: dict[str, Kept] = {}
        self.keeps_front = False

    def __getitem__(self, key: tuple[int, list[int]]) -> Batch:
        """Read, augment and analyse one batch; randomness from (seed, batch, place in the batch)."""
        number, numbers = key
        clips = [self.clips[index] for index in numbers]
        rngs = [np.random.default_rng([self.seed, number, place]) for place in range(len(clips))]
        features = front = clean = wanted = None
        if self.kept and self.keeps_front:
            front, mask = _pad_front([self.kept[clip.id] for clip in clips])
        elif self.kept:
            features, mask = _pad_features([self.kept[clip.id] for clip in clips])
        else:
            features, mask, clean = self._read(clips, rngs)
        if self.kept and self.needs_clean:
            wanted = pad_sequence([self.kept[clip.id].wanted for clip in clips], batch_first=True)
        if self.augment is not None and features is not None:
            features = mask_features(features, mask, self.augment, rngs)
        transcripts = [list(clip.transcript) or [self.pad, self.pad] for clip in clips]
        inputs, targets = batch_of(transcripts, self.pad)
        targets[torch.tensor([not clip.transcript for clip in clips])] = NO_LABEL
        return Batch(features, mask, front, inputs, targets, clean, wanted, clips)

    def _read(self, clips: list[Clip], rngs: list[np.random.Generator]) -> tuple[Tensor, Tensor, Tensor | None]:
        waves = [read_wave(clip.path, WHISPER_RATE_HZ)[0] for clip in clips]
        if self.augment is not None:
            waves = [change_speed(wave, self.augment, rng) for wave, rng in zip(waves, rngs, strict=True)]
        clean = self._features(waves, None)[0] if self.needs_clean else None
        if self.augment is not None:
            waves = [add_noise(wave, self.augment, rng) for wave, rng in zip(waves, rngs, strict=True)]
        features, mask = self._features(waves, self.shape.feature_floor if self.shape.is_fixed else None)
        return features, mask, clean

    def _features(self, waves: list[np.ndarray], floor: float | None) -> tuple[Tensor, Tensor]:
        mels = self.shape.num_mel_bins
        return log_mel([torch.from_numpy(wave) for wave in waves], mels, floor=floor, multiple=MEL_MULTIPLE)


def _pad_features(kept: list[Kept]) -> tuple[Tensor, Tensor]:
    """Features (M, F) each -> (B, M, longest F) and mask (B, longest F), filled up with the clip's own lowest value."""
    longest = max(clip.heard.shape[1] for clip in kept)
    padded = [
        functional.pad(clip.heard, (0, longest - clip.heard.shape[1]), value=float(clip.heard.min())) for clip in kept
    ]
    return torch.stack(padded), _mask_of(kept, longest)


def _pad_front(kept: list[Kept]) -> tuple[Tensor, Tensor]:
    """States (K, D) each -> (B, longest K, D) and mask (B, longest K)."""
    states = pad_sequence([clip.heard for clip in kept], batch_first=True)
    return states, _mask_of(kept, states.shape[1])


def _mask_of(kept: list[Kept], longest: int) -> Tensor:
    return torch.arange(longest)[None, :] < torch.tensor([clip.length for clip in kept])[:, None]


def changes_waves(augment: AugmentConfig) -> bool:
    """Whether a clip's wave differs from epoch to epoch."""
    return augment.noise_share > 0 or any(speed != 1.0 for speed in augment.speeds)


def change_speed(wave: np.ndarray, augment: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Faster and higher or slower and lower by a drawn factor."""
    factor = float(rng.choice(augment.speeds))
    return wave if factor == 1.0 else resample(wave, round(WHISPER_RATE_HZ * factor), WHISPER_RATE_HZ)


def add_noise(wave: np.ndarray, augment: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """White or, half of the time, low-passed noise at a drawn signal-to-noise ratio."""
    if rng.random() >= augment.noise_share:
        return wave
    noise = rng.standard_normal(len(wave)).astype(np.float32)
    if rng.random() < 0.5:
        noise = np.convolve(noise, 0.9 ** np.arange(32, dtype=np.float32), mode="same")
    low, high = augment.noise_snr_db
    ratio = 10 ** (-rng.uniform(low, high) / 20)
    loudness = ratio * np.sqrt(np.mean(wave**2)) / (np.sqrt(np.mean(noise**2)) + 1e-9)
    return (wave + loudness * noise).astype(np.float32)


def mask_features(features: Tensor, mask: Tensor, augment: AugmentConfig, rngs: list[np.random.Generator]) -> Tensor:
    """SpecAugment: stretches of time and bands of mel set to the batch's lowest value."""
    if not augment.time_masks and not augment.mel_masks:
        return features
    features = features.clone()
    quiet = float(features.min())
    for row, valid, rng in zip(features, mask.sum(1).tolist(), rngs, strict=True):
        for _ in range(augment.time_masks):
            width = int(rng.uniform(0, min(augment.time_mask_s * FRAMES_PER_S, valid / 4)))
            start = int(rng.integers(0, max(1, valid - width)))
            row[:, start : start + width] = quiet
        for _ in range(augment.mel_masks):
            width = int(rng.integers(0, augment.mel_mask_bins + 1))
            start = int(rng.integers(0, len(row) - width))
            row[start : start + width] = quiet
    return features
