"""Mandarin text to the phoneme alphabet of the Kokoro voices: pinyin with tones, written as IPA.

Source  syllables: the phonology of Standard Chinese as in Duanmu 2007 and Lin 2007, in the notation that Kokoro was
        trained on (misaki's "legacy" Mandarin): tones as arrows behind the vowel, spaces between words
"""

from __future__ import annotations

import re

from components.shared.numbers_mandarin import spell_numbers

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
NEUTRAL_LAST = re.compile(
    r"""
    学生|先生|喜欢|东西|衣服|时候|休息|朋友|早上|晚上|身上|认识|爷爷|奶奶|爸爸|妈妈|哥哥|弟弟|
    姐姐|妹妹|叔叔|太太|漂亮|月亮|便宜|舒服|客气|知识|消息|关系|明白|告诉|故事|事情|窗户|眼睛|
    头发|耳朵|豆腐|护士|大夫|力气|清楚|热闹|聪明|暖和|凉快|咳嗽|商量|照顾|麻烦|生意|意思|谢谢|
    这边|那边|里边|外边|上边|下边|前边|后边|旁边|左边|右边|里面|外面""",
    re.VERBOSE,
)
"""Words whose last syllable is said without a tone, against its character's own."""
FULL_ER = ("女儿", "儿子", "儿童", "婴儿", "幼儿", "孤儿", "健儿")
"""Words in which 儿 is a syllable of its own; elsewhere, at a word's end, it only curls the one before."""
SEGMENT = re.compile(r"[\u4e00-\u9fff]+|[A-Za-z][A-Za-z' -]*|[^\u4e00-\u9fffA-Za-z]")


def to_phonemes(text: str) -> str:
    """Mandarin text, simplified or traditional, with English words where they occur -> phonemes; empty if unsayable."""
    from components.collect import phonemes_english

    pieces: list[str] = []
    for segment in SEGMENT.findall(spell_numbers(text).translate(PUNCTUATION)):
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
    import rjieba
    from pypinyin import Style, lazy_pinyin

    words = rjieba.cut(run, True)
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
        if NEUTRAL_LAST.fullmatch(word) or (len(word) > 1 and word.endswith("儿") and word not in FULL_ER):
            finals[stop - 1] = finals[stop - 1].rstrip("12345") + "5"
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
