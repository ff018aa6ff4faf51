"""A small honest stand-in for speech tokens: every letter is one code, so that any 'speech' can be read back."""

from __future__ import annotations

import numpy as np

from components.shared.contracts import SpeechTokens
from components.shared.speakable import speakable

LETTERS = "abcdefghijklmnopqrstuvwxyz ',.?!"
NUM_CODES = len(LETTERS)
WORDS = {
    "name": ["anna", "bert", "carla", "dino"],
    "verb": ["sees", "likes", "paints"],
    "thing": ["a red house", "the old boat", "two dogs", "some bread"],
    "place": ["in rome", "by the sea", "at home"],
}


def say(text: str) -> list[int]:
    """Codes of a text as it is said."""
    return [LETTERS.index(c) for c in speakable(text, "en") if c in LETTERS]


def hear(codes: list[int]) -> str:
    """The text that codes spell."""
    return "".join(LETTERS[int(code)] for code in codes)


def sentences(count: int, seed: int) -> list[str]:
    """Sentences of a closed grammar of 144."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        words = [str(rng.choice(WORDS[kind])) for kind in ("name", "verb", "thing", "place")]
        made.append(" ".join(words).capitalize() + ".")
    return made


def utterance(number: int, text: str | None, **changes: object) -> SpeechTokens:
    """One row of data/tokenize/tokens."""
    row = dict(
        id=f"u{number:04d}",
        tokens=say(text or "nothing"),
        duration_s=len(text or "nothing") / 12.5,
        text=text,
        text_source="none" if text is None else "human",
        language="en",
        speaker=("ann", "bob")[number % 3 == 0],
        corpus="letters",
        license="MIT",
        split="train",
        origin="synthesized",
    )
    return SpeechTokens(**(row | changes))
