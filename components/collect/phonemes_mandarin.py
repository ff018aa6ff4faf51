"""Mandarin text to the phoneme alphabet of the Kokoro voices: pinyin with tones, written as IPA.

Source  syllables: the phonology of Standard Chinese as in Duanmu 2007 and Lin 2007, in the notation that Kokoro was
        trained on (misaki's "legacy" Mandarin): tones as arrows behind the vowel, spaces between words
"""

from __future__ import annotations

import functools
import logging
import re
from typing import Any

INITIALS = {
    "b": "p", "p": "pʰ", "m": "m", "f": "f", "d": "t", "t": "tʰ", "n": "n", "l": "l", "g": "k", "k": "kʰ", "h": "x",
    "j": "ʨ", "q": "ʨʰ", "x": "ɕ", "zh": "ꭧ", "ch": "ꭧʰ", "sh": "ʂ", "r": "ɻ", "z": "ʦ", "c": "ʦʰ", "s": "s", "": "",
}  # fmt: skip
FINALS = {
    "a": "a0", "ai": "ai0", "an": "a0n", "ang": "a0ŋ", "ao": "au0", "e": "ɤ0", "ei": "ei0", "en": "ə0n", "eng": "ə0ŋ",
    "er": "ɚ0", "o": "wo0", "ong": "ʊ0ŋ", "ou": "ou0", "i": "i0", "ia": "ja0", "ian": "jɛ0n", "iang": "ja0ŋ",
    "iao": "jau0", "ie": "je0", "in": "i0n", "ing": "i0ŋ", "iong": "jʊ0ŋ", "iou": "jou0", "u": "u0", "ua": "wa0",
    "uai": "wai0", "uan": "wa0n", "uang": "wa0ŋ", "uei": "wei0", "uen": "wə0n", "ueng": "wə0ŋ", "uo": "wo0", "v": "y0",
    "van": "ɥɛ0n", "ve": "ɥe0", "vn": "y0n", "io": "jɔ0", "ê": "ɛ0", "m": "m0", "n": "n0", "ng": "ŋ0",
}  # fmt: skip
"""Strict pinyin finals, v for ü; 0 marks where the tone stands."""
TONES = {"1": "→", "2": "↗", "3": "↓", "4": "↘", "5": ""}
BUZZED = frozenset(["zh", "ch", "sh", "r", "z", "c", "s"])
"""After these initials the letter i is a vowel of its own."""
PUNCTUATION = str.maketrans(
    {"，": ",", "、": ",", "。": ".", "．": ".", "！": "!", "？": "?", "：": ":", "；": ";", "（": "(", "）": ")"}
    | {mark: "“" for mark in "《「『【〈"}
    | {mark: "”" for mark in "》」』】〉"}
)
SPOKEN_MARKS = frozenset(";:,.!?—…“”()")
DIGITS = "零一二三四五六七八九"
NUMBER = re.compile(r"(?P<year>\d{4})(?=年)|(?P<number>\d+(?:\.\d+)?)(?P<percent>%?)")
SEGMENT = re.compile(r"[\u4e00-\u9fff]+|[A-Za-z][A-Za-z' -]*|[^\u4e00-\u9fffA-Za-z]")


@functools.cache
def _segmenter() -> Any:
    import jieba

    jieba.setLogLevel(logging.WARNING)
    return jieba


def to_phonemes(text: str) -> str:
    """Mandarin text, simplified or traditional, with English words where they occur -> phonemes; empty if unsayable."""
    from components.collect import phonemes_english

    pieces: list[str] = []
    for segment in SEGMENT.findall(read_numbers(text).translate(PUNCTUATION)):
        if "\u4e00" <= segment[0] <= "\u9fff":
            pieces.append(" ".join(_words(segment)))
        elif segment[0].isalpha():
            pieces.append(f" {phonemes_english.to_phonemes(segment)} ")
        elif segment in SPOKEN_MARKS:
            pieces.append(f"{segment} ")
        else:
            pieces.append(" ")
    joined = re.sub(r"\s+", " ", "".join(pieces)).strip()
    joined = re.sub(r" (?=[;:,.!?…)”])", "", joined)
    return joined if any(char.isalpha() for char in joined) else ""


def _words(run: str) -> list[str]:
    """The words of a run of Chinese characters as phonemes; tones change in the words' context."""
    from pypinyin import Style, lazy_pinyin

    words = _segmenter().lcut(run)
    initials = lazy_pinyin(words, style=Style.INITIALS, strict=True)
    finals = lazy_pinyin(words, style=Style.FINALS_TONE3, strict=True, neutral_tone_with_five=True, tone_sandhi=True)
    if len(initials) != len(run) or len(finals) != len(run):
        words = list(run)
        initials = [lazy_pinyin(char, style=Style.INITIALS, strict=True)[0] for char in run]
        finals = [
            lazy_pinyin(char, style=Style.FINALS_TONE3, strict=True, neutral_tone_with_five=True)[0] for char in run
        ]
    spoken, at = [], 0
    for word in words:
        stop = at + len(word)
        spoken.append("".join(_syllable(*pair) for pair in zip(initials[at:stop], finals[at:stop], strict=True)))
        at = stop
    return spoken


def _syllable(initial: str, final: str) -> str:
    """One syllable from its strict initial ("" where there is none) and its final with the tone's digit behind."""
    tone = final[-1] if final[-1:] in TONES else "5"
    name = final.rstrip("12345").replace("ü", "v")
    if name not in FINALS or initial not in INITIALS:
        return ""
    sound = "ɨ0" if name == "i" and initial in BUZZED else "ɔ0" if name == "o" and not initial else FINALS[name]
    return INITIALS[initial] + sound.replace("0", TONES[tone])


def read_numbers(text: str) -> str:
    """Digits as Chinese numerals: years digit by digit, everything else as a quantity."""
    return NUMBER.sub(_read_number, text)


def _read_number(found: re.Match[str]) -> str:
    if found["year"]:
        return "".join(DIGITS[int(digit)] for digit in found["year"])
    whole, _, fraction = found["number"].partition(".")
    if len(whole) > 12 or (len(whole) > 1 and whole.startswith("0")):
        words = "".join(DIGITS[int(digit)] for digit in whole)
    else:
        words = numeral(int(whole))
    if fraction:
        words += "点" + "".join(DIGITS[int(digit)] for digit in fraction)
    return f"百分之{words}" if found["percent"] else words


def numeral(number: int) -> str:
    """20345 -> 二万零三百四十五."""
    if number == 0:
        return DIGITS[0]
    groups: list[int] = []
    while number:
        number, group = divmod(number, 10_000)
        groups.append(group)
    words = ""
    for index in range(len(groups) - 1, -1, -1):
        group = groups[index]
        if not group:
            continue
        if words and (group < 1000 or groups[index + 1] == 0):
            words += DIGITS[0]
        words += _below_ten_thousand(group) + ["", "万", "亿", "万亿"][index]
    return words.removeprefix("一") if words.startswith("一十") else words


def _below_ten_thousand(group: int) -> str:
    words = ""
    for power, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = group // power % 10
        if digit:
            words += DIGITS[digit] + name
        elif words and group % power:
            words += DIGITS[0] if not words.endswith(DIGITS[0]) else ""
    return words
