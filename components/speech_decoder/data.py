"""Pairs of speech tokens and mel, cut to batches without padding.

Utterances of like length share a batch and each is cut, at a random token, to the length of the shortest, so that
neither attention nor any norm over time ever sees padding. The batches of a step are a pure function of (seed, step).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from components.shared.audio import read_wave
from components.shared.contracts import SpeechTokens, Utterance
from components.shared.manifest import inside, read_manifest, read_table
from components.speech_decoder.config import DataConfig
from components.speech_decoder.flow import frames_of
from components.speech_decoder.mel import SAMPLE_RATE_HZ, SILENCE, WINDOW, log_mel

_BATCHES_PER_POOL = 16
"""Batches whose utterances are sorted by length together: fewer waste speech, more mix less."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One utterance to learn from."""

    id: str
    audio: Path
    tokens: np.ndarray
    """(tokens,), uint16, code numbers."""
    text: str | None
    language: str
    speaker: str
    split: str
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of equal length."""

    tokens: Tensor
    """(B, T), int64."""
    mel: Tensor
    """(B, 80, F), float32, natural log, F = frames_of(T)."""
    speaker: Tensor
    """(B,), int64, row of the speaker table."""
    index: int
    """Number of the batch in the run: the seed of its noise."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("tokens", "mel", "speaker")}
        return replace(self, **moved)


class Mels:
    """Mel of a pair, read from its audio; kept in memory when asked to."""

    def __init__(self, keep: bool) -> None:
        self._kept: dict[str, Tensor] | None = {} if keep else None

    def of(self, pair: Pair) -> Tensor:
        """(80, frames), float32, natural log."""
        if self._kept is not None and pair.id in self._kept:
            return self._kept[pair.id]
        wave, _ = read_wave(pair.audio, SAMPLE_RATE_HZ)
        mel = log_mel(torch.from_numpy(wave))
        if self._kept is not None:
            self._kept[pair.id] = mel
        return mel


@dataclass(kw_only=True)
class Corpus:
    """Pairs to train on and to validate with, and how to read them."""

    train: list[Pair]
    validation: list[Pair]
    """Of speakers that are trained on."""
    speakers: list[str]
    """Most training speech first: the rows of the speaker table."""
    num_codes: int
    tokens_per_s: float
    dropped: Counter[str]
    """Rows left out, by reason."""
    mels: Mels

    @property
    def hours(self) -> float:
        """Training audio."""
        return sum(pair.duration_s for pair in self.train) / 3600

    def of_speakers(self, num_speakers: int) -> Corpus:
        """The part of the num_speakers with the most speech; 0: of all."""
        chosen = set(self.speakers[: num_speakers or len(self.speakers)])
        train = [pair for pair in self.train if pair.speaker in chosen]
        return replace(self, train=train, validation=[pair for pair in self.validation if pair.speaker in chosen])


def read_corpus(tokens: Path, utterances: Path, config: DataConfig) -> Corpus:
    """Pairs of the token table with their audio; the test split is never touched.

    Raises ValueError when a token row has no utterance or when no training pair fits the settings.
    """
    extra = read_manifest(tokens).extra
    audio = {row.id: inside(utterances, row.audio) for row in read_table(utterances, Utterance)}
    pairs, dropped = [], Counter[str]()
    origins = {origin.value for origin in config.origins}
    for row in read_table(tokens, SpeechTokens):
        if row.id not in audio:
            raise ValueError(f"speech tokens {row.id!r}: no such utterance in {utterances}")
        reason = _reason(row, config, origins)
        if reason:
            dropped[reason] += 1
        else:
            pairs.append(_pair(row, audio[row.id]))
    train = limit_hours([pair for pair in pairs if pair.split == "train"], config.max_hours)
    if not train:
        settings = "speech_decoder.data.languages, origins and min_crop_s"
        raise ValueError(f"{tokens}: no training pair left, left out: {dict(dropped)}; see {settings}")
    speakers = speakers_by_hours(train)
    return Corpus(
        train=train,
        validation=[pair for pair in pairs if pair.split == "validation" and pair.speaker in speakers],
        speakers=speakers,
        num_codes=int(extra["num_codes"]),
        tokens_per_s=float(extra["tokens_per_s"]),
        dropped=dropped,
        mels=Mels(config.keep_mels),
    )


def _pair(row: SpeechTokens, audio: Path) -> Pair:
    return Pair(
        id=row.id,
        audio=audio,
        tokens=np.asarray(row.tokens, dtype=np.uint16),
        text=row.text,
        language=row.language,
        speaker=row.speaker,
        split=row.split,
        duration_s=row.duration_s,
    )


def _reason(row: SpeechTokens, config: DataConfig, origins: set[str]) -> str:
    """Why a row is left out, or an empty string."""
    if row.language not in config.languages:
        return "language"
    if row.origin not in origins:
        return "origin"
    if row.split == "test":
        return "test_split"
    if not row.tokens:
        return "no_tokens"
    if row.duration_s < max(config.min_crop_s, WINDOW / SAMPLE_RATE_HZ):
        return "too_short"
    return ""


def limit_hours(pairs: list[Pair], max_hours: float) -> list[Pair]:
    """The first utterances of each speaker, turn by turn, up to max_hours in all; 0: every one."""
    if max_hours == 0:
        return pairs
    queues: dict[str, list[Pair]] = {}
    for pair in pairs:
        queues.setdefault(pair.speaker, []).append(pair)
    taken, left_s = [], max_hours * 3600
    iterators = [iter(queue) for queue in queues.values()]
    while iterators and left_s > 0:
        for iterator in list(iterators):
            following = next(iterator, None)
            if following is None:
                iterators.remove(iterator)
            elif left_s > 0:
                taken.append(following)
                left_s -= following.duration_s
    return taken


def speakers_by_hours(pairs: list[Pair]) -> list[str]:
    """Speaker names, most speech first; equal ones by name."""
    seconds: dict[str, float] = defaultdict(float)
    for pair in pairs:
        seconds[pair.speaker] += pair.duration_s
    return sorted(seconds, key=lambda name: (-seconds[name], name))


def cut(mel: Tensor, start: int, num_tokens: int, tokens_per_s: float) -> Tensor:
    """The frames of tokens start .. start + num_tokens - 1: (80, frames_of(num_tokens)), silence past the end."""
    first, num_frames = frames_of(start, tokens_per_s), frames_of(num_tokens, tokens_per_s)
    piece = mel[:, first : first + num_frames]
    return torch.nn.functional.pad(piece, (0, num_frames - piece.shape[1]), value=SILENCE)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which pieces of which pairs make up a batch."""

    rows: list[tuple[int, int]]
    """(pair, first token) of each row."""
    num_tokens: int


@dataclass(frozen=True, kw_only=True)
class BatchSize:
    """How long and how many rows may be."""

    max_crop_s: float
    """Longest row, seconds; 0: whole utterances."""
    frames_per_batch: int
    """Mel frames of all rows together."""
    block_tokens: int = 0
    """Rows are whole blocks of so many tokens, as a stream decodes them; 0: of any length."""
    max_blocks: int = 0
    """Most blocks of a row: the history of a stream and the block that it decodes."""


def plan_epoch(lengths: list[int], size: BatchSize, tokens_per_s: float, rng: np.random.Generator) -> list[Plan]:
    """Every pair once, in batches of like length in random order.

    lengths: tokens of each pair. A batch holds as many rows as fit into size.frames_per_batch at the length of its
    shortest, at least one. With blocks that length is cut to a random number of whole ones, where there is one.
    """
    frames_per_batch = size.frames_per_batch
    limits = [round(size.max_crop_s * tokens_per_s), size.block_tokens * size.max_blocks]
    max_tokens = min((limit for limit in limits if limit), default=0)
    capped = [min(n, max_tokens) if max_tokens else n for n in lengths]
    order = rng.permutation(len(lengths)).tolist()
    rows_a_batch = max(1, frames_per_batch // max(1, frames_of(max(capped), tokens_per_s)))
    pool = rows_a_batch * _BATCHES_PER_POOL
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        rows: list[int] = []
        for pair in sorted(order[start : start + pool], key=lambda p: (-capped[p], p)):
            if rows and (len(rows) + 1) * frames_of(capped[pair], tokens_per_s) > frames_per_batch:
                batches.append(rows)
                rows = []
            rows.append(pair)
        batches.append(rows)
    plans = []
    for index in rng.permutation(len(batches)).tolist():
        num_tokens = min(capped[pair] for pair in batches[index])
        if size.block_tokens and num_tokens >= size.block_tokens:
            most = min(size.max_blocks, num_tokens // size.block_tokens)
            num_tokens = size.block_tokens * int(rng.integers(1, most + 1))
        rows_at = [(pair, int(rng.integers(0, lengths[pair] - num_tokens + 1))) for pair in batches[index]]
        plans.append(Plan(rows=rows_at, num_tokens=num_tokens))
    return plans


class Batches(Dataset[Batch]):
    """All batches of a run by number; epochs follow each other without end."""

    def __init__(
        self,
        corpus: Corpus,
        pairs: list[Pair],
        size: BatchSize,
        *,
        seed: int,
        num_batches: int | None,
    ) -> None:
        """pairs: those of the corpus to batch. num_batches: None for one epoch."""
        self._pairs, self._mels, self._tokens_per_s = pairs, corpus.mels, corpus.tokens_per_s
        self._rows = {name: row for row, name in enumerate(corpus.speakers)}
        self._size, self._seed = size, seed
        self._starts = [0]
        self._epochs: dict[int, list[Plan]] = {}
        self._num_batches = len(self._epoch(0)) if num_batches is None else num_batches

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, index: int) -> Batch:
        plan = self._plan(index)
        tokens, mels, speakers = [], [], []
        for number, start in plan.rows:
            pair = self._pairs[number]
            tokens.append(torch.from_numpy(pair.tokens[start : start + plan.num_tokens].astype(np.int64)))
            mels.append(cut(self._mels.of(pair), start, plan.num_tokens, self._tokens_per_s))
            speakers.append(self._rows[pair.speaker])
        return Batch(tokens=torch.stack(tokens), mel=torch.stack(mels), speaker=torch.tensor(speakers), index=index)

    def _plan(self, index: int) -> Plan:
        epoch = 0
        while True:
            if epoch + 1 == len(self._starts):
                self._starts.append(self._starts[-1] + len(self._epoch(epoch)))
            if index < self._starts[epoch + 1]:
                return self._epoch(epoch)[index - self._starts[epoch]]
            epoch += 1

    def _epoch(self, epoch: int) -> list[Plan]:
        if epoch not in self._epochs:
            lengths = [len(pair.tokens) for pair in self._pairs]
            rng = np.random.default_rng([self._seed, epoch])
            self._epochs = {epoch: plan_epoch(lengths, self._size, self._tokens_per_s, rng)}
        return self._epochs[epoch]


class FromStep:
    """A loader that begins at the batch the trainer has reached, so that a resumed run meets the batches it missed."""

    def __init__(self, batches: Dataset[Any], reached: Callable[[], int], num_workers: int) -> None:
        """batches: by number, with a length."""
        self._batches, self._reached, self._num_workers = batches, reached, num_workers

    def __iter__(self) -> Iterator[Any]:
        order = range(self._reached(), len(self._batches))  # type: ignore[arg-type]
        yield from DataLoader(self._batches, batch_size=None, sampler=order, num_workers=self._num_workers)
