"""Bulk text made plain: control characters out, words found, very long documents cut where a reader would pause."""

from __future__ import annotations

import re

_LINE_END = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff]")
_TO_CLEAN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff]")
_WORD = re.compile(r"[㐀-鿿]|[^\W_㐀-鿿]+(?:'[^\W_㐀-鿿]+)*")
_PAUSES = (("\n\n",), ("\n",), ("。", "！", "？", ". ", "! ", "? "), (" ", "，", "、"))
"""Where a long document is cut, the best first: paragraph, line, sentence, word."""


def clean(text: str) -> tuple[str, bool]:
    """(text without control characters but \\n and \\t and without white space around it, whether it had any).

    Line ends of every kind become \\n.
    """
    if not _TO_CLEAN.search(text):
        return text.strip(), False
    return _CONTROL.sub("", _LINE_END.sub("\n", text)).strip(), True


def words_of(text: str) -> list[str]:
    """Lower-case words of a text in any mix of languages, each Chinese character one; marks and emoji left out."""
    return _WORD.findall(text.lower().replace("’", "'"))


def has_word(text: str) -> bool:
    """Whether there is a letter, digit or Chinese character."""
    return _WORD.search(text) is not None


def cut(text: str, most: int, least: int) -> list[str]:
    """The text in pieces of at most `most` characters, each at least `least` if the text was (3 * least <= most).

    A piece ends at the last paragraph, else line, sentence or word in the second half of what it may hold, else there.
    """
    pieces = []
    start = 0
    while len(text) - start > most:
        left = len(text) - start
        window = most if left >= most + least else left // 2 + 1
        stop = _pause(text, start + window // 2, start + window)
        pieces.append(text[start:stop].strip())
        start = stop
    pieces.append(text[start:].strip())
    return [piece for piece in pieces if piece]


def _pause(text: str, low: int, high: int) -> int:
    """Where to cut between low and high: after the last of the best pauses there."""
    for marks in _PAUSES:
        ends = [place + len(mark) for mark in marks if (place := text.rfind(mark, low, high)) >= 0]
        if ends:
            return max(ends)
    return high
