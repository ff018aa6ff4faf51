"""Words of a text with their places: what stands between spaces, and segmented units where there are none."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np

_IDEOGRAPHS = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_RUN = re.compile(rf"[{_IDEOGRAPHS}]+|[^\s{_IDEOGRAPHS}]+")
_SENTENCE_END = re.compile(r"(?:[.!?…]['\"”’)\]]*\s*$|[。！？；]|\n)")
_ABBREVIATION = re.compile(r"(?:^|\s)(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|No|e\.g|i\.e)\.$")


def words(text: str) -> list[tuple[int, int]]:
    """(start, stop) of every word; together they are the whole text, [] when nothing in it can be said.

    Space before a word belongs to it, marks after it too, so that text left standing never ends in a space.
    Ideographs are segmented (jieba) in a text of any language.
    """
    found: list[tuple[int, int]] = []
    end = 0
    for start, stop in _units(text):
        if any(c.isalnum() for c in text[start:stop]):
            found.append((end, stop))
            end = stop
        elif found:
            end = stop
            found[-1] = (found[-1][0], end)
    if found:
        found[-1] = (found[-1][0], len(text))
    return found


def _units(text: str) -> list[tuple[int, int]]:
    units = []
    for run in _RUN.finditer(text):
        start, stop = run.span()
        if len(run[0]) == 1 or not _is_ideograph(run[0][0]):
            units.append((start, stop))
            continue
        for piece in _segmenter().cut(run[0], HMM=False):
            units.append((start, start + len(piece)))
            start += len(piece)
    return units


def _is_ideograph(character: str) -> bool:
    return re.match(f"[{_IDEOGRAPHS}]", character) is not None


@cache
def _segmenter() -> Any:
    """jieba with its own dictionary, read afresh: its cache lies in a folder that anyone may write."""
    import jieba

    segmenter = jieba.Tokenizer()
    segmenter.FREQ, segmenter.total = segmenter.gen_pfdict(segmenter.get_dict_file())
    segmenter.initialized = True
    return segmenter


def ends_sentence(word: str) -> bool:
    """Whether a word, with the marks after it, ends its sentence; abbreviations and initials do not."""
    return bool(_SENTENCE_END.search(word)) and not _ABBREVIATION.search(word.rstrip())


def draw_span(num_words: int, mean_span: float, rng: np.random.Generator) -> tuple[int, int] | None:
    """Words (first, stop) that a span of running text takes from a short text inside it, never all of its words.

    The span's length is Poisson with mean_span words, at least one, and it begins anywhere, so that it may end or begin
    outside: what is left are beginnings, ends and middles of every length. None for a text of fewer than two words.
    """
    if num_words < 2:
        return None
    length = max(1, int(rng.poisson(mean_span)))
    partly = [first for first in range(1 - length, num_words) if first > 0 or first + length < num_words]
    first = int(rng.choice(partly))
    return max(0, first), min(num_words, first + length)


def cut_at_sentences(text: str) -> list[str]:
    """A text cut after every end of a sentence; the pieces put together are the text, [] when nothing can be said."""
    pieces = [""]
    for start, stop in words(text):
        pieces[-1] += text[start:stop]
        if ends_sentence(text[start:stop]):
            pieces.append("")
    return [piece for piece in pieces if piece]
