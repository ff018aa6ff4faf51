"""Phrases: spans of a few words cut from texts, as interleaving cuts them, so that text-to-token learns such pieces."""

from __future__ import annotations

import re

import numpy as np

from components.collect.config import PhraseConfig
from components.collect.documents import CORPUS as CLOSED_WORLD
from components.collect.sources import Sentence
from components.shared.contracts import Text

_PHRASE = {"en": re.compile(r"[A-Za-z][A-Za-z' ,.!?]*[A-Za-z]"), "zh": re.compile(r"[㐀-鿿][㐀-鿿，、。！？]*[㐀-鿿]")}


def cut_phrases(texts: list[Text], config: PhraseConfig, count: int, rng: np.random.Generator) -> list[Sentence]:
    """`count` spans, min_span_words to max_span_words long, one a text in random order.

    Spans with digits or other signs that voices read each in their own way are passed over.
    """
    phrases: list[Sentence] = []
    for turn in range(4):
        for i in rng.permutation(len(texts)):
            if len(phrases) == count:
                return phrases
            text = texts[i]
            words = words_of(text.text, text.language)
            length = int(rng.integers(config.min_span_words, config.max_span_words + 1))
            start = int(rng.integers(max(1, len(words) - length + 1)))
            piece = "".join(words[start : start + length]).strip().strip(",.!?，、。！？ ")
            if length <= len(words) and _PHRASE[text.language].fullmatch(piece):
                corpus = CLOSED_WORLD if text.corpus == CLOSED_WORLD else "open_domain"
                phrases.append(Sentence(text=piece, corpus=corpus, license=text.license))
        if not phrases and turn == 0:
            break
    return phrases


def words_of(text: str, language: str) -> list[str]:
    """Words with what follows them, so that they join to the text again; Chinese is cut by jieba."""
    if language != "zh":
        return re.findall(r"\S+\s*", text)
    import jieba

    jieba.setLogLevel(60)
    return list(jieba.cut(text))
