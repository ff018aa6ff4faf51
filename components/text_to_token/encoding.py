"""Texts as token ids; what looks like a control token in a text is spelled out, never obeyed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

_MAX_WORDS = 500_000
"""Words that are remembered; more than a language has in daily use, about 150 MB."""
_LONGEST = 20
"""Characters of a word that is; a text without spaces is one word, which seldom comes again."""
_WORD = re.compile(r" ?[^ ]+")


def plain_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Ids of a text."""
    return all_plain_ids(tokenizer, [text])[0]


def all_plain_ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Ids of many texts."""
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    return [encoded.ids for encoded in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


class WordIds:
    """Encodes speakable texts word by word and remembers the words: ten times as fast as the tokenizer.

    No token of our tokenizers begins before a single space and ends after it (shared/tokens.py), and speakable texts
    have no other white space, so the ids of the words joined are the ids of the text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.known: dict[str, list[int]] = {}

    def encode(self, said: Sequence[str]) -> list[list[int]]:
        """plain_ids of each speakable text."""
        parts = [_WORD.findall(text) for text in said]
        if len(self.known) > _MAX_WORDS:
            self.known.clear()
        known = self.known
        new = list({word for words in parts for word in words if word not in known})
        fresh = dict(zip(new, all_plain_ids(self.tokenizer, new), strict=True))
        known.update((word, ids) for word, ids in fresh.items() if len(word) <= _LONGEST and word.isascii())
        fresh.update((word, known[word]) for words in parts for word in words if word in known)
        return [[i for word in words for i in fresh[word]] for words in parts]
