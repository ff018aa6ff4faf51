"""The door to a trained text-to-token model: prompts out of texts, codes out of completions, and a judgement of them.

Format: [<|system|> speaker] <|user|> text <|begin_of_audio|> answer <|end_of_audio|>, the part in brackets optional.
The answer is the speech tokens, or each text token followed by the speech tokens that say it (`words_in_speech`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from components.shared.engine import ERROR, LENGTH, Completion, Request
from components.shared.manifest import read_json, write_json
from components.shared.speakable import speakable
from components.shared.tokens import Vocabulary, load_tokenizer
from components.text_to_token.encoding import WordIds, all_plain_ids, plain_ids
from components.text_to_token.pace import Pace, num_words

__all__ = [
    "FAULTS",
    "Line",
    "TextToToken",
    "all_plain_ids",
    "answer_of",
    "load",
    "num_words",
    "plain_ids",
    "prompt_of",
    "save_record",
]
RECORD = "speech.json"
FAULTS = ("refused", "unfinished", "misread", "too_short", "too_long", "loop")
"""Why a completion cannot be speech of its text (TextToToken.fault)."""
NUM_MARKS = 3
"""Tokens of an example beside speaker, text and codes: <|user|>, <|begin_of_audio|> and <|end_of_audio|>."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A text made ready to be said."""

    said: str
    """Its speakable form."""
    language: str
    text_ids: list[int]
    fewest: int
    """Speech tokens that it takes at least."""
    most: int
    """And at most."""


@dataclass(frozen=True, kw_only=True)
class TextToToken:
    """A text-to-token model's folder with everything but its weights."""

    folder: Path
    tokenizer: PreTrainedTokenizerFast
    vocabulary: Vocabulary
    tokens_per_s: float
    words_in_speech: bool
    """Whether the model repeats each text token before the speech tokens that say it."""
    speakers: tuple[str, ...]
    """Speakers that a request may name."""
    main_speakers: dict[str, str]
    """Of each language the speaker with most of the training pairs: the one that was learnt best."""
    pace: Pace
    words: WordIds
    """Ids of the words of speakable texts."""
    controls: dict[str, list[int]] = field(default_factory=dict)
    """Ids that name a speaker, as far as they were asked for."""

    def can_say(self, text: str, language: str) -> bool:
        """Whether there is something to say in a language and in scripts that the model has learnt."""
        return self.pace.can_say(speakable(text, language), language)

    def lines(self, said: Sequence[str], language: str) -> list[Line]:
        """Speakable texts of one language made ready to be said.

        Raises ValueError when one of them is empty or the language was not in the training data.
        """
        if not said:
            return []
        if not all(said):
            raise ValueError("text_to_token: nothing to say in an empty text; wanted a word or a number")
        bounds = self.pace.bounds(said, language).tolist()
        return [
            Line(said=own, language=language, text_ids=ids, fewest=fewest, most=most)
            for own, ids, (fewest, most) in zip(said, self.words.encode(said), bounds, strict=True)
        ]

    def request_of(
        self, key: str, line: Line, speaker: str | None, seed: int, temperature: float, top_p: float
    ) -> Request:
        """A request to say a line; its completion goes to `judge`.

        speaker: of the training data, None to leave the control out; ValueError for any other.
        """
        v = self.vocabulary
        most = line.most + 1
        return Request(
            key=key,
            token_ids=prompt_of(line.text_ids, self._control(speaker), v),
            max_new_tokens=most + len(line.text_ids) if self.words_in_speech else most,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop_ids=(v.end_of_audio,),
            allowed_range=None if self.words_in_speech else (v.first_audio_id, v.first_audio_id + v.num_codes),
        )

    def judge(self, lines: Sequence[Line], completions: Sequence[Completion]) -> list[tuple[np.ndarray, str]]:
        """(speech codes (tokens,) uint16, which of FAULTS they have or '') of each line's completion.

        The lines are of one language. Misread is an answer that repeats other words than the text's.
        """
        if not lines:
            return []
        ids, owner = _flat([completion.token_ids for completion in completions])
        v, count = self.vocabulary, len(lines)
        is_audio = (ids >= v.first_audio_id) & (ids < v.first_audio_id + v.num_codes)
        edges = [0, *np.cumsum(np.bincount(owner[is_audio], minlength=count)).tolist()]
        of_all = (ids[is_audio] - v.first_audio_id).astype(np.uint16)
        codes = [of_all[start:stop] for start, stop in pairwise(edges)]
        bounds = np.array([(line.fewest, line.most) for line in lines])
        faults = self.pace.faults(bounds, lines[0].language, codes)
        if self.words_in_speech:
            is_text = ~is_audio & (ids != v.end_of_audio)
            read = _same(_flat([line.text_ids for line in lines]), (ids[is_text], owner[is_text]), count)
            faults = [fault if right else "misread" for fault, right in zip(faults, read.tolist(), strict=True)]
        ends = {ERROR: "refused", LENGTH: "unfinished"}
        return [
            (own, ends.get(completion.finish_reason, fault))
            for own, completion, fault in zip(codes, completions, faults, strict=True)
        ]

    def request(
        self,
        key: str,
        text: str,
        language: str,
        speaker: str | None = None,
        seed: int = 0,
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> Request:
        """A request to say a text; its completion's ids go to `codes`.

        Raises ValueError when the text has nothing to say, or language or speaker were not in the training data.
        """
        said = speakable(text, language)
        if not said:
            raise ValueError(f"text_to_token: nothing to say in {text[:40]!r}; wanted a word or a number")
        (line,) = self.lines([said], language)
        return self.request_of(key, line, speaker, seed, temperature, top_p)

    def codes(self, token_ids: Sequence[int]) -> list[int]:
        """Speech codes of a completion's ids."""
        return self.vocabulary.to_codes(token_ids)

    def fault(self, text: str, language: str, completion: Completion) -> str:
        """Which of FAULTS a completion has, or '' (see `judge`)."""
        ((_, fault),) = self.judge(self.lines([speakable(text, language)], language), [completion])
        return fault

    def _control(self, speaker: str | None) -> list[int]:
        if speaker is None:
            return []
        if speaker not in self.speakers:
            known = ", ".join(self.speakers[:8])
            raise ValueError(f"text_to_token: got speaker {speaker!r}, wanted one of {known} or none")
        if speaker not in self.controls:
            self.controls[speaker] = [self.vocabulary.system, *plain_ids(self.tokenizer, speaker)]
        return self.controls[speaker]


def _flat(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """(all numbers in a row, the row of each), both (numbers,) int64."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    numbers = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))
    return numbers, np.repeat(np.arange(len(rows)), lengths)


def _same(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], count: int) -> np.ndarray:
    """Whether row by row two flat lists hold the same: (count,) bool; see _flat."""
    lengths = [np.bincount(owner, minlength=count) for _, owner in (one, other)]
    equal = lengths[0] == lengths[1]
    (mine, owner), (theirs, _) = ((ids[equal[of]], of[equal[of]]) for ids, of in (one, other))
    equal[owner[mine != theirs]] = False
    return equal


def prompt_of(text_ids: list[int], control_ids: list[int], vocabulary: Vocabulary) -> list[int]:
    """Ids up to and with <|begin_of_audio|>; control_ids: <|system|> and the speaker's name, or nothing."""
    return [*control_ids, vocabulary.user, *text_ids, vocabulary.begin_of_audio]


def answer_of(code_ids: Sequence[int], text_ids: Sequence[int], starts: Sequence[int]) -> list[int]:
    """Speech ids with every text id before the speech that says it; starts: of each text id, in speech tokens."""
    return [int(i) for i in np.insert(np.array(code_ids, dtype=np.int64), np.array(starts, dtype=np.int64), text_ids)]


def save_record(
    folder: Path, vocabulary: Vocabulary, tokens_per_s: float, main_speakers: dict[str, str], **more: Any
) -> None:
    """Write speech.json, what `load` needs beside model and tokenizer; more: words_in_speech, speakers and pace."""
    record = {"num_codes": vocabulary.num_codes, "tokens_per_s": tokens_per_s, "main_speakers": main_speakers, **more}
    write_json(folder / RECORD, record)


def load(path: str | Path) -> TextToToken:
    """Open a folder that the stage wrote. Raises ValueError when it is not one."""
    folder = Path(path)
    if not (folder / RECORD).is_file():
        raise ValueError(f"{folder}: no {RECORD}; wanted the folder of a text-to-token model")
    record = read_json(folder / RECORD)
    tokenizer = load_tokenizer(folder)
    return TextToToken(
        folder=folder,
        tokenizer=tokenizer,
        vocabulary=Vocabulary.of(tokenizer, record["num_codes"]),
        tokens_per_s=record["tokens_per_s"],
        words_in_speech=record["words_in_speech"],
        speakers=tuple(record["speakers"]),
        main_speakers=record["main_speakers"],
        pace=Pace.from_json(record["pace"]),
        words=WordIds(tokenizer),
    )
