"""What of a document is said: spans of words or of sentences, cut into the pieces that are asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from components.shared.contracts import Text
from components.shared.speakable import speakable
from components.shared.words import sentence_ends, word_edges
from components.synthesize.config import SpanUnit, SynthesizeConfig
from components.synthesize.interleave import plan_spans
from components.synthesize.seeds import seed_of


@dataclass(slots=True)
class Piece:
    """A part of a span that is said at once, and what came of it."""

    key: str
    text: str
    said: str
    """Speakable form of the text."""
    codes: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint16))
    fault: str = ""


@dataclass(slots=True)
class Span:
    """Characters start..stop of a document, said in pieces."""

    start: int
    stop: int
    num_words: int
    pieces: list[Piece]
    fault: str = ""
    """Why the span stays text, or an empty string."""


@dataclass(slots=True)
class Plan:
    """A document and what of it is to be said."""

    document: Text
    num_words: int
    spans: list[Span]


def plan(document: Text, config: SynthesizeConfig) -> Plan:
    """Draw the spans of a document, the same ones whatever else is said, and cut them into pieces.

    A span with nothing to say in it, such as a row of dashes, is left out.
    """
    text = document.text
    edges = word_edges(text)
    num_words = max(0, len(edges) - 1)
    places = np.arange(num_words + 1)
    if config.span_unit is SpanUnit.sentence and num_words:
        places = np.array([0, *sentence_ends(text, edges.tolist()), num_words])
    rng = np.random.default_rng(seed_of(config.seed, document.id))
    spans = []
    for first, last in plan_spans(len(places) - 1, config.mean_span, config.ratio, rng):
        begin, end = int(places[first]), int(places[last])
        inner = sentence_ends(text, edges[begin : end + 1].tolist()) if config.cut_at_sentences else []
        start = int(edges[begin])
        pieces: list[Piece] = []
        for left, right in pairwise([begin, *(begin + number for number in inner), end]):
            own = text[edges[left] : edges[right]]
            if said := speakable(own, document.language):
                pieces.append(Piece(f"{document.id}:{start}:{len(pieces)}", own, said))
        if pieces:
            spans.append(Span(start, int(edges[end]), end - begin, pieces))
    return Plan(document, num_words, spans)
