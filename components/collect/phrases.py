"""Phrases: spans of a few words cut from texts, as interleaving cuts them, so that text-to-token learns such pieces."""

from __future__ import annotations

import re

import numpy as np

from components.collect.config import PhraseConfig
from components.collect.documents import CORPUS as CLOSED_WORLD
from components.collect.sources import Sentence
from components.shared.contracts import Text
from components.shared.words import ends_sentence, words

MAX_TURNS = 4
"""Times that the texts are gone through before there are too few of them."""
_PHRASE = {"en": re.compile(r"[A-Za-z][A-Za-z' ,]*[A-Za-z]"), "zh": re.compile(r"[㐀-鿿][㐀-鿿，、]*[㐀-鿿]")}


def cut_phrases(texts: list[Text], config: PhraseConfig, count: int, rng: np.random.Generator) -> list[Sentence]:
    """`count` spans, min_span_words to max_span_words long and each within one sentence, one a text in random order.

    Spans with digits or other signs that voices read each in their own way are passed over. There are fewer when
    MAX_TURNS through the texts do not give as many.
    """
    phrases: list[Sentence] = []
    for _ in range(MAX_TURNS):
        for i in rng.permutation(len(texts)):
            if len(phrases) == count:
                return phrases
            text = texts[i]
            span = _span(text.text, config, rng)
            if _PHRASE[text.language].fullmatch(span):
                corpus = CLOSED_WORLD if text.corpus == CLOSED_WORLD else "open_domain"
                phrases.append(Sentence(text=span, corpus=corpus, license=text.license))
    return phrases


def _span(text: str, config: PhraseConfig, rng: np.random.Generator) -> str:
    """A span of random place and length, without the marks around it; empty where its sentence is too short."""
    places = words(text)
    length = int(rng.integers(config.min_span_words, config.max_span_words + 1))
    first = int(rng.integers(max(1, len(places) - length + 1)))
    span = places[first : first + length]
    if len(span) < length or any(ends_sentence(text[start:stop]) for start, stop in span[:-1]):
        return ""
    return text[span[0][0] : span[-1][1]].strip(" ,.!?;:，、。！？；：")
