"""English text to the phoneme alphabet that the installed neural voices were trained on.

Words are looked up in the lexicon that travels with the hibari piece (American English, 183,000 words); regular endings
are derived from their stems, letters of acronyms are named, and what is left goes to the piece's small network for
unknown words. Words with two readings are told apart by the word before them.

Source  alphabet and lexicon: misaki 0.9.4 by hexgrad (Apache-2.0); endings: any grammar of English
"""

from __future__ import annotations

import functools
import gzip
import json
import re
from typing import Any

import numpy as np

from components.shared.assets import fetch
from components.shared.numbers_english import spell_numbers

PUNCTUATION = ';:,.!?—…"()“”'
"""Marks that the voices know; they shape pauses and melody."""
VOWELS = frozenset("AIOQWYaiuæɑɒɔəɛɜɪʊʌᵻɐ")
VOICELESS = frozenset("pkftθ")
SIBILANTS = frozenset("szʃʒʧʤ")
PRIMARY, SECONDARY = "ˈ", "ˌ"
TOKEN = re.compile(r"(?:[A-Za-z]\.){2,}|[^\W\d_]+(?:'[^\W\d_]+)*|[" + re.escape(PUNCTUATION) + r"]|[-/]|\s+")
"""Initials, words, marks, and what parts words; anything else is not said."""
FOLD = str.maketrans({"’": "'", "‘": "'", "–": "—", "\u00a0": " "})

BEFORE_VERB = frozenset([
    "to", "will", "would", "can", "could", "may", "might", "must", "shall", "should", "i", "you", "we", "they",
    "who", "not", "don't", "didn't", "doesn't", "won't", "can't", "couldn't", "wouldn't", "please", "let's", "and",
    "i'll", "you'll", "we'll", "they'll", "he'll", "she'll", "it'll", "never", "always", "still", "people",
])  # fmt: skip
BEFORE_NOUN = frozenset([
    "the", "a", "an", "this", "that", "these", "those", "my", "your", "his", "her", "its", "our", "their", "some",
    "any", "no", "every", "each", "of", "in", "on", "at", "for", "with", "by", "from", "whose", "which", "good",
    "first", "last", "new", "old",
])  # fmt: skip
BEFORE_PARTICIPLE = frozenset([
    "have", "has", "had", "was", "were", "is", "are", "been", "be", "being", "he's", "she's", "i've", "you've",
    "we've", "they've",
])  # fmt: skip
VERBS_AFTER_NAMES = ("live", "lives")
"""Of two readings the verb, unless a noun is due: names of people stand before it, and no list holds them."""


@functools.cache
def _lexicon() -> dict[str, Any]:
    """Spelling -> phonemes, or {part of speech: phonemes} for words with several readings."""
    folder = fetch("hibari") / "hibari" / "assets"
    words: dict[str, Any] = {}
    for name in ("lexicon_us_silver.json.gz", "lexicon_us_gold.json.gz"):
        with gzip.open(folder / name, "rt", encoding="utf-8") as stream:
            words |= json.load(stream)
    return words


@functools.cache
def _unknown_word_reader() -> tuple[Any, dict[str, int], dict[int, str], int]:
    """The network for unknown words: session, letter -> id, id -> phoneme, longest word in letters."""
    from components.collect.voices_onnx import open_session

    folder = fetch("hibari") / "hibari" / "assets"
    about = json.loads((folder / "oov.json").read_text(encoding="utf-8"))
    letters = {letter: number for number, letter in enumerate(about["in"], start=1)}
    phonemes = dict(enumerate(about["out"], start=1))
    return open_session(folder / "oov.onnx"), letters, phonemes, about["maxlen"]


def to_phonemes(text: str) -> str:
    """English text -> one string of phonemes, stress marks, spaces and punctuation; empty when nothing can be said."""
    text = spell_numbers(text.translate(FOLD))
    tokens = [token if token.strip() else " " for token in TOKEN.findall(text)]
    readings: list[str] = []
    vowel_follows: bool | None = None
    for index in range(len(tokens) - 1, -1, -1):
        token = tokens[index]
        if token[0].isalpha():
            before = next((t for t in reversed(tokens[:index]) if t not in (" ", '"')), "")
            reading = _in_context(token, before.lower(), vowel_follows)
            vowel_follows = _starts_with_vowel(reading)
        elif token in "-/ ":
            reading = " "
        else:
            reading = token
            vowel_follows = None
        readings.append(reading)
    joined = re.sub(r"\s+", " ", "".join(reversed(readings))).strip()
    joined = re.sub(r" (?=[;:,.!?…])", "", joined)
    return joined if any(char in VOWELS for char in joined) else ""


def _starts_with_vowel(phonemes: str) -> bool | None:
    first = next((char for char in phonemes if char not in (PRIMARY, SECONDARY)), None)
    return None if first is None else first in VOWELS


def _in_context(word: str, before: str, vowel_follows: bool | None) -> str:
    """The reading of a word, with the weak forms of small words and the reading that the word before asks for."""
    if "." in word:
        return _name_letters(word.replace(".", "").upper())
    lower = word.lower()
    if lower == "the":
        return "ði" if vowel_follows else "ðə"
    if word == "a" or (word == "A" and vowel_follows is not None):
        return "ɐ"
    if lower == "an":
        return "ɐn"
    if word == "I":
        return f"{SECONDARY}I"
    if lower == "to":
        return {None: "tu", False: "tə", True: "tʊ"}[vowel_follows]
    if lower == "in" and vowel_follows is None:
        return f"{PRIMARY}ɪn"
    found = _look_up(word)
    reading = _choose(found, lower, before) if isinstance(found, dict) else found
    return (reading if reading is not None else _read_letters(word)).replace("ɾ", "T").replace("ʔ", "t")


def _choose(readings: dict[str, str | None], word: str, before: str) -> str | None:
    """One of several readings: by the word before it, else the default one."""
    wanted = ["DEFAULT"]
    if before in BEFORE_NOUN:
        wanted = ["NOUN", "DEFAULT"]
    elif before in BEFORE_PARTICIPLE:
        wanted = ["VBN", "VBD", "ADJ", "DEFAULT"]
    elif before in BEFORE_VERB or word in VERBS_AFTER_NAMES:
        wanted = ["VERB", "DEFAULT"]
    elif before in ("", ",", ".", "?", "!"):
        wanted = ["None", "DEFAULT"]
    return next((readings[key] for key in wanted if readings.get(key)), None)


def _look_up(word: str) -> Any:
    """Phonemes or readings of a word, of its other capitalisation, or of its stem and ending; None when unknown."""
    words, lower = _lexicon(), word.lower()
    for form in (word, lower, lower.capitalize()):
        if form in words:
            found = words[form]
            if isinstance(found, dict) and not found.get("DEFAULT"):
                continue
            return found
    if word.isupper() and 1 < len(word) <= 5:
        return _name_letters(word)
    return _by_ending(lower)


def _name_letters(word: str) -> str:
    """An acronym as the names of its letters, the last one stressed."""
    names = [_lexicon()[letter].replace(PRIMARY, "").replace(SECONDARY, "") for letter in word if letter in _lexicon()]
    return "".join([SECONDARY + name for name in names[:-1]] + [PRIMARY + name for name in names[-1:]])


def _by_ending(word: str) -> str | None:
    """Possessives, plurals, -ed, -ing and -ly of words that are in the lexicon; None when no stem is."""
    if word.endswith("'s") or word.endswith("s'"):
        stem = _plain(word[:-2] if word.endswith("'s") else word[:-1])
        return None if stem is None else (_add_s(stem) if word.endswith("'s") else stem)
    for ending, back, add in ENDINGS:
        if word.endswith(ending) and len(word) > len(ending) + 2:
            cut = word[: -len(ending)]
            doubled = cut[:-1] if not back and len(cut) > 3 and cut[-1] == cut[-2] else None
            for stem in (cut + back, doubled):
                found = _plain(stem) if stem else None
                if found is not None:
                    return add(found)
    return None


def _plain(word: str) -> str | None:
    """The default reading of a word that stands in the lexicon as it is."""
    words = _lexicon()
    found = words.get(word, words.get(word.capitalize()))
    return found.get("DEFAULT") if isinstance(found, dict) else found


def _add_s(stem: str) -> str:
    return stem + ("ᵻz" if stem[-1] in SIBILANTS else "s" if stem[-1] in VOICELESS else "z")


def _add_ed(stem: str) -> str:
    return stem + ("ᵻd" if stem[-1] in "td" else "t" if stem[-1] in VOICELESS | SIBILANTS - set("zʒʤ") else "d")


def _add_ing(stem: str) -> str:
    return stem + "ɪŋ"


def _add_ly(stem: str) -> str:
    return stem + "li"


ENDINGS = (
    ("ies", "y", _add_s),
    ("s", "", _add_s),
    ("es", "", _add_s),
    ("ied", "y", _add_ed),
    ("ed", "e", _add_ed),
    ("ed", "", _add_ed),
    ("ing", "", _add_ing),
    ("ing", "e", _add_ing),
    ("ly", "", _add_ly),
)
"""Ending, what stands in its place in the stem, and how the ending sounds."""


def _read_letters(word: str) -> str:
    """Phonemes of an unknown word by the piece's network; repeated outputs count once, 0 is no output."""
    session, letters, phonemes, longest = _unknown_word_reader()
    ids = [letters[char] for char in word if char in letters][:longest]
    if not ids:
        return ""
    steps = session.run(None, {"chars": np.asarray([ids], np.int64)})[0][0]
    changes = np.flatnonzero(np.diff(steps, prepend=0))
    return "".join(phonemes[int(step)] for step in steps[changes] if step)
