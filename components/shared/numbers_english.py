"""Numbers, money, times and common abbreviations in English text as the words that a reader would say."""

from __future__ import annotations

import re

ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["_", "_", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (10**3, "thousand"))
MAX_NUMBER = 10**15
"""Longer runs of digits are read digit by digit."""
IRREGULAR_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
MONEY = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent")}
ABBREVIATIONS = {
    "Mr.": "Mister",
    "Mrs.": "Missus",
    "Ms.": "Miz",
    "Dr.": "Doctor",
    "Prof.": "Professor",
    "St.": "Saint",
    "Jr.": "Junior",
    "Sr.": "Senior",
    "vs.": "versus",
    "etc.": "et cetera",
    "e.g.": "for example",
    "i.e.": "that is",
    "approx.": "approximately",
}
SYMBOLS = {"%": " percent", "&": " and ", "+": " plus ", "=": " equals ", "@": " at ", "°": " degrees"}
ABBREVIATION = re.compile(r"(?<![\w.])(" + "|".join(map(re.escape, ABBREVIATIONS)) + r")(?!\w)")
DIGIT = re.compile(r"\d")
NUMBER_SIGN = re.compile(r"\bNo\.(?=\s?\d)")
NUMBER = re.compile(
    r"(?P<money>[$£€])(?P<amount>\d[\d,]*(?:\.\d+)?)(?P<scale>\s(?:thousand|million|billion|trillion)\b)?"
    r"|(?<!\d)(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)(?!\d)"
    r"|(?P<ordinal>\d[\d,]*)(?:st|nd|rd|th)\b"
    r"|(?P<decade>[12]\d\d0)s\b"
    r"|(?P<minus>(?<!\w)-)?(?P<plain>\d[\d,]*(?:\.\d+)?)"
)


def spell_numbers(text: str) -> str:
    """English text with digits, money, clock times, some abbreviations and symbols written as words."""
    if "." in text:
        text = ABBREVIATION.sub(lambda found: ABBREVIATIONS[found[1]], NUMBER_SIGN.sub("number", text))
    if DIGIT.search(text):
        text = NUMBER.sub(_say, text)
    for symbol, words in SYMBOLS.items():
        text = text.replace(symbol, words)
    return text


def _say(found: re.Match[str]) -> str:
    """The words of one match, kept apart from a letter that follows."""
    if found["money"]:
        words = _money(found["money"], found["amount"], found["scale"] or "")
    elif found["hour"]:
        words = _clock(int(found["hour"]), int(found["minute"]))
    elif found["ordinal"]:
        words = ordinal(int(found["ordinal"].replace(",", "")))
    elif found["decade"]:
        words = _plural(year(int(found["decade"])))
    else:
        words = ("minus " if found["minus"] else "") + _plain(found["plain"])
    follows = found.string[found.end() : found.end() + 1]
    return f"{words} " if follows.isalpha() else words


def _plain(digits: str) -> str:
    """A number without sign; a comma or point at its end is punctuation."""
    kept = digits.rstrip(",")
    tail = digits[len(kept) :]
    whole, _, fraction = kept.partition(".")
    is_year = "," not in whole and not fraction and len(whole) == 4 and 1100 <= int(whole) <= 2099
    if is_year:
        words = year(int(whole))
    elif len(whole) > 1 and whole.startswith("0"):
        words = " ".join(ONES[int(digit)] for digit in whole if digit.isdigit())
    else:
        words = cardinal(int(whole.replace(",", "")))
    if fraction:
        words += " point " + " ".join(ONES[int(digit)] for digit in fraction)
    return words + tail


def cardinal(number: int) -> str:
    """1234 -> one thousand two hundred thirty-four."""
    if number >= MAX_NUMBER:
        return " ".join(ONES[int(digit)] for digit in str(number))
    if number < 20:
        return ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens] + (f"-{ONES[ones]}" if ones else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{ONES[hundreds]} hundred" + (f" {cardinal(rest)}" if rest else "")
    size, name = next((size, name) for size, name in SCALES if number >= size)
    count, rest = divmod(number, size)
    return f"{cardinal(count)} {name}" + (f" {cardinal(rest)}" if rest else "")


def ordinal(number: int) -> str:
    """21 -> twenty-first."""
    words = cardinal(number)
    cut = max(words.rfind(" "), words.rfind("-")) + 1
    last = words[cut:]
    if last in IRREGULAR_ORDINALS:
        last = IRREGULAR_ORDINALS[last]
    else:
        last = f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th"
    return words[:cut] + last


def year(number: int) -> str:
    """1987 -> nineteen eighty-seven, 1905 -> nineteen oh five, 2004 -> two thousand four."""
    century, rest = divmod(number, 100)
    if 2000 <= number < 2010 or number % 1000 == 0:
        return cardinal(number)
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


def _plural(words: str) -> str:
    return f"{words[:-1]}ies" if words.endswith("y") else f"{words}s"


def _clock(hour: int, minute: int) -> str:
    if minute == 0:
        return cardinal(hour)
    return f"{cardinal(hour)} {'oh ' if minute < 10 else ''}{cardinal(minute)}"


def _money(symbol: str, amount: str, scale: str) -> str:
    """The amount in units and hundredths, or in units with a scale: $2.5 million -> two point five million dollars."""
    unit, cent = MONEY[symbol]
    whole, _, fraction = amount.rstrip(",").partition(".")
    units = int(whole.replace(",", ""))
    if scale or len(fraction) not in (0, 2):
        number = cardinal(units) + (" point " + " ".join(ONES[int(digit)] for digit in fraction) if fraction else "")
        return f"{number}{scale} {unit}s"
    words = f"{cardinal(units)} {unit}{'' if units == 1 else 's'}"
    cents = int(fraction or 0)
    if not cents:
        return words
    many = "pence" if cent == "penny" else "cents"
    return f"{words} and {cardinal(cents)} {cent if cents == 1 else many}"
