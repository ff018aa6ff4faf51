"""Gives the turns of written dialogues their speech tokens: looked up where an utterance says them, else generated."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from components.dialogues.config import DialoguesConfig
from components.dialogues.exchanges import Draft
from components.shared.contracts import Dialogue, SpeechTokens, Turn
from components.shared.engine import make_engine
from components.shared.tracking import Progress
from components.text_to_token.model import TextToToken

GENERATED = "text_to_token"


@dataclass(frozen=True)
class Voice:
    """The speech tokens of one text and where they come from."""

    tokens: list[int]
    origin: str


@dataclass
class Voices:
    """Speech tokens by (text, language)."""

    known: dict[tuple[str, str], list[Voice]]

    @classmethod
    def of(cls, rows: Iterable[SpeechTokens]) -> Voices:
        """What the training utterances say."""
        known: dict[tuple[str, str], list[Voice]] = {}
        for row in rows:
            if row.split == "train" and row.text and row.tokens:
                known.setdefault((row.text, row.language), []).append(Voice(list(row.tokens), row.origin))
        return cls(known)

    def pick(self, text: str, language: str, key: str) -> Voice | None:
        """One of the utterances that say the text, chosen by key; None when there is none."""
        found = self.known.get((text, language))
        return found[seed_of(key) % len(found)] if found else None


def say_missing(
    drafts: list[Draft], voices: Voices, model: TextToToken, config: DialoguesConfig, progress: Progress
) -> tuple[int, dict[tuple[str, str], str]]:
    """Add what no utterance says to `voices`, generated once a text; returns (tokens made, what could not be said).

    The second is (text, language) -> why; progress: shows the texts as they are said.
    """
    texts = dict.fromkeys(
        (text, draft.language) for draft in drafts for exchange in draft.exchanges for text in exchange.texts
    )
    wanted = [pair for pair in texts if pair not in voices.known]
    faults = {pair: "language" for pair in wanted if not model.can_say(*pair)}
    sayable = [pair for pair in wanted if pair not in faults]
    if not sayable:
        return 0, faults
    engine = make_engine(replace(config.engine, model=str(model.folder)))
    requests = [
        model.request(
            str(number),
            text,
            language,
            model.main_speakers[language],
            seed_of(f"{config.seed} {language} {text}"),
            config.temperature,
        )
        for number, (text, language) in enumerate(sayable)
    ]
    made = 0
    for pair, completion in zip(sayable, engine.generate_all(requests, progress), strict=True):
        fault = model.fault(*pair, completion)
        codes = model.codes(completion.token_ids)
        made += len(codes)
        if fault and not (config.keep_faulty and codes):
            faults[pair] = fault
        else:
            voices.known[pair] = [Voice(codes, GENERATED)]
    return made, faults


def voice(draft: Draft, voices: Voices, faults: dict[tuple[str, str], str], dropped: Counter[str]) -> Dialogue | None:
    """The spoken dialogue, or None when one of its turns cannot be said (counted under the reason)."""
    turns = []
    for number, exchange in enumerate(draft.exchanges):
        for role, text in zip(("user", "assistant"), exchange.texts, strict=True):
            found = voices.pick(text, draft.language, f"{draft.id} {number} {role}")
            if found is None:
                dropped[f"dropped_{faults.get((text, draft.language), 'refused')}"] += 1
                return None
            turns.append(Turn(role=role, text=text, tokens=found.tokens, origin=found.origin))
    return Dialogue(id=draft.id, language=draft.language, turns=turns, fact=draft.fact, split="train")


def seed_of(key: str) -> int:
    """A seed that depends on the key alone, 0..2**63-1."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) >> 1
