"""The door to a trained text-to-token model: prompts out of texts, codes out of completions, and a judgement of them.

Format: [<|system|> speaker] <|user|> text <|begin_of_audio|> answer <|end_of_audio|>, the part in brackets optional.
The answer is the speech tokens, or each text token followed by the speech tokens that say it (`words_in_speech`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from components.shared.engine import ERROR, LENGTH, Completion, Request
from components.shared.manifest import read_json, write_json
from components.shared.speakable import speakable
from components.shared.tokens import Vocabulary, load_tokenizer
from components.text_to_token.pace import Pace, count_words

__all__ = ["FAULTS", "TextToToken", "answer_of", "count_words", "load", "plain_ids", "prompt_of", "save_record"]
RECORD = "speech.json"
FAULTS = ("refused", "unfinished", "misread", "too_short", "too_long", "loop")
"""Why a completion cannot be speech of its text (TextToToken.fault)."""
NUM_MARKS = 3
"""Tokens of an example beside speaker, text and codes: <|user|>, <|begin_of_audio|> and <|end_of_audio|>."""


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

    def can_say(self, text: str, language: str) -> bool:
        """Whether there is something to say in a language and in scripts that the model has learnt."""
        return self.pace.can_say(speakable(text, language), language)

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
        if speaker is not None and speaker not in self.speakers:
            known = ", ".join(self.speakers[:8])
            raise ValueError(f"text_to_token: got speaker {speaker!r}, wanted one of {known} or none")
        v = self.vocabulary
        control = [] if speaker is None else [v.system, *plain_ids(self.tokenizer, speaker)]
        text_ids = plain_ids(self.tokenizer, said)
        most = self.pace.bounds(said, language)[1] + 1
        return Request(
            key=key,
            token_ids=prompt_of(text_ids, control, v),
            max_new_tokens=most + len(text_ids) if self.words_in_speech else most,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop_ids=(v.end_of_audio,),
            allowed_range=None if self.words_in_speech else (v.first_audio_id, v.first_audio_id + v.num_codes),
        )

    def codes(self, token_ids: Sequence[int]) -> list[int]:
        """Speech codes of a completion's ids."""
        return self.vocabulary.to_codes(token_ids)

    def fault(self, text: str, language: str, completion: Completion) -> str:
        """Which of FAULTS a completion has, or ''. Misread is an answer that repeats other words than the text's."""
        if completion.finish_reason == ERROR:
            return "refused"
        if completion.finish_reason == LENGTH:
            return "unfinished"
        said = speakable(text, language)
        if self.words_in_speech and self._read(completion.token_ids) != plain_ids(self.tokenizer, said):
            return "misread"
        return self.pace.fault(said, language, self.codes(completion.token_ids))

    def _read(self, token_ids: Sequence[int]) -> list[int]:
        """What an answer repeats of the text."""
        v = self.vocabulary
        return [i for i in token_ids if not v.is_audio(i) and i != v.end_of_audio]


def prompt_of(text_ids: list[int], control_ids: list[int], vocabulary: Vocabulary) -> list[int]:
    """Ids up to and with <|begin_of_audio|>; control_ids: <|system|> and the speaker's name, or nothing."""
    return [*control_ids, vocabulary.user, *text_ids, vocabulary.begin_of_audio]


def answer_of(code_ids: Sequence[int], text_ids: Sequence[int], starts: Sequence[int]) -> list[int]:
    """Speech ids with every text id before the speech that says it; starts: of each text id, in speech tokens."""
    return [int(i) for i in np.insert(np.array(code_ids, dtype=np.int64), np.array(starts, dtype=np.int64), text_ids)]


def plain_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Ids of a text; a control token inside it is spelled out, never obeyed."""
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    return backend.encode(text, add_special_tokens=False).ids


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
