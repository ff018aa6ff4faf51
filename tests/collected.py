"""Texts to collect: words to make sentences of, a file of dialogues, and how texts are split and cut."""

from __future__ import annotations

import json
from pathlib import Path

from components.collect.config import PhraseConfig, SplitConfig, TextCorpusConfig, TextKind

SPLIT = SplitConfig(ngram=5, validation_share=0.2, test_share=0.3, stock_uses=4, min_speakers=10)
PHRASES = PhraseConfig(min_span_words=2, max_span_words=6, min_sentence_words=5, max_sentence_words=15, min_word_uses=1)
NOUNS = [
    "garden",
    "river",
    "window",
    "letter",
    "morning",
    "winter",
    "doctor",
    "market",
    "island",
    "summer",
    "bridge",
    "engine",
    "forest",
    "kitchen",
]
VERBS = [
    "watched",
    "painted",
    "carried",
    "opened",
    "followed",
    "noticed",
    "crossed",
    "repaired",
    "described",
    "remembered",
]


def text_corpus(path: str, kind: TextKind = TextKind.chitchat, language: str = "en") -> TextCorpusConfig:
    return TextCorpusConfig(
        kind=kind, path=path, language=language, license="CC0-1.0", max_units=0, skip=[], spoken=True
    )


def write_dialogues(path: Path, texts: list[str]) -> None:
    """Texts as a file of dialogues, a message a line."""
    dialogues = {
        str(number): {"messages": [[{"text": line} for line in text.split("\n")]]} for number, text in enumerate(texts)
    }
    path.write_text(json.dumps(dialogues))
