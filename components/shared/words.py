"""Words of a text with their places: what stands between spaces, and segmented units where there are none.

Characters are looked up in one table by code point and edges are found on whole arrays, since at scale every word of a
corpus passes here once; ideographs are segmented by jieba's dictionary in its Rust form (rjieba).
"""

from __future__ import annotations

import re
from bisect import bisect
from functools import cache
from itertools import pairwise

import numpy as np

_IDEOGRAPHS = ((0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x10FFFF))
SPOKEN, SPACE, IDEOGRAPH = 1, 2, 4
"""What a character is, as `kinds` has it: a letter or digit, white space, an ideograph (which is spoken as well)."""
_END = re.compile(r"[.!?…。！？；\n]")
"""What a word has in it that may end a sentence."""
_SENTENCE_END = re.compile(r"(?:[.!?…]['\"”’)\]]*\s*$|[。！？；]|\n)")
_ABBREVIATION = re.compile(r"(?:^|\s)(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|No|e\.g|i\.e)\.$")


def words(text: str) -> list[tuple[int, int]]:
    """(start, stop) of every word; together they are the whole text, [] when nothing in it can be said."""
    edges = word_edges(text).tolist()
    return list(pairwise(edges))


def word_edges(text: str) -> np.ndarray:
    """Where the words of a text begin and end: (words + 1,) int64 from 0 to its length, (0,) when it has none.

    Space before a word belongs to it, marks after it too, so that text left standing never ends in a space.
    Ideographs are segmented in a text of any language.
    """
    found = kinds(text)
    is_space, is_ideograph = (found & SPACE) != 0, (found & IDEOGRAPH) != 0
    is_start = ~is_space
    is_start[1:] &= is_space[:-1] | (is_ideograph[1:] != is_ideograph[:-1])
    if is_ideograph.any():
        is_start[_segment_starts(text, is_ideograph)] = True
    starts = np.flatnonzero(is_start)
    if not len(starts):
        return np.empty(0, np.int64)
    has_spoken = np.maximum.reduceat(found & SPOKEN, starts) != 0
    spoken = np.flatnonzero(has_spoken)
    if not len(spoken):
        return np.empty(0, np.int64)
    # a word begins where the unit before its own ends
    return np.concatenate([[0], _stops(is_space, starts)[spoken[1:] - 1], [len(text)]])


def _stops(is_space: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Where each unit ends: after its last character that is no space."""
    solid = np.flatnonzero(~is_space)
    return solid[np.searchsorted(solid, np.append(starts[1:], len(is_space))) - 1] + 1


def _segment_starts(text: str, is_ideograph: np.ndarray) -> np.ndarray:
    """Where the segmented units of all runs of ideographs begin."""
    import rjieba

    places = np.flatnonzero(is_ideograph)
    breaks = np.flatnonzero(np.diff(places) > 1) + 1
    runs = np.split(places, breaks) if len(breaks) else [places]
    joined = "\n".join(text[run[0] : run[-1] + 1] for run in runs)
    lengths = np.fromiter(map(len, rjieba.cut(joined, False)), np.int64)
    starts = np.cumsum(lengths) - lengths
    origin = np.insert(places, breaks, -1)  # of each character of the joined text; the line ends between them have none
    return origin[starts][origin[starts] >= 0]


def code_points(text: str) -> np.ndarray:
    """(characters,) uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def kinds(text: str) -> np.ndarray:
    """What each character is: a sum of SPOKEN, SPACE and IDEOGRAPH, (characters,) uint8."""
    return _kinds_of_all()[code_points(text)]


@cache
def _kinds_of_all() -> np.ndarray:
    """Of every code point there can be: (1114112,) uint8."""
    characters = [chr(point) for point in range(0x110000)]
    table = np.fromiter((SPOKEN * c.isalnum() + SPACE * c.isspace() for c in characters), np.uint8)
    for first, last in _IDEOGRAPHS:
        table[first : last + 1] |= IDEOGRAPH
    return table


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
    edges = word_edges(text).tolist()
    cuts = [edges[number] for number in (0, *sentence_ends(text, edges), -1)] if edges else []
    return [text[start:stop] for start, stop in pairwise(cuts)]


def sentence_ends(text: str, edges: list[int]) -> list[int]:
    """At which inner edges a sentence ends, numbers in ascending order; edges: of neighbouring words of the text.

    A line break ends what stands before it, although it belongs to the word after it.
    """
    ends: list[int] = []
    for found in _END.finditer(text, edges[0], edges[-1]):
        number = bisect(edges, found.start())
        begin = edges[number - 1]
        if found[0] == "\n" and not text[begin : found.start()].strip():
            number -= 1
        elif not ends_sentence(text[begin : edges[number]].lstrip()):
            continue
        if 0 < number < len(edges) - 1 and number not in ends[-1:]:
            ends.append(number)
    return ends
