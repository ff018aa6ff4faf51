"""Every sequence of tokens that the language models see, made in one place; docs/prompts.md shows them with samples.

Text is encoded so that a corpus can never smuggle in a control token: `<|user|>` inside a document is plain characters.
The chat format is that of the published model; the formats of pre-training were never published and are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from components.shared.contracts import Segment
from components.shared.tokens import Vocabulary

TEXT_RUN, AUDIO_RUN = 13, 26
"""Tokens of text and of audio that alternate in an answer (published model)."""
CHAT_MODE = "streaming_transcription\n"
_WORDS = {
    "en": {"asr": "Transcribe:", "tts": "Say:", "space": " ", "stop": "."},
    "zh": {"asr": "转写：", "tts": "朗读：", "space": "", "stop": "。"},
}

Part = str | Sequence[int] | np.ndarray
"""A stretch of a document: written text, or the codes of speech, any integer type."""


class OutsideVocabularyError(ValueError):
    """A speech code or token id that the vocabulary does not hold."""

    def __init__(self, line: str, place: int) -> None:
        """place: number of the document in its batch."""
        super().__init__(line)
        self.place = place


@dataclass(frozen=True, kw_only=True)
class ChatTurn:
    """One turn as the chat format needs it."""

    role: str
    """system | user | assistant"""
    text: str
    codes: Sequence[int]
    """Speech codes: a user's turn with codes is spoken, one without is written; an assistant has text and codes."""


@dataclass(frozen=True)
class Formats:
    """Documents and prompts as token ids, for one tokenizer with speech tokens."""

    tokenizer: PreTrainedTokenizerFast
    vocabulary: Vocabulary

    def text(self, text: str) -> list[int]:
        """Token ids of plain text; control tokens inside it are spelled out, never obeyed."""
        backend = self.tokenizer.backend_tokenizer
        backend.encode_special_tokens = True
        return backend.encode(text, add_special_tokens=False).ids

    def audio(self, codes: Sequence[int] | np.ndarray) -> list[int]:
        """<|begin_of_audio|> codes <|end_of_audio|>."""
        v = self.vocabulary
        return [v.begin_of_audio, *v.to_ids(codes), v.end_of_audio]

    def document(self, parts: Sequence[Part]) -> list[int]:
        """Parts one after the other, then the end of the document."""
        ids: list[int] = []
        for part in parts:
            ids += self.text(part) if isinstance(part, str) else self.audio(part)
        return [*ids, self.vocabulary.end_of_text]

    def documents(self, batch: Sequence[Sequence[Part]]) -> tuple[np.ndarray, np.ndarray]:
        """Many documents at once, each as `document` makes it.

        Returns their token ids in a row, (tokens,), uint32, and the tokens of each, (documents,), int64.
        Raises OutsideVocabularyError, with the document's place in the batch.
        """
        backend = self.tokenizer.backend_tokenizer
        backend.encode_special_tokens = True
        backend.no_padding()  # a base LM's tokenizer.json may ask for either
        backend.no_truncation()
        texts = [part for parts in batch for part in parts if isinstance(part, str)]
        encoded = iter(backend.encode_batch_fast(texts, add_special_tokens=False))
        v = self.vocabulary
        begin, end, stop = (np.array([i], np.uint32) for i in (v.begin_of_audio, v.end_of_audio, v.end_of_text))
        pieces: list[np.ndarray] = []
        lengths = np.ones(len(batch), np.int64)
        for place, parts in enumerate(batch):
            for part in parts:
                if isinstance(part, str):
                    pieces.append(np.array(next(encoded).ids, np.uint32))
                    lengths[place] += len(pieces[-1])
                else:
                    pieces += [begin, self._audio_ids(part, place), end]
                    lengths[place] += len(part) + 2
            pieces.append(stop)
        ids = np.concatenate(pieces) if pieces else np.empty(0, np.uint32)
        if len(ids) and int(ids.max()) >= v.size:
            first = int(np.argmax(ids >= v.size))
            place = int(np.searchsorted(np.cumsum(lengths), first, side="right"))
            raise OutsideVocabularyError(f"token id {ids[first]} is outside the vocabulary 0..{v.size - 1}", place)
        return ids, lengths

    def _audio_ids(self, codes: Sequence[int] | np.ndarray, place: int) -> np.ndarray:
        values = np.asarray(codes, np.int64)
        last = self.vocabulary.num_codes - 1
        if values.max(initial=0) > last or values.min(initial=0) < 0:
            bad = values[(values > last) | (values < 0)][0]
            raise OutsideVocabularyError(f"speech code {bad} is outside 0..{last}", place)
        return (values + self.vocabulary.first_audio_id).astype(np.uint32)

    def text_document(self, text: str) -> list[int]:
        """A text and the end of the document."""
        return self.document([text])

    def speech_document(self, codes: Sequence[int]) -> list[int]:
        """Speech without text: what the model sees of unsupervised audio."""
        return self.document([codes])

    def asr_document(self, codes: Sequence[int], text: str, language: str) -> list[int]:
        """Speech, then its text: `Transcribe:` audio text."""
        return self.document(asr_parts(codes, text, language))

    def tts_document(self, codes: Sequence[int], text: str, language: str) -> list[int]:
        """Text, then the speech that says it: `Say:` text audio."""
        return self.document(tts_parts(codes, text, language))

    def interleaved_document(self, segments: Sequence[Segment]) -> list[int]:
        """A document whose speech spans stand in the place of their text (paper, section 2.3)."""
        return self.document([s.tokens if s.modality == "speech" else s.text for s in segments])

    def context(self, said: str | Sequence[int]) -> list[int]:
        """What is scored from: a question or the beginning of a story, written or spoken, in no other words."""
        return self.text(said) if isinstance(said, str) else self.audio(said)

    def continuation(self, said: str | Sequence[int], language: str) -> list[int]:
        """The answer or the ending that follows a context, written (with the space before it) or spoken."""
        return self.text(_words(language)["space"] + said) if isinstance(said, str) else self.audio(said)

    def chat(self, turns: Sequence[ChatTurn]) -> tuple[list[int], list[bool]]:
        """A whole chat and which of its tokens are learnt: the assistant's answers and the <|user|> that ends each.

        Raises ValueError for a role that is not system, user or assistant, or an order that the format cannot hold.
        """
        ids: list[int] = []
        learn: list[bool] = []
        for index, turn in enumerate(turns):
            before = turns[index - 1].role if index else ""
            if turn.role == "assistant":
                if before != "user":
                    raise ValueError(f"chat: turn {index}: an assistant's turn after {before!r}, wanted after 'user'")
                answer = self.answer(turn.text, turn.codes)
                ids += [*self.chat_opening(), *answer, self.vocabulary.user]
                learn += [False] * (len(ids) - len(learn) - len(answer) - 1) + [True] * (len(answer) + 1)
                continue
            asked = self._asked(turn, index, before)
            if before == "assistant":
                asked = asked[1:]  # the <|user|> that ended the answer opens this turn
            ids += asked
            learn += [False] * len(asked)
        return ids, learn

    def chat_prompt(self, turns: Sequence[ChatTurn]) -> list[int]:
        """The chat up to the assistant's answer. Raises ValueError unless the last turn is the user's."""
        if not turns or turns[-1].role != "user":
            raise ValueError(f"chat: got a last turn of {turns[-1].role if turns else 'nobody'!r}, wanted 'user'")
        return [*self.chat(turns)[0], *self.chat_opening()]

    def chat_opening(self) -> list[int]:
        """<|assistant|>streaming_transcription and a line break: what stands before an answer."""
        return [self.vocabulary.assistant, *self.text(CHAT_MODE)]

    def _asked(self, turn: ChatTurn, index: int, before: str) -> list[int]:
        v = self.vocabulary
        if turn.role == "system" and index == 0:
            return [v.system, *self.text("\n" + turn.text)]
        if turn.role == "user" and before != "user":
            said = [*self.text("\n"), *self.audio(turn.codes)] if turn.codes else self.text("\n" + turn.text)
            return [v.user, *said]
        raise ValueError(
            f"chat: turn {index}: got role {turn.role!r} after {before or 'nothing'!r}, wanted user turns "
            "that alternate with assistant turns, and a system turn only at the start"
        )

    def answer(self, text: str, codes: Sequence[int]) -> list[int]:
        """13 text tokens, 26 audio tokens, in turn; what is left of either follows when the other has ended."""
        return alternate(self.text(text), self.vocabulary.to_ids(codes))

    def show(self, ids: Sequence[int]) -> str:
        """Token ids as a person reads them, control and speech tokens spelled out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def asr_parts(codes: Sequence[int] | np.ndarray, text: str, language: str) -> list[Part]:
    """A spoken sentence, then what was said. Raises ValueError for a language without words for it."""
    words = _words(language)
    return [words["asr"], codes, words["space"] + text]


def tts_parts(codes: Sequence[int] | np.ndarray, text: str, language: str) -> list[Part]:
    """A sentence to say, then its speech. Raises ValueError for a language without words for it."""
    words = _words(language)
    return [words["tts"] + words["space"] + text, codes]


def alternate(text_ids: Sequence[int], audio_ids: Sequence[int]) -> list[int]:
    """TEXT_RUN text tokens and AUDIO_RUN audio tokens in turn until both have ended."""
    ids: list[int] = []
    text, audio = list(text_ids), list(audio_ids)
    while text or audio:
        ids += text[:TEXT_RUN] + audio[:AUDIO_RUN]
        del text[:TEXT_RUN], audio[:AUDIO_RUN]
    return ids


def short_answer(answer: str, language: str) -> str:
    """An answer as a sentence of its own, as the quizzes of the closed world write it: "Dog." """
    return answer[:1].upper() + answer[1:] + _words(language)["stop"]


def _words(language: str) -> dict[str, str]:
    if language not in _WORDS:
        raise ValueError(f"language: got {language!r}, wanted one of {', '.join(_WORDS)}")
    return _WORDS[language]
