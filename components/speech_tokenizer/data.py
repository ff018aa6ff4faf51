"""Clips for training: which utterances are used, and in which batches.

The order of batches is a function of (seed, epoch) alone; a loader's whole state is the number of batches it has given.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from lhotse import CutSet, MonoCut, Recording
from lhotse.audio import AudioSource
from lhotse.dataset import DynamicBucketingSampler
from torch.utils.data import DataLoader

from components.shared.audio import WHISPER_RATE_HZ
from components.shared.contracts import Utterance
from components.shared.manifest import inside
from components.speech_tokenizer.batch import Batch, Clip, ClipFeatures
from components.speech_tokenizer.config import SpeechTokenizerConfig
from components.speech_tokenizer.transcripts import Transcripts

SHORTEST_S = 0.1
"""Clips under this many seconds hold no speech."""


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
                    id=row.id,
                    path=inside(folder, row.audio),
                    duration_s=row.duration_s,
                    transcript=tuple(ids),
                    text=text,
                    language=row.language,
                    origin=row.origin,
                    corpus=row.corpus,
                    is_pseudo=row.text_source == "pseudo",
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
        shuffled = [cuts[place] for place in rng.permutation(len(cuts))]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are using DynamicBucketingSampler with an eagerly read CutSet")
            sampler = DynamicBucketingSampler(
                CutSet(shuffled),
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
                first, stop = (len(numbers) * rank // self.world_size for rank in (self.rank, self.rank + 1))
                yield numbers[first:stop]


def _cut(name: str, duration_s: float) -> MonoCut:
    """A cut that only carries a name and a duration: sampling reads no audio."""
    samples = round(duration_s * WHISPER_RATE_HZ)
    source = AudioSource(type="file", channels=[0], source=name)
    recording = Recording(name, [source], WHISPER_RATE_HZ, samples, samples / WHISPER_RATE_HZ)
    return MonoCut(name, start=0, duration=recording.duration, channel=0, recording=recording)


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
            yield batch
            # Lightning asks for one batch ahead: when it asks again, the batch before is the one that is trained on.
            self.given += 1

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


def in_order(clips: list[Clip], batch_s: float) -> list[list[int]]:
    """Numbers of all clips once, sorted by duration, in batches of at most so many seconds with padding."""
    batches: list[list[int]] = []
    for index in sorted(range(len(clips)), key=lambda index: (clips[index].duration_s, clips[index].id)):
        if not batches or (len(batches[-1]) + 1) * clips[index].duration_s > batch_s:
            batches.append([])
        batches[-1].append(index)
    return batches


def validation_loader(clips: list[Clip], features: ClipFeatures, batch_s: float) -> DataLoader[Batch]:
    """All clips once, sorted by duration; read once and kept in memory."""
    read = [features[number, numbers] for number, numbers in enumerate(in_order(clips, batch_s))]
    return DataLoader(read, batch_size=None)  # type: ignore[arg-type]
