"""The form of a text that can be said: words instead of digits, abbreviations and symbols.

Only the speech side of the data uses it (what is trained on and asked of text-to-token); the text side of every
document stays as it was written.
"""

from __future__ import annotations

import re
import unicodedata

from components.shared import numbers_english, numbers_mandarin

_MARKS = str.maketrans(
    {
        **dict.fromkeys("，、；;：:—", ","),
        **dict.fromkeys("。．…", "."),
        **dict.fromkeys("’‘`´", "'"),
        "！": "!",
        "？": "?",
        "–": " ",
    }
)
_SPOKEN = re.compile(r"[^\W_]")
_UNSPOKEN = re.compile(r"[^\w\s',.?!]|_")
_REPEATED = re.compile(r"([,.?!])(?:\s*[,.?!])+")
_PLAIN = re.compile(r"[A-Za-z',.?! ]*")
"""Most English text: nothing in it but acronyms and abbreviations asks for a change."""
_LETTERS = re.compile(r"\b[BCDFGHJKLMNPQRSTVWXZ]{2,5}\b")


def speakable(text: str, language: str) -> str:
    """A text as it is said: lower case, numbers and symbols as words, of the marks only , . ? !

    language: en or zh (others keep their digits). Acronyms without a vowel are spelled: "the BBC" -> "the b b c".
    An empty string comes back for a text that has nothing to say, such as emoji or dashes alone.
    """
    if language == "en" and _PLAIN.fullmatch(text):
        text = _LETTERS.sub(lambda found: " ".join(found[0]), text)
        if "." in text:
            text = numbers_english.spell_numbers(text)
        return _tidy(text.lower())
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    text = unicodedata.normalize("NFKC", text)
    if language == "en":
        text = _LETTERS.sub(lambda found: " ".join(found[0]), text)
        text = numbers_english.spell_numbers(text)
        if not text.isascii():
            bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
            text = unicodedata.normalize("NFC", bare)
        text = text.replace("-", " ")
    elif language == "zh":
        text = numbers_mandarin.spell_numbers(text)
    return _tidy(_UNSPOKEN.sub(" ", text.translate(_MARKS).lower()))


def _tidy(text: str) -> str:
    """Single spaces, single marks, none of either at the front; empty when there is nothing to say."""
    text = _REPEATED.sub(r"\1", text)
    text = re.sub(r"\s+([,.?!])", r"\1", " ".join(text.split())).lstrip(",.?! ")
    return text if _SPOKEN.search(text) else ""
