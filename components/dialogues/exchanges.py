"""Finds exchanges in texts: questions about the closed world with answers, and conversations of open-domain corpora."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from components.shared.contracts import Fact, Text

_SENTENCE = re.compile(r"[^.!?。！？]+[.!?。！？]+")
_QUESTION = ("?", "？")


@dataclass(frozen=True)
class Exchange:
    """What the user says and what the assistant answers."""

    question: str
    answer: str

    @property
    def texts(self) -> tuple[str, str]:
        """Both turns."""
        return self.question, self.answer


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A dialogue in writing."""

    id: str
    language: str
    exchanges: tuple[Exchange, ...]
    fact: str
    """Id of the fact that the first exchange is about, or an empty string."""


class FactIndex:
    """The facts of the closed world by their words."""

    def __init__(self, facts: Iterable[Fact]) -> None:
        self.facts = {fact.id: fact for fact in facts}
        self._by_words: dict[tuple[str, str, str], list[Fact]] = defaultdict(list)
        for fact in self.facts.values():
            self._by_words[fact.language, fact.subject.lower(), fact.object.lower()].append(fact)
        self._subjects = _patterns((fact.language, fact.subject) for fact in self.facts.values())
        self._objects = _patterns((fact.language, fact.object) for fact in self.facts.values())

    def stated(self, text: str, language: str) -> list[Fact]:
        """The facts whose subject and object both stand in the text; of nested names only the longest counts."""
        subjects, objects = self.subjects(text, language), self._objects.get(language, _NOTHING).findall(text.lower())
        pairs = [(language, subject, object) for subject in subjects for object in dict.fromkeys(objects)]
        return [fact for pair in pairs for fact in self._by_words.get(pair, [])]

    def subjects(self, text: str, language: str) -> list[str]:
        """The subjects that stand in the text, in lower case."""
        return list(dict.fromkeys(self._subjects.get(language, _NOTHING).findall(text.lower())))

    def has_object(self, text: str, fact: Fact) -> bool:
        """Whether the fact's object stands in the text."""
        return fact.object.lower() in self._objects[fact.language].findall(text.lower())


_NOTHING = re.compile(r"(?!)")


def _patterns(names: Iterable[tuple[str, str]]) -> dict[str, re.Pattern[str]]:
    """Language -> a pattern of all its names, longest first, as words of their own where the script has spaces."""
    by_language: dict[str, set[str]] = defaultdict(set)
    for language, name in names:
        by_language[language].add(name.lower())
    patterns = {}
    for language, known in by_language.items():
        parts = [re.escape(name) for name in sorted(known, key=lambda name: (-len(name), name))]
        edged = [rf"\b{part}\b" if part.isascii() else part for part in parts]
        patterns[language] = re.compile("|".join(edged))
    return patterns


def closed_world(texts: Iterable[Text], index: FactIndex) -> dict[str, tuple[Fact, list[Exchange]]]:
    """Fact id -> (fact, exchanges about it), of spoken facts only, in the order in which the texts have them.

    A question is a sentence with the subject whose next sentence has the object; the answer is a statement of the fact
    from anywhere in the texts, or that next sentence when there is none.
    """
    questions: dict[str, dict[str, str]] = defaultdict(dict)
    statements: dict[str, dict[str, None]] = defaultdict(dict)
    for text in texts:
        sentences = [found.strip() for found in _SENTENCE.findall(text.text)]
        for sentence, following in zip(sentences, [*sentences[1:], ""], strict=True):
            asks = sentence.endswith(_QUESTION)
            stated = index.stated(f"{sentence} {following}" if asks else sentence, text.language)
            if len(stated) != 1 or stated[0].withheld:
                continue
            if not asks:
                statements[stated[0].id].setdefault(sentence)
            elif not index.has_object(sentence, stated[0]):
                questions[stated[0].id].setdefault(sentence, following)
    found = {}
    for fact_id, asked in questions.items():
        answers = list(statements[fact_id])
        exchanges = [
            Exchange(question, answers[i % len(answers)] if answers else following)
            for i, (question, following) in enumerate(asked.items())
        ]
        found[fact_id] = (index.facts[fact_id], exchanges)
    return found


def open_domain(texts: Iterable[Text], max_turn_chars: int) -> Iterator[Draft]:
    """Passages whose first sentence is a question and whose rest, a sentence or more, is the reply."""
    for text in texts:
        sentences = [found.strip() for found in _SENTENCE.findall(text.text)]
        if len(sentences) < 2 or not sentences[0].endswith(_QUESTION):
            continue
        separator = "" if text.language == "zh" else " "
        reply: list[str] = []
        for sentence in sentences[1:]:
            if sentence.endswith(_QUESTION) or len(separator.join([*reply, sentence])) > max_turn_chars:
                break  # the next exchange begins, or the reply is long enough
            reply.append(sentence)
        if reply and len(sentences[0]) <= max_turn_chars:
            exchange = Exchange(sentences[0], separator.join(reply))
            yield Draft(id=text.id, language=text.language, exchanges=(exchange,), fact="")


def written(path: Path) -> Iterator[Draft]:
    """Dialogues of a JSONL file. Raises ValueError, naming file and line, when a line is no dialogue."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"dialogues.files: {path}: not readable as UTF-8 text: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            turns = [(turn["role"], turn["text"]) for turn in record["turns"] if turn["role"] != "system"]
            roles = [role for role, _ in turns]
            if not turns or roles != ["user", "assistant"] * (len(turns) // 2):
                raise ValueError(f"got roles {roles}, wanted user and assistant in turn")
            pairs = [Exchange(turns[i][1], turns[i + 1][1]) for i in range(0, len(turns), 2)]
            key = f"{path.stem}-{record.get('id', number)}"
            yield Draft(id=key, language=record["language"], exchanges=tuple(pairs), fact="")
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            wanted = '{"language", "turns": [{"role", "text"}]}'
            raise ValueError(f"{path}:{number}: no dialogue: {error}; wanted {wanted}") from error
