"""Batches of packed examples, a function of the seed and of how many came before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from components.shared.packing import Piece, best_fit, collate, pack
from components.shared.tokens import Vocabulary
from components.text_to_token.crossing import Spoken, mix
from components.text_to_token.guidance import NOWHERE
from components.text_to_token.model import NUM_MARKS, answer_of, plain_ids, prompt_of

_BLOCK = 20_000
"""Examples that are mixed, encoded and packed together; bounds memory."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What an epoch chooses for its examples."""

    speaker_share: float
    """Share of the examples that name their speaker."""
    crossed_share: float
    """Share of the pairs of examples that are crossed between words."""
    joined_share: float
    """Share of the pairs of examples that are said one after the other."""
    noise_share: float
    """Share of the speech tokens that are read wrongly."""


PLAIN = Choices(speaker_share=0.0, crossed_share=0.0, joined_share=0.0, noise_share=0.0)


class Encoder:
    """Examples as token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary, *, words_in_speech: bool) -> None:
        """words_in_speech: whether each text token is repeated before the speech tokens that say it."""
        self.tokenizer, self.vocabulary, self.words_in_speech = tokenizer, vocabulary, words_in_speech
        self.controls: dict[str, list[int]] = {}

    def control(self, speaker: str) -> list[int]:
        """Ids that name a speaker."""
        if speaker not in self.controls:
            self.controls[speaker] = [self.vocabulary.system, *plain_ids(self.tokenizer, speaker)]
        return self.controls[speaker]

    def encode(self, examples: list[tuple[Spoken, str]], named: np.ndarray) -> list[Example]:
        """Examples (what is said, speaker) as sequences; named: (examples,) bool, whether the speaker is told."""
        backend = self.tokenizer.backend_tokenizer
        backend.encode_special_tokens = True
        texts = backend.encode_batch([own.said for own, _ in examples], add_special_tokens=False)
        return [
            self._example(own, text.ids, text.offsets, self.control(speaker) if name else [])
            for (own, speaker), text, name in zip(examples, texts, named, strict=True)
        ]

    def _example(self, own: Spoken, text: list[int], offsets: list[tuple[int, int]], control: list[int]) -> Example:
        v = self.vocabulary
        prompt = prompt_of(text, control, v)
        starts = np.round(own.edges[[start for start, _ in offsets]]).astype(np.int64)
        answer = np.array(answer_of(v.to_ids(own.codes.tolist()), text, starts.tolist()))
        is_text = np.insert(np.zeros(len(own.codes), dtype=bool), starts, True)
        begun = np.append(np.cumsum(is_text) - is_text, len(text))  # text tokens begun before each token of the answer
        if not self.words_in_speech:
            answer, begun = answer[~is_text], begun[np.append(~is_text, True)]
        ids = np.array([*prompt, *answer, v.end_of_audio], dtype=np.int64)
        said, following = np.full(len(ids), NOWHERE), np.full(len(ids), NOWHERE)
        first = len(control) + 1
        # a position predicts the token after it
        predicting = slice(len(prompt) - 1, len(ids) - 1)
        said[predicting] = np.where(begun > 0, first + begun - 1, NOWHERE)
        following[predicting] = np.where(begun < len(text), first + begun, NOWHERE)
        return Example(Piece(ids, source=0, learn=np.arange(len(ids)) >= len(prompt)), said, following)


@dataclass(frozen=True)
class Example:
    """One sequence and where its speech stands in its text (see guidance.py)."""

    piece: Piece
    said: np.ndarray
    """(tokens,) int64: of each position that predicts speech, where the text token stands that is being said."""
    following: np.ndarray
    """(tokens,) int64: where the text token after that one stands."""

    def __len__(self) -> int:
        return len(self.piece.token_ids)


class PairLoader:
    """Packed batches, epoch after epoch: token_ids, labels, positions, segments, sources, said, following
    (B, T) int64. Its state is the place of the next sequence."""

    def __init__(
        self,
        examples: list[tuple[Spoken, str]],
        encoder: Encoder,
        *,
        sequence_length: int,
        batch_size: int,
        num_batches: int,
        choices: Choices,
        seed: int,
    ) -> None:
        """examples: (what is said, speaker), each at most sequence_length tokens with its speaker."""
        if not examples:
            raise ValueError("text_to_token: no training pair with human text fits text_to_token.sequence_length")
        self.examples, self.encoder = examples, encoder
        self.sequence_length, self.batch_size, self.num_batches = sequence_length, batch_size, num_batches
        self.choices, self.seed = choices, seed
        self.done = 0
        self.place = (0, 0, 0)
        """Epoch, block of the epoch, sequence of the block."""

    def __len__(self) -> int:
        """Batches of the whole run."""
        return self.num_batches

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """The batches that are left."""
        sequences = self._sequences()
        while self.done < self.num_batches:
            batch = []
            for _ in range(self.batch_size):
                sequence, self.place = next(sequences)
                batch.append(sequence)
            self.done += 1
            yield collate(batch)
        self.done, self.place = 0, (0, 0, 0)

    def state_dict(self) -> dict[str, int]:
        """Where the next sequence stands."""
        epoch, block, number = self.place
        return {"done": self.done, "epoch": epoch, "block": block, "number": number}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state."""
        self.done, self.place = state["done"], (state["epoch"], state["block"], state["number"])

    def _sequences(self) -> Iterator[tuple[dict[str, np.ndarray], tuple[int, int, int]]]:
        """Packed sequences without end from self.place on, each with the place of the next one."""
        epoch, first_block, skip = self.place
        while True:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.examples))
            for block in range(first_block, -(-len(order) // _BLOCK)):
                members = [self.examples[i] for i in order[block * _BLOCK : (block + 1) * _BLOCK]]
                bins = self._pack(members, np.random.default_rng([self.seed, epoch, block]))
                for number in range(skip, len(bins)):
                    noise = np.random.default_rng([self.seed, epoch, block, number])
                    sequence = lay(bins[number], self.sequence_length, self.encoder.vocabulary.pad)
                    following = (epoch, block, number + 1)
                    yield misread(sequence, self.encoder.vocabulary, self.choices.noise_share, noise), following
                skip = 0
            epoch, first_block = epoch + 1, 0

    def _pack(self, members: list[tuple[Spoken, str]], rng: np.random.Generator) -> list[list[Example]]:
        """A block's examples, mixed and put together into sequences, in a random order."""
        most = self.sequence_length - NUM_MARKS

        def fits(own: Spoken) -> bool:
            # text never has more tokens than bytes; the longest name is what a speaker can add
            text = len(own.said.encode()) * (2 if self.encoder.words_in_speech else 1)
            return len(own.codes) + text + self._longest_control <= most

        mixed = mix(members, self.choices.crossed_share, self.choices.joined_share, fits, rng)
        encoded = self.encoder.encode(mixed, rng.random(len(mixed)) < self.choices.speaker_share)
        bins = best_fit(np.array([len(example) for example in encoded]), self.sequence_length)
        return [[encoded[i] for i in bins[number]] for number in rng.permutation(len(bins))]

    @property
    def _longest_control(self) -> int:
        return max(len(self.encoder.control(speaker)) for speaker in {speaker for _, speaker in self.examples})


def lay(examples: list[Example], length: int, pad_id: int) -> dict[str, np.ndarray]:
    """Examples in a row as one packed sequence (packing.pack) with what is said and following; all (T,)."""
    packed = pack([example.piece for example in examples], length, pad_id, attend_across=False)
    firsts = np.cumsum([0, *(len(example) for example in examples)])
    for name in ("said", "following"):
        packed[name] = np.full(length, NOWHERE)
        for first, example in zip(firsts, examples, strict=False):
            places = getattr(example, name)
            packed[name][first : first + len(places)] = np.where(places == NOWHERE, NOWHERE, places + first)
    return packed


def misread(
    sequence: dict[str, np.ndarray], vocabulary: Vocabulary, share: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The sequence with a share of its speech tokens replaced by random ones where they are read, not where learnt."""
    first, stop = vocabulary.first_audio_id, vocabulary.first_audio_id + vocabulary.num_codes
    ids = sequence["token_ids"]
    wrong = (ids >= first) & (ids < stop) & (rng.random(len(ids)) < share)
    return sequence | {"token_ids": np.where(wrong, rng.integers(first, stop, len(ids)), ids)}


def within(examples: list[tuple[Spoken, str]], encoder: Encoder, sequence_length: int) -> list[tuple[Spoken, str]]:
    """The examples that fit one sequence with their speaker named."""
    lengths = [len(example) for example in encoder.encode(examples, np.ones(len(examples), dtype=bool))]
    return [example for example, length in zip(examples, lengths, strict=True) if length <= sequence_length]


def validation_loader(
    examples: list[tuple[Spoken, str]], encoder: Encoder, sequence_length: int, batch_size: int
) -> DataLoader:
    """Every example once, without its speaker, in packed batches."""
    encoded = encoder.encode(examples, np.zeros(len(examples), dtype=bool))
    bins = best_fit(np.array([len(example) for example in encoded]), sequence_length)
    packed = [lay([encoded[i] for i in own], sequence_length, encoder.vocabulary.pad) for own in bins]
    batches = [collate(packed[start : start + batch_size]) for start in range(0, len(packed), batch_size)]
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
