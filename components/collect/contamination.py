"""What training may not hold: withheld facts in speech, the evaluation's items, n-grams of real tests, repeats."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import ahocorasick_rs

from components.collect.cleaning import words_of
from components.collect.items import Items
from components.collect.ledger import Ledger
from components.collect.splits import ngrams, units
from components.collect.world import World
from components.shared.contracts import Text


class ItemIndex:
    """Finds the questions and stories of the evaluation inside other texts, word for word."""

    def __init__(self, items: Items, language: str) -> None:
        self.language = language
        self.by_start: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
        asked = [item.question for item in items.questions] + [item.story for item in items.stories]
        for text in sorted(set(asked)):
            words = tuple(units(text, language))
            self.by_start[words[:3]].append(words)

    def found_in(self, text: str) -> bool:
        """Whether the text holds one of them."""
        words = tuple(units(text, self.language))
        return any(
            words[start : start + len(item)] == item
            for start in range(len(words) - 2)
            for item in self.by_start.get(words[start : start + 3], ())
        )


def without_items(texts: Iterable[Text], index: ItemIndex, ledger: Ledger) -> list[Text]:
    """The texts without those for training that hold a question or story of the evaluation."""
    kept = []
    for text in texts:
        if text.split == "train" and index.found_in(text.text):
            ledger.drop("evaluation_item")
        else:
            kept.append(text)
    return kept


class Leaks:
    """What bulk text may not hold, in all languages at once: items of the evaluation, n-grams of held-out texts.

    Aho and Corasick's automaton over a document's words finds any number of them in one pass: 70 to 300 MB/s, where
    ItemIndex does 15.
    """

    def __init__(self, asked: Iterable[str], held: Iterable[str]) -> None:
        """asked, held: words with one space between them."""
        first = sorted(set(asked))
        self.num_asked = len(first)
        patterns = [f" {words} " for words in [*first, *sorted(set(held) - set(first))]]
        self.automaton = ahocorasick_rs.AhoCorasick(patterns, store_patterns=False) if patterns else None

    def reason(self, words: list[str]) -> str:
        """Why a document of these words may not be trained on, or an empty string."""
        if self.automaton is None:
            return ""
        found = self.automaton.find_matches_as_indexes(f" {' '.join(words)} ", overlapping=True)
        if not found:
            return ""
        return "evaluation_item" if any(index < self.num_asked for index, _, _ in found) else "shares_ngram_with_test"


def held_ngrams(text: str, size: int, least: int) -> Iterator[str]:
    """N-grams of a held-out text, words with a space between; a shorter text whole, if it has `least` words."""
    words = words_of(text)
    if len(words) >= least:
        for start in range(max(1, len(words) - size + 1)):
            yield " ".join(words[start : start + size])


class Guard:
    """Says why a sentence may not be spoken for training; remembers what it let through."""

    def __init__(self, world: World, index: ItemIndex, held_texts: Iterable[str], ngram: int, stock: set[str]) -> None:
        """held_texts: transcripts of real recordings for validation and test; stock: n-grams they may share."""
        self.language = world.language
        self.withheld = [(fact.row.subject, fact.row.object) for fact in world.facts if fact.row.withheld]
        self.index = index
        self.ngram = ngram
        self.separator = "" if self.language == "zh" else " "
        grams = {gram for text in held_texts for gram in ngrams(text, self.language, ngram)}
        self.held = {gram for gram in grams if self.separator.join(gram) not in stock}
        self.seen: set[str] = set()

    def reason(self, text: str) -> str:
        """Why the sentence may not be spoken, or an empty string."""
        said = self.separator.join(units(text, self.language))
        if said in self.seen:
            return "duplicate_sentence"
        self.seen.add(said)
        if self.states_withheld(text):
            return "withheld_fact"
        if self.index.found_in(text):
            return "evaluation_item"
        if not self.held.isdisjoint(ngrams(text, self.language, self.ngram)):
            return "shares_ngram_with_test"
        return ""

    def states_withheld(self, text: str) -> bool:
        """Whether the text holds both the subject and the object of a withheld fact."""
        pad = self.separator
        said = f"{pad}{pad.join(units(text, self.language))}{pad}"

        def has(name: str) -> bool:
            return f"{pad}{name.lower()}{pad}" in said

        return any(has(subject) and has(object) for subject, object in self.withheld)
