"""What a closed world is written with in one language; the words themselves are in world_<language>.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Relation:
    """One relation between a person and an object, with every way it may be put in words.

    {s} stands for the subject, {o} for the object, {p}/{P} for the subject's pronoun, {h}/{H} for its possessive.
    """

    name: str
    objects: tuple[str, ...]
    """All possible objects; no other relation of the language has one of them."""
    statements: tuple[str, ...]
    """Whole sentences with {s} and {o}."""
    pronoun_statements: tuple[str, ...]
    """Sentences for the middle of a paragraph, with {o} and a pronoun for the subject."""
    questions: tuple[str, ...]
    """Questions with {s}; none holds the object."""
    stories: tuple[tuple[str, str], ...]
    """(two sentences with {s} and without {o}, an ending with {o} and without {s})."""


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """All words of the closed world in one language."""

    language: str
    """ISO 639-1."""
    people: tuple[tuple[str, str], ...]
    """(name, pronoun); names sound different from each other and are known to G2P lexicons."""
    surnames: tuple[str, ...]
    """Endings that turn a first name into another person when there are more people than names."""
    relations: tuple[Relation, ...]
    intros: tuple[str, ...]
    """Opening sentences of a paragraph about {s}."""
    links: tuple[str, ...]
    """Sentences between two facts; they state none."""
    pronouns: dict[str, tuple[str, str]]
    """Pronoun -> (pronoun, possessive)."""
    separator: str
    """What stands between two sentences: a space, or nothing in Chinese."""

    def person(self, index: int) -> tuple[str, str]:
        """(name, pronoun) of the person with this number.

        Raises ValueError when the lexicon has no more names.
        """
        most = len(self.people) * (1 + len(self.surnames))
        if index >= most:
            raise ValueError(f"collect.world: num_people: got more than the {most} names of language {self.language}")
        name, pronoun = self.people[index % len(self.people)]
        family = index // len(self.people)
        return name + (self.surnames[family - 1] if family else ""), pronoun

    def fill(self, template: str, subject: str, pronoun: str, object: str = "") -> str:
        """The template in words."""
        he, his = self.pronouns[pronoun]
        return template.format(s=subject, o=object, p=he, P=he.capitalize(), h=his, H=his.capitalize())
