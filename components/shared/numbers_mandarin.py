"""Numbers, dates, times, money and percentages in Mandarin text as the characters that a reader would say."""

from __future__ import annotations

import re

DIGITS = "零一二三四五六七八九"
UNITS = ("", "十", "百", "千")
MYRIADS = ("", "万", "亿", "万亿")
MAX_DIGITS = 16
"""Longer runs of digits are read digit by digit."""
MONEY = {"¥": "元", "￥": "元", "$": "美元", "€": "欧元", "£": "英镑"}
SYMBOLS = {"℃": "摄氏度", "°C": "摄氏度", "°": "度", "+": "加", "=": "等于", "×": "乘", "÷": "除以", "&": "和"}
DIGIT = re.compile(r"\d")
NUMBER = re.compile(
    r"(?P<year>\d{4})(?=年)"
    r"|(?P<money>[¥￥$€£])(?P<amount>\d[\d,]*(?:\.\d+)?)(?P<scale>[万亿]*)"
    r"|(?<!\d)(?P<hour>[01]?\d|2[0-3])[:：](?P<minute>[0-5]\d)(?!\d)"
    r"|(?P<share>\d[\d,]*(?:\.\d+)?)[%％]"
    r"|(?<!\d)(?P<top>\d+)/(?P<bottom>\d+)(?![\d/])"
    r"|(?P<minus>(?<![A-Za-z0-9])-)?(?P<plain>\d[\d,]*(?:\.\d+)?)"
    r"(?P<pair>(?<=(?<![\d第])2)(?=[个只本位次天种件条张块杯家]))?"
)


def spell_numbers(text: str) -> str:
    """Mandarin text with digits and symbols written as characters."""
    if DIGIT.search(text):
        text = NUMBER.sub(_say, text)
    for symbol, words in SYMBOLS.items():
        text = text.replace(symbol, words)
    return text


def _say(found: re.Match[str]) -> str:
    if found["year"]:
        return _each(found["year"])
    if found["money"]:
        return _decimal(found["amount"]) + found["scale"] + MONEY[found["money"]]
    if found["hour"]:
        minute = int(found["minute"])
        rest = "" if minute == 0 else ("零" if minute < 10 else "") + cardinal(str(minute)) + "分"
        return cardinal(found["hour"]) + "点" + rest
    if found["share"]:
        return "百分之" + _decimal(found["share"])
    if found["top"]:
        return f"{_decimal(found['bottom'])}分之{_decimal(found['top'])}"
    words = "两" if found["pair"] is not None else _decimal(found["plain"])
    return ("负" if found["minus"] else "") + words


def _decimal(digits: str) -> str:
    """A number with thousands commas and a fraction; a comma at its end is punctuation."""
    kept = digits.rstrip(",")
    tail = digits[len(kept) :]
    whole, _, fraction = kept.replace(",", "").partition(".")
    words = _each(whole) if len(whole) > 1 and whole.startswith("0") else cardinal(whole)
    return words + (f"点{_each(fraction)}" if fraction else "") + tail


def _each(digits: str) -> str:
    return "".join(DIGITS[int(digit)] for digit in digits)


def cardinal(digits: str) -> str:
    """10 -> 十, 105 -> 一百零五, 20300 -> 两万零三百."""
    if len(digits) > MAX_DIGITS:
        return _each(digits)
    number = int(digits)
    if number == 0:
        return DIGITS[0]
    words, gap = "", False
    for place in range(len(MYRIADS) - 1, -1, -1):
        group = number // 10_000**place % 10_000
        if group:
            if words and (gap or group < 1000):
                words += DIGITS[0]
            words += ("两" if group == 2 and place and not words else _group(group, bool(words))) + MYRIADS[place]
            gap = False
        else:
            gap = True
    return words


def _group(group: int, inside: bool) -> str:
    """Up to four digits; inside: something was said before them, so that 10 is 一十 and not 十."""
    words, gap = "", False
    for place in range(3, -1, -1):
        digit = group // 10**place % 10
        if not digit:
            gap = bool(words)
            continue
        words += DIGITS[0] if gap else ""
        gap = False
        plain = digit == 1 and place == 1 and not words and not inside
        double = digit == 2 and place >= 2
        words += ("" if plain else "两" if double else DIGITS[digit]) + UNITS[place]
    return words
