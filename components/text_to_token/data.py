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
from components.text_to_token.model import plain_ids, prompt_ids


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
    """Pairs as token ids: everything but the choice whether to name the speaker."""

    def __init__(
        self, pairs: list[Pair], tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary, max_length: int
    ) -> None:
        """Pairs longer than max_length tokens with their speaker are left out; `num_too_long` says how many."""
        self.vocabulary = vocabulary
        self.prompts: list[list[int]] = []
        self.controls: list[list[int]] = []
        self.speech: list[list[int]] = []
        controls = {name: plain_ids(tokenizer, name) for name in {pair.speaker for pair in pairs}}
        self.num_too_long = 0
        for pair in pairs:
            prompt = prompt_ids(tokenizer, vocabulary, pair.said, None)
            control = [vocabulary.system, *controls[pair.speaker]]
            speech = [*vocabulary.to_ids(pair.codes.tolist()), vocabulary.end_of_audio]
            if len(control) + len(prompt) + len(speech) > max_length:
                self.num_too_long += 1
                continue
            self.prompts.append(prompt)
            self.controls.append(control)
            self.speech.append(speech)

    def __len__(self) -> int:
        return len(self.prompts)

    def piece(self, number: int, name_speaker: bool) -> Piece:
        """One example for packing; only speech and its end are learnt."""
        prompt = [*(self.controls[number] if name_speaker else []), *self.prompts[number]]
        ids = np.array([*prompt, *self.speech[number]], dtype=np.int64)
        return Piece(ids, source=0, learn=np.arange(len(ids)) >= len(prompt))

    def lengths(self, name_speaker: np.ndarray) -> np.ndarray:
        """Tokens of every example; name_speaker: (examples,) bool."""
        extra = [len(control) for control in self.controls]
        bare = [len(p) + len(s) for p, s in zip(self.prompts, self.speech, strict=True)]
        return np.array(bare) + np.where(name_speaker, extra, 0)


class PairLoader:
    """Packed batches, epoch after epoch; the whole state is the number of the next batch."""

    def __init__(
        self,
        examples: Examples,
        *,
        sequence_length: int,
        batch_size: int,
        num_batches: int,
        speaker_share: float,
        seed: int,
    ) -> None:
        if not len(examples):
            raise ValueError("text_to_token: no training pair with human text fits text_to_token.sequence_length")
        self.examples, self.sequence_length, self.batch_size = examples, sequence_length, batch_size
        self.num_batches, self.speaker_share, self.seed = num_batches, speaker_share, seed
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
        epoch = 0
        while True:
            rng = np.random.default_rng([self.seed, epoch])
            named = rng.random(len(self.examples)) < self.speaker_share
            order = rng.permutation(len(self.examples))
            bins = best_fit(self.examples.lengths(named)[order], self.sequence_length)
            for number in rng.permutation(len(bins))[skip:]:
                members = order[bins[number]]
                pieces = [self.examples.piece(int(i), bool(named[i])) for i in members]
                yield pack(pieces, self.sequence_length, self.examples.vocabulary.pad, attend_across=False)
            skip = max(0, skip - len(bins))
            epoch += 1


def validation_loader(examples: Examples, sequence_length: int, batch_size: int) -> DataLoader:
    """Every example once, without its speaker, in packed batches."""
    bins = best_fit(examples.lengths(np.zeros(len(examples), dtype=bool)), sequence_length)
    pad = examples.vocabulary.pad
    packed = [pack([examples.piece(i, False) for i in members], sequence_length, pad, False) for members in bins]
    batches = [collate(packed[start : start + batch_size]) for start in range(0, len(packed), batch_size)]
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
