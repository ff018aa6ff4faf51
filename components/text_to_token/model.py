"""The door to a trained text-to-token model: prompts out of texts, codes out of completions, and a judgement of them.

Format: [<|system|> speaker] <|user|> text <|begin_of_audio|> answer <|end_of_audio|>, the part in brackets optional.
The answer is the speech tokens, or each text token followed by the speech tokens that say it (`words_in_speech`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from components.shared.engine import ERROR, LENGTH, Completion, Request
from components.shared.manifest import read_json, write_json
from components.shared.speakable import speakable
from components.shared.tokens import Vocabulary, load_tokenizer
from components.text_to_token.pace import Pace, count_words, features, num_words

__all__ = [
    "FAULTS",
    "Line",
    "TextToToken",
    "all_plain_ids",
    "answer_of",
    "count_words",
    "features",
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
        text_ids = all_plain_ids(self.tokenizer, said)
        return [
            Line(said=own, language=language, text_ids=ids, fewest=fewest, most=most)
            for own, ids, (fewest, most) in zip(said, text_ids, bounds, strict=True)
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
        v = self.vocabulary
        codes, faults = [], []
        for line, completion in zip(lines, completions, strict=True):
            ids = np.array(completion.token_ids, dtype=np.int64)
            is_audio = (ids >= v.first_audio_id) & (ids < v.first_audio_id + v.num_codes)
            codes.append((ids[is_audio] - v.first_audio_id).astype(np.uint16))
            faults.append({ERROR: "refused", LENGTH: "unfinished"}.get(completion.finish_reason, ""))
            if not faults[-1] and self.words_in_speech:
                read = ids[~is_audio & (ids != v.end_of_audio)]
                faults[-1] = "" if read.tolist() == line.text_ids else "misread"
        bounds = np.array([(line.fewest, line.most) for line in lines])
        of_pace = self.pace.faults(bounds, lines[0].language, codes)
        return [(own, fault or other) for own, fault, other in zip(codes, faults, of_pace, strict=True)]

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


def prompt_of(text_ids: list[int], control_ids: list[int], vocabulary: Vocabulary) -> list[int]:
    """Ids up to and with <|begin_of_audio|>; control_ids: <|system|> and the speaker's name, or nothing."""
    return [*control_ids, vocabulary.user, *text_ids, vocabulary.begin_of_audio]


def answer_of(code_ids: Sequence[int], text_ids: Sequence[int], starts: Sequence[int]) -> list[int]:
    """Speech ids with every text id before the speech that says it; starts: of each text id, in speech tokens."""
    return [int(i) for i in np.insert(np.array(code_ids, dtype=np.int64), np.array(starts, dtype=np.int64), text_ids)]


def plain_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Ids of a text; a control token inside it is spelled out, never obeyed."""
    return all_plain_ids(tokenizer, [text])[0]


def all_plain_ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """plain_ids of many texts."""
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    return [encoded.ids for encoded in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


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
    )
