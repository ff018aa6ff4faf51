"""Splits by content: texts that share an n-gram belong together, so that no test sentence shares one with training.

Units are words in languages with spaces and characters in Chinese. An n-gram in very many texts is a stock phrase
("followed by the pound key"): it is listed aside and ties nothing together.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from components.collect.config import SplitConfig
from components.collect.ledger import Ledger

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_HAN = re.compile(r"[㐀-鿿]|[^\W_㐀-鿿]+")


def units(text: str, language: str) -> list[str]:
    """Lower-case words of a text, or its characters in Chinese; punctuation left out."""
    found = _HAN.findall(text) if language == "zh" else _WORD.findall(text)
    return [unit.lower() for unit in found]


def ngrams(text: str, language: str, size: int) -> Iterator[tuple[str, ...]]:
    """All n-grams of a text; a text shorter than size is one n-gram of its own length."""
    words = units(text, language)
    for start in range(max(1, len(words) - size + 1)):
        yield tuple(words[start : start + size])


def stock_phrases(texts: Sequence[str], language: str, config: SplitConfig) -> set[tuple[str, ...]]:
    """N-grams that stand in at least config.stock_uses different texts."""
    uses = Counter(gram for text in set(texts) for gram in set(ngrams(text, language, config.ngram)))
    return {gram for gram, count in uses.items() if count >= config.stock_uses}


def split_by_content(texts: Sequence[str], language: str, config: SplitConfig, seed: int, ledger: Ledger) -> list[str]:
    """train | validation | test for each text.

    Texts that share an n-gram or are equal get the same split; stock phrases, noted in the ledger, do not count. Big
    clusters stay in training; the others are dealt in an order drawn from seed until validation and test are full.
    """
    stock = stock_phrases(texts, language, config)
    ledger.set_aside(language, stock)
    clusters = _clusters([set(ngrams(text, language, config.ngram)) - stock for text in texts], texts)
    wanted = {"test": config.test_share * len(texts), "validation": config.validation_share * len(texts)}
    splits = ["train"] * len(texts)
    for members in sorted(clusters, key=lambda members: _draw(texts[members[0]], seed)):
        for split in wanted:
            if len(members) <= wanted[split]:
                wanted[split] -= len(members)
                for i in members:
                    splits[i] = split
                break
    return splits


def shared_with(texts: Iterable[str], held: Iterable[str], language: str, size: int) -> list[bool]:
    """Whether each text shares an n-gram with one of the held texts."""
    grams = {gram for text in held for gram in ngrams(text, language, size)}
    return [any(gram in grams for gram in ngrams(text, language, size)) for text in texts]


def _clusters(grams: list[set[tuple[str, ...]]], texts: Sequence[str]) -> list[list[int]]:
    """Connected components over shared n-grams and equal texts, by union-find; members in ascending order."""
    parent = list(range(len(grams)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[object, int] = {}
    for i, found in enumerate(grams):
        for gram in (*found, texts[i]):
            other = root(first.setdefault(gram, i))
            mine = root(i)
            parent[max(mine, other)] = min(mine, other)
    clusters: dict[int, list[int]] = defaultdict(list)
    for i in range(len(grams)):
        clusters[root(i)].append(i)
    return list(clusters.values())


def _draw(text: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {text}".encode()).hexdigest()
