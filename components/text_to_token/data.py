"""Pairs of speakable text and speech tokens, packed into batches by their number alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from components.shared.contracts import SpeechTokens
from components.shared.packing import Piece, best_fit, collate, pack
from components.shared.speakable import speakable
from components.shared.tokens import Vocabulary, add_speech, train_bpe
from components.text_to_token.guidance import SPEECH, TEXT
from components.text_to_token.model import NUM_MARKS, plain_ids, prompt_of
from components.text_to_token.pace import Pace


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One utterance: what is said and its speech tokens."""

    id: str
    language: str
    text: str
    said: str
    """Speakable form of the text."""
    speaker: str
    codes: np.ndarray
    """(tokens,), uint16."""


def select(rows: Iterable[SpeechTokens], dropped: Counter[str]) -> dict[str, list[Pair]]:
    """Pairs of splits train and validation with human text, by split; what is left out is counted in dropped."""
    pairs: dict[str, list[Pair]] = {"train": [], "validation": []}
    for row in rows:
        if row.split not in pairs or row.text_source != "human" or row.text is None:
            continue
        said = speakable(row.text, row.language)
        if not said:
            dropped["unspeakable"] += 1
        elif not row.tokens:
            dropped["no_tokens"] += 1
        else:
            codes = np.array(row.tokens, dtype=np.uint16)
            pair = Pair(id=row.id, language=row.language, text=row.text, said=said, speaker=row.speaker, codes=codes)
            pairs[row.split].append(pair)
    return pairs


def main_speakers(pairs: list[Pair]) -> dict[str, str]:
    """Of each language the speaker with most pairs; the first by name when several have as many."""
    counts = Counter((pair.language, pair.speaker) for pair in pairs)
    best: dict[str, str] = {}
    for (language, speaker), count in sorted(counts.items()):
        if language not in best or count > counts[language, best[language]]:
            best[language] = speaker
    return best


def make_tokenizer(pairs: list[Pair], vocab_size: int, num_codes: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the texts and the speakers' names, then the special tokens and the speech tokens."""
    if vocab_size > 16384:
        raise ValueError(f"text_to_token.vocab_size: got {vocab_size}, wanted at most 16384")
    speakers = sorted({pair.speaker for pair in pairs})
    return add_speech(train_bpe([*(pair.said for pair in pairs), *speakers], vocab_size), num_codes)


class Examples:
    """Pairs as token ids: everything but the choices of an epoch."""

    def __init__(
        self,
        pairs: list[Pair],
        tokenizer: PreTrainedTokenizerFast,
        vocabulary: Vocabulary,
        pace: Pace,
        max_length: int,
    ) -> None:
        """Pairs longer than max_length tokens with their speaker are left out; `num_too_long` says how many."""
        self.vocabulary = vocabulary
        self.texts: list[list[int]] = []
        self.later_texts: list[list[int]] = []
        self.controls: list[list[int]] = []
        self.speech: list[list[int]] = []
        self.voices: list[tuple[str, str]] = []
        self.times: list[np.ndarray] = []
        self.later_times: list[np.ndarray] = []
        controls = {name: [vocabulary.system, *plain_ids(tokenizer, name)] for name in {p.speaker for p in pairs}}
        self.num_too_long = 0
        for pair in pairs:
            text, control = plain_ids(tokenizer, pair.said), controls[pair.speaker]
            speech = vocabulary.to_ids(pair.codes.tolist())
            if len(control) + len(text) + len(speech) + NUM_MARKS > max_length:
                self.num_too_long += 1
                continue
            self.texts.append(text)
            self.later_texts.append(plain_ids(tokenizer, f" {pair.said}"))
            self.controls.append(control)
            self.speech.append(speech)
            self.voices.append((pair.language, pair.speaker))
            self.times.append(said_at(tokenizer, text, pair, pace))
            self.later_times.append(said_at(tokenizer, self.later_texts[-1], pair, pace))

    def __len__(self) -> int:
        return len(self.texts)

    def piece(self, members: tuple[int, ...], name_speaker: bool) -> Piece:
        """One or more examples of a voice, said one after the other; only speech and its end are learnt."""
        first, *others = members
        text = [*self.texts[first], *(i for other in others for i in self.later_texts[other])]
        prompt = prompt_of(text, self.controls[first] if name_speaker else [], self.vocabulary)
        speech = [i for member in members for i in self.speech[member]]
        ids = np.array([*prompt, *speech, self.vocabulary.end_of_audio], dtype=np.int64)
        return Piece(ids, source=0, learn=np.arange(len(ids)) >= len(prompt))

    def guide(self, members: tuple[int, ...], name_speaker: bool) -> tuple[np.ndarray, np.ndarray]:
        """(roles, times), both (tokens of the piece,): see guidance.py."""
        first, *others = members
        control = len(self.controls[first]) if name_speaker else 0
        times, begins = [self.times[first]], float(len(self.speech[first]))
        for other in others:
            times.append(begins + self.later_times[other])
            begins += len(self.speech[other])
        text = np.concatenate(times)
        num_codes = sum(len(self.speech[member]) for member in members)
        roles = np.array([0] * (control + 1) + [TEXT] * len(text) + [SPEECH] * num_codes + [0, 0])
        before, after = np.zeros(control + 1), np.zeros(2)
        return roles, np.concatenate([before, text, np.arange(num_codes) + 0.5, after])

    def length(self, members: tuple[int, ...], name_speaker: bool) -> int:
        """Tokens of the piece."""
        first, *others = members
        text = len(self.texts[first]) + sum(len(self.later_texts[other]) for other in others)
        control = len(self.controls[first]) if name_speaker else 0
        return control + text + sum(len(self.speech[member]) for member in members) + NUM_MARKS


def said_at(tokenizer: PreTrainedTokenizerFast, text: list[int], pair: Pair, pace: Pace) -> np.ndarray:
    """When each text token of a pair is said if speech runs evenly, in speech tokens: (text tokens,) float64."""
    silence, durations = pace.durations(tokenizer.batch_decode([[i] for i in text]), pair.language)
    middles = silence + np.cumsum(durations) - durations / 2
    return middles * len(pair.codes) / max(1e-6, 2 * silence + durations.sum())


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What an epoch chooses for every example."""

    speaker_share: float
    """Share of the examples that name their speaker."""
    joined_share: float
    """Share of the examples that are followed by another one of their voice, as one text and one speech."""
    noise_share: float
    """Share of the speech tokens that are read wrongly, so that the text is what the model learns to go by."""


class PairLoader:
    """Packed batches, epoch after epoch; the whole state is the number of the next batch."""

    def __init__(
        self,
        examples: Examples,
        *,
        sequence_length: int,
        batch_size: int,
        num_batches: int,
        choices: Choices,
        seed: int,
    ) -> None:
        if not len(examples):
            raise ValueError("text_to_token: no training pair with human text fits text_to_token.sequence_length")
        self.examples, self.sequence_length, self.batch_size = examples, sequence_length, batch_size
        self.num_batches, self.choices, self.seed = num_batches, choices, seed
        self.position = 0

    def __len__(self) -> int:
        """Batches of the whole run."""
        return self.num_batches

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """The batches that are left: token_ids, labels, positions, segments, sources, each (B, T) int64."""
        sequences = self._sequences(skip=self.position * self.batch_size)
        while self.position < self.num_batches:
            batch = [next(sequences) for _ in range(self.batch_size)]
            self.position += 1
            yield collate(batch)
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        """The number of the next batch."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state."""
        self.position = state["position"]

    def _sequences(self, skip: int) -> Iterator[dict[str, np.ndarray]]:
        """Packed sequences without end, the first `skip` left out."""
        v = self.examples.vocabulary
        epoch = 0
        while True:
            rng = np.random.default_rng([self.seed, epoch])
            members = self._members(rng)
            named = rng.random(len(members)) < self.choices.speaker_share
            lengths = [self.examples.length(own, bool(name)) for own, name in zip(members, named, strict=True)]
            bins = best_fit(np.array(lengths), self.sequence_length)
            for number in rng.permutation(len(bins))[skip:]:
                pieces = [self.examples.piece(members[i], bool(named[i])) for i in bins[number]]
                guides = [self.examples.guide(members[i], bool(named[i])) for i in bins[number]]
                sequence = pack(pieces, self.sequence_length, v.pad, attend_across=False) | self._lay(guides)
                noise = np.random.default_rng([self.seed, epoch, int(number)])
                yield _with_noise(sequence, v, self.choices.noise_share, noise)
            skip = max(0, skip - len(bins))
            epoch += 1

    def _lay(self, guides: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
        """roles (T,) int64 and times (T,) float32 of pieces in a row."""
        roles = np.zeros(self.sequence_length, dtype=np.int64)
        times = np.zeros(self.sequence_length, dtype=np.float32)
        at = 0
        for own_roles, own_times in guides:
            roles[at : at + len(own_roles)] = own_roles
            times[at : at + len(own_roles)] = own_times
            at += len(own_roles)
        return {"roles": roles, "times": times}

    def _members(self, rng: np.random.Generator) -> list[tuple[int, ...]]:
        """Every example once, some of them in pairs of the same voice."""
        by_voice: dict[tuple[str, str], list[int]] = {}
        for number in rng.permutation(len(self.examples)):
            by_voice.setdefault(self.examples.voices[number], []).append(int(number))
        members: list[tuple[int, ...]] = []
        for _, numbers in sorted(by_voice.items()):
            while numbers:
                own: tuple[int, ...] = (numbers.pop(),)
                if numbers and rng.random() < self.choices.joined_share:
                    both = (*own, numbers[-1])
                    if self.examples.length(both, True) <= self.sequence_length:
                        own = both
                        numbers.pop()
                members.append(own)
        return [members[i] for i in rng.permutation(len(members))]


def _with_noise(
    sequence: dict[str, np.ndarray], vocabulary: Vocabulary, share: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The sequence with a share of its speech tokens replaced by random ones where they are read, not where learnt."""
    first, stop = vocabulary.first_audio_id, vocabulary.first_audio_id + vocabulary.num_codes
    ids = sequence["token_ids"]
    wrong = (ids >= first) & (ids < stop) & (rng.random(len(ids)) < share)
    return sequence | {"token_ids": np.where(wrong, rng.integers(first, stop, len(ids)), ids)}


def validation_loader(examples: Examples, sequence_length: int, batch_size: int) -> DataLoader:
    """Every example once, without its speaker, in packed batches."""
    bins = best_fit(np.array([examples.length((i,), False) for i in range(len(examples))]), sequence_length)
    pad = examples.vocabulary.pad
    packed = [pack([examples.piece((i,), False) for i in own], sequence_length, pad, False) for own in bins]
    batches = [collate(packed[start : start + batch_size]) for start in range(0, len(packed), batch_size)]
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
