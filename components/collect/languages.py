"""Which language a document is in: what its corpus says, brought to ISO 639-1, or what py3langid finds."""

from __future__ import annotations

import functools
import re
from collections import Counter
from typing import Any

SAMPLE_CHARACTERS = 160
"""That are looked at in the beginning, the middle and the end of a document."""
_SHORT = {"eng": "en", "zho": "zh", "chi": "zh", "cmn": "zh", "wuu": "zh", "yue": "zh"}
"""ISO 639-3 (and 639-2/B) -> ISO 639-1; the members of the macrolanguage Chinese are one language here."""


def language_of(code: str) -> str:
    """ISO 639-1 of a code such as EN, eng, en-US, zh-Hans, cmn_Hani; others stay as they are, in lower case."""
    plain = re.split(r"[-_]", code.strip().lower(), maxsplit=1)[0]
    return _SHORT.get(plain, plain)


def detect(text: str) -> str:
    """The language of a text, an ISO 639 code: of a long one what most of three samples are in."""
    samples = [text]
    if len(text) > 3 * SAMPLE_CHARACTERS:
        middle = len(text) // 2
        samples = [text[place : place + SAMPLE_CHARACTERS] for place in (0, middle, len(text) - SAMPLE_CHARACTERS)]
    found = Counter(language_of(_identifier().classify(sample)[0]) for sample in samples)
    return found.most_common(1)[0][0]


@functools.cache
def _identifier() -> Any:
    import py3langid

    return py3langid
