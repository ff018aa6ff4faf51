"""Clips for training: which utterances are used, batches of similar duration, features and labels.

The order of batches is a function of (seed, epoch) alone; a loader's whole state is the number of batches it has given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet, MonoCut, Recording
from lhotse.audio import AudioSource
from lhotse.dataset import DynamicBucketingSampler
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from components.shared.audio import WHISPER_RATE_HZ, read_wave, resample
from components.shared.contracts import Utterance
from components.shared.features import log_mel
from components.shared.manifest import inside
from components.speech_tokenizer.config import AugmentConfig, SpeechTokenizerConfig
from components.speech_tokenizer.transcripts import NO_LABEL, Transcripts, batch_of
from components.speech_tokenizer.whisper_config import WhisperVQConfig

SHORTEST_S = 0.1
"""Clips under this many seconds hold no speech."""
MEL_MULTIPLE = 8
"""Batches are padded to a multiple of this many mel frames, a token at 12.5 a second."""


@dataclass(frozen=True)
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
    """Some clips. Shapes: B clips, M mel bins, F mel frames, L text positions."""

    features: Tensor
    """(B, M, F) float32, augmented in training."""
    clean: Tensor
    """(B, M, F) float32: before noise and masks, cut off as Whisper does; what the un-quantised Whisper hears."""
    mask: Tensor
    """(B, F) bool, True where there is speech."""
    inputs: Tensor
    """(B, L) int64."""
    targets: Tensor
    """(B, L) int64, transcripts.NO_LABEL where nothing is learnt."""
    clips: list[Clip]

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on a device."""
        features, clean, mask, inputs, targets = (
            value.to(device, non_blocking=True)
            for value in (self.features, self.clean, self.mask, self.inputs, self.targets)
        )
        return Batch(features, clean, mask, inputs, targets, self.clips)


def choose_clips(
    rows: Iterable[Utterance],
    folder: Path,
    split: str,
    config: SpeechTokenizerConfig,
    transcripts: Transcripts,
    room: int,
) -> tuple[list[Clip], Counter[str]]:
    """The usable utterances of a split and how many were dropped for which reason.

    room: text tokens that a transcript may have at most, prompt and end included.
    """
    clips, dropped = [], Counter[str]()
    for row in rows:
        if row.split != split:
            continue
        text = (row.text or "").strip()
        known = row.language in config.languages
        ids = transcripts.ids(text, row.language) if text and known else []
        if row.duration_s > config.max_duration_s:
            dropped["too_long"] += 1
        elif row.duration_s < SHORTEST_S:
            dropped["too_short"] += 1
        elif text and not known:
            dropped["other_language"] += 1
        elif not text and not (config.untranscribed and config.distil_weight > 0):
            dropped["no_transcript"] += 1
        elif len(ids) > room:
            dropped["long_transcript"] += 1
        else:
            clips.append(
                Clip(
                    row.id,
                    inside(folder, row.audio),
                    row.duration_s,
                    tuple(ids),
                    text,
                    row.language,
                    row.origin,
                    row.corpus,
                    row.text_source == "pseudo",
                )
            )
    return clips, dropped


class Batches:
    """Endless batches of clip numbers of similar duration, a function of (seed, epoch)."""

    def __init__(self, clips: list[Clip], config: SpeechTokenizerConfig, rank: int, world_size: int) -> None:
        if not clips:
            raise ValueError("speech_tokenizer: no training clip is left; is data/collect/utterances empty?")
        self.clips, self.config = clips, config
        self.rank, self.world_size = rank, world_size
        seconds = {pseudo: sum(c.duration_s for c in clips if c.is_pseudo == pseudo) for pseudo in (False, True)}
        self.pseudo_share = 1.0
        if config.pseudo_per_human is not None and seconds[True]:
            self.pseudo_share = config.pseudo_per_human * seconds[False] / seconds[True]

    def epoch(self, number: int) -> Iterator[list[int]]:
        """This rank's part of the batches of one epoch: every clip as often as its weight says, on average."""
        seed = self.config.seed + 7919 * number
        rng = np.random.default_rng(seed)
        cuts = []
        for index in rng.permutation(len(self.clips)):
            clip = self.clips[index]
            weight = self.config.corpus_weights.get(clip.corpus, 1.0) * (self.pseudo_share if clip.is_pseudo else 1.0)
            copies = int(weight) + int(rng.random() < weight % 1)
            cuts += [_cut(f"{index}#{copy}", clip.duration_s) for copy in range(copies)]
        rng.shuffle(cuts)  # type: ignore[arg-type]
        sampler = DynamicBucketingSampler(
            CutSet.from_cuts(cuts),
            max_duration=self.config.batch_s * self.world_size,
            num_buckets=min(self.config.num_buckets, max(1, len(cuts) // 4)),
            shuffle=True,
            seed=seed,
            world_size=1,
            rank=0,
        )
        for batch in sampler:
            numbers = [int(cut.id.split("#")[0]) for cut in batch]
            if len(numbers) >= self.world_size:
                yield numbers[self.rank :: self.world_size]


def _cut(name: str, duration_s: float) -> MonoCut:
    """A cut that only carries a name and a duration: sampling reads no audio."""
    samples = round(duration_s * WHISPER_RATE_HZ)
    source = AudioSource(type="file", channels=[0], source=name)
    recording = Recording(name, [source], WHISPER_RATE_HZ, samples, samples / WHISPER_RATE_HZ)
    return MonoCut(name, start=0, duration=recording.duration, channel=0, recording=recording)


class ClipFeatures(Dataset[Batch]):
    """Numbered batches read from disk: a key is (number of the batch, clip numbers)."""

    def __init__(
        self,
        clips: list[Clip],
        shape: WhisperVQConfig,
        augment: AugmentConfig | None,
        seed: int,
        pad: int,
    ) -> None:
        self.clips, self.shape, self.augment, self.seed, self.pad = clips, shape, augment, seed, pad

    def __getitem__(self, key: tuple[int, list[int]]) -> Batch:
        """Read, augment and analyse one batch; randomness from (seed, batch, place in the batch)."""
        number, numbers = key
        clips = [self.clips[index] for index in numbers]
        rngs = [np.random.default_rng([self.seed, number, place]) for place in range(len(clips))]
        waves = [read_wave(clip.path, WHISPER_RATE_HZ)[0] for clip in clips]
        if self.augment is not None:
            waves = [_change_speed(wave, self.augment, rng) for wave, rng in zip(waves, rngs, strict=True)]
        clean, _ = self._features(waves, None)
        if self.augment is not None:
            waves = [_add_noise(wave, self.augment, rng) for wave, rng in zip(waves, rngs, strict=True)]
        features, mask = self._features(waves, self.shape.feature_floor if self.shape.is_fixed else None)
        if self.augment is not None:
            features = _mask(features, mask, self.augment, rngs)
        transcripts = [list(clip.transcript) or [self.pad, self.pad] for clip in clips]
        inputs, targets = batch_of(transcripts, self.pad)
        targets[torch.tensor([not clip.transcript for clip in clips])] = NO_LABEL
        return Batch(features, clean, mask, inputs, targets, clips)

    def _features(self, waves: list[np.ndarray], floor: float | None) -> tuple[Tensor, Tensor]:
        mels = self.shape.num_mel_bins
        return log_mel([torch.from_numpy(wave) for wave in waves], mels, floor=floor, multiple=MEL_MULTIPLE)


class Loader:
    """Endless training batches with an integer for a state."""

    def __init__(self, batches: Batches, features: ClipFeatures, num_workers: int) -> None:
        self.batches, self.features, self.num_workers = batches, features, num_workers
        self.given = 0

    def __iter__(self) -> Iterator[Batch]:
        """Go on behind the last batch given."""
        loader = DataLoader(
            self.features,
            sampler=_Keys(self.batches, self.given),
            batch_size=None,
            num_workers=self.num_workers,
            prefetch_factor=2 if self.num_workers else None,
        )
        for batch in loader:
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches were given."""
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind so many batches."""
        self.given = state["given"]


class _Keys:
    """Keys of ClipFeatures from a number on, without end."""

    def __init__(self, batches: Batches, first: int) -> None:
        self.batches, self.first = batches, first

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        number, epoch = 0, 0
        while True:
            before = number
            for numbers in self.batches.epoch(epoch):
                if number >= self.first:
                    yield number, numbers
                number += 1
            if number == before:
                raise ValueError("speech_tokenizer.batch_s: no clip fits into a batch; wanted a larger one")
            epoch += 1


def validation_loader(clips: list[Clip], features: ClipFeatures, batch_s: float) -> DataLoader[Batch]:
    """All clips once, sorted by duration; read once and kept in memory."""
    order = sorted(range(len(clips)), key=lambda index: clips[index].duration_s)
    batches: list[list[int]] = [[]]
    for index in order:
        if batches[-1] and (len(batches[-1]) + 1) * clips[index].duration_s > batch_s:
            batches.append([])
        batches[-1].append(index)
    read = [features[number, numbers] for number, numbers in enumerate(batches) if numbers]
    return DataLoader(read, batch_size=None)  # type: ignore[arg-type]


def _change_speed(wave: np.ndarray, augment: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    factor = float(rng.choice(augment.speeds))
    return wave if factor == 1.0 else resample(wave, round(WHISPER_RATE_HZ * factor), WHISPER_RATE_HZ)


def _add_noise(wave: np.ndarray, augment: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """White or, half of the time, brown-tinted noise at a drawn signal-to-noise ratio."""
    if rng.random() >= augment.noise_share:
        return wave
    noise = rng.standard_normal(len(wave)).astype(np.float32)
    if rng.random() < 0.5:
        noise = np.convolve(noise, 0.9 ** np.arange(32, dtype=np.float32), mode="same")
    low, high = augment.noise_snr_db
    ratio = 10 ** (-rng.uniform(low, high) / 20)
    scale = ratio * np.sqrt(np.mean(wave**2)) / (np.sqrt(np.mean(noise**2)) + 1e-9)
    return (wave + scale * noise).astype(np.float32)


def _mask(features: Tensor, mask: Tensor, augment: AugmentConfig, rngs: list[np.random.Generator]) -> Tensor:
    """SpecAugment: stretches of time and bands of mel set to the batch's lowest value."""
    if not augment.time_masks and not augment.mel_masks:
        return features
    features = features.clone()
    quiet = float(features.min())
    for row, valid, rng in zip(features, mask.sum(1).tolist(), rngs, strict=True):
        for _ in range(augment.time_masks):
            width = int(rng.uniform(0, min(augment.time_mask_s * 100, valid / 4)))
            start = int(rng.integers(0, max(1, valid - width)))
            row[:, start : start + width] = quiet
        for _ in range(augment.mel_masks):
            width = int(rng.integers(0, augment.mel_mask_bins + 1))
            start = int(rng.integers(0, len(row) - width))
            row[start : start + width] = quiet
    return features
