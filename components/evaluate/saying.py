"""The text-to-token model with an ear beside it: texts become speech tokens, and tokens text again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from components.evaluate.config import EvaluateConfig
from components.evaluate.evaluation import error_score, kept
from components.shared.contracts import ItemScore
from components.shared.engine import Engine
from components.shared.manifest import hash_of
from components.shared.speakable import speakable
from components.shared.tracking import Tracker
from components.shared.words import cut_at_sentences

if TYPE_CHECKING:
    from components.speech_tokenizer.model import SpeechTokenizer
    from components.text_to_token.model import TextToToken


@dataclass(frozen=True, kw_only=True)
class Saying:
    """A text to be said in somebody's voice."""

    id: str
    text: str
    language: str
    speaker: str | None
    """Who is asked for; None: nobody is named."""
    in_pieces: bool = False
    """Whether its sentences are said one by one."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What was made of a text, and what the speech tokenizer hears in it."""

    saying: Saying
    codes: list[int]
    heard: str


@dataclass(frozen=True, kw_only=True)
class Real:
    """Real speech of a text: its tokens and what the speech tokenizer hears in them."""

    codes: Sequence[int]
    heard: str


@dataclass(frozen=True, kw_only=True)
class Talker:
    """Model, engine and ear."""

    model: TextToToken
    engine: Engine
    ear: SpeechTokenizer
    config: EvaluateConfig
    tracker: Tracker

    def sayable(self, text: str, language: str) -> bool:
        """Whether a text has a word in a language that the model speaks."""
        return language in self.model.main_speakers and bool(speakable(text, language))

    def say(self, sayings: Sequence[Saying], what: str) -> list[Said]:
        """The tokens of each text and their transcripts; what: shown beside the progress."""
        pieces = [(number, piece) for number, saying in enumerate(sayings) for piece in self._pieces(saying)]
        requests = [
            self.model.request(
                f"{place}",
                piece,
                sayings[number].language,
                speaker=sayings[number].speaker,
                seed=int(hash_of([self.config.seed, sayings[number].id, sayings[number].speaker, piece])[:8], 16),
                temperature=self.config.temperature,
            )
            for place, (number, piece) in enumerate(pieces)
        ]
        made = self.engine.generate_all(requests, lambda done, total: self.tracker.progress(done, total, what))
        codes: list[list[int]] = [[] for _ in sayings]
        for (number, _), completion in zip(pieces, made, strict=True):
            codes[number] += self.model.codes(completion.token_ids)
        heard = self.transcribe(codes, [saying.language for saying in sayings])
        return [Said(saying=s, codes=c, heard=h) for s, c, h in zip(sayings, codes, heard, strict=True)]

    def _pieces(self, saying: Saying) -> list[str]:
        if not saying.in_pieces:
            return [saying.text]
        return [piece for piece in cut_at_sentences(saying.text) if speakable(piece, saying.language)]

    def transcribe(self, codes: Sequence[Sequence[int]], languages: list[str]) -> list[str]:
        """What the speech tokenizer hears in codes (tokens,)."""
        return self.ear.transcribe([torch.tensor(row, dtype=torch.int64) for row in codes], languages)

    def hear(self, codes: Sequence[Sequence[int]], languages: list[str]) -> list[Real]:
        """Real speech with its transcripts."""
        return [Real(codes=c, heard=h) for c, h in zip(codes, self.transcribe(codes, languages), strict=True)]


def scores_beside_real(said: Sequence[Said], real: Sequence[Real], group: str) -> list[ItemScore]:
    """Errors beside those of real speech of the same texts, and number of tokens beside its own."""
    errors = [
        error_score(
            one.saying,
            task="generation",
            groups=[group],
            reference=one.saying.text,
            answer=one.heard,
            beside=beside.heard,
        )
        for one, beside in zip(said, real, strict=True)
    ]
    lengths = [
        ItemScore(
            id=one.saying.id,
            task="generation",
            mode="length",
            groups=[group],
            language=one.saying.language,
            cluster=one.saying.id,
            score=float(len(one.codes)),
            baseline=float(len(beside.codes)),
            weight=float(len(beside.codes)),
            reference=one.saying.text,
            answer=one.heard,
        )
        for one, beside in zip(said, real, strict=True)
    ]
    return kept(errors) + lengths


def scores_alone(said: Sequence[Said], group: str) -> list[ItemScore]:
    """Errors against the spoken form; there is no real speech beside them."""
    return kept(
        [
            error_score(
                one.saying,
                task="generation",
                groups=[group],
                reference=speakable(one.saying.text, one.saying.language),
                answer=one.heard,
                beside=None,
            )
            for one in said
        ]
    )
