"""The closed world: people, their relations to places, animals and things, and which of these facts are never spoken.

Everything is drawn from one seed. Objects are spread evenly over the people, so that the most frequent answer of a
relation is hardly better than any other, and among the facts that are withheld from speech as well.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import numpy as np

from components.collect.config import WorldConfig
from components.collect.lexicon import Lexicon, Relation
from components.shared.contracts import Fact


def lexicon_of(language: str) -> Lexicon:
    """The words of a language. Raises ValueError when there is no closed world in it."""
    from components.collect import world_en, world_zh

    lexicons = {"en": world_en.LEXICON, "zh": world_zh.LEXICON}
    if language not in lexicons:
        raise ValueError(f"collect.worlds: language: got {language!r}, wanted one of {', '.join(lexicons)}")
    return lexicons[language]


@dataclass(frozen=True, kw_only=True)
class WorldFact:
    """One fact with the phrasings that training may see and those that are kept for evaluation."""

    row: Fact
    relation: Relation
    pronoun: str
    held_statement: int
    """The one statement phrasing that no training text or utterance uses for this fact."""
    asked: tuple[int, ...]
    """Question phrasings that evaluation asks; training sees the others."""
    told: tuple[int, ...]
    """Story phrasings that evaluation tells; training sees the others."""
    split: str
    """validation | test: where the fact's questions and stories belong."""
    evaluated: bool
    """Whether its questions and stories are made and spoken."""

    def statements(self, lexicon: Lexicon) -> list[str]:
        """All statements of the fact that training may see."""
        kept = [text for i, text in enumerate(self.relation.statements) if i != self.held_statement]
        return [self.put(lexicon, text) for text in kept]

    def held(self, lexicon: Lexicon) -> str:
        """The statement that only validation and test may see."""
        return self.put(lexicon, self.relation.statements[self.held_statement])

    def questions(self, lexicon: Lexicon) -> list[str]:
        """The questions that training may see."""
        return [self.put(lexicon, text) for i, text in enumerate(self.relation.questions) if i not in self.asked]

    def tales(self, lexicon: Lexicon) -> list[str]:
        """The stories with their right ending that training may see."""
        kept = [pair for i, pair in enumerate(self.relation.stories) if i not in self.told]
        return [lexicon.separator.join((self.put(lexicon, story), self.put(lexicon, end))) for story, end in kept]

    def put(self, lexicon: Lexicon, template: str, object: str | None = None) -> str:
        """A template in words, with another object when one is given."""
        return lexicon.fill(template, self.row.subject, self.pronoun, self.row.object if object is None else object)


@dataclass(frozen=True, kw_only=True)
class World:
    """The closed world in one language."""

    lexicon: Lexicon
    objects: dict[str, tuple[str, ...]]
    """Relation -> the objects it takes here, in a fixed order."""
    facts: list[WorldFact]

    @property
    def language(self) -> str:
        """ISO 639-1."""
        return self.lexicon.language

    def by_person(self) -> dict[str, list[WorldFact]]:
        """Subject -> its facts, in the order of the relations."""
        people: dict[str, list[WorldFact]] = defaultdict(list)
        for fact in self.facts:
            people[fact.row.subject].append(fact)
        return dict(people)


def make_world(config: WorldConfig, language: str, seed: int) -> World:
    """Draw the people and facts of one language.

    Every subject and every object has at least one fact that is spoken; of the others about config.withheld_share
    are withheld. Raises ValueError when the lexicon has fewer names, relations, objects or phrasings than asked for.
    """
    lexicon = lexicon_of(language)
    _check(config, lexicon)
    rng = np.random.default_rng([seed, *language.encode()])
    facts = []
    objects = {}
    for relation in lexicon.relations[: config.num_relations]:
        objects[relation.name] = relation.objects[: config.num_objects]
        dealt = _deal(objects[relation.name], config.num_people, rng)
        for index, object in enumerate(dealt):
            name, pronoun = lexicon.person(index)
            row = Fact(
                id=f"{language}-{relation.name}-{index:04d}",
                language=language,
                subject=name,
                relation=relation.name,
                object=object,
                withheld=False,
            )
            facts.append(_phrase(row, relation, pronoun, index, config, rng))
    facts = _withhold(facts, config.withheld_share, rng)
    facts = _split(facts, config, rng)
    return World(lexicon=lexicon, objects=objects, facts=facts)


def _check(config: WorldConfig, lexicon: Lexicon) -> None:
    where = f"in the closed world of language {lexicon.language}"
    if not 0 < config.num_relations <= len(lexicon.relations):
        raise ValueError(
            f"collect.worlds: num_relations: got {config.num_relations}, wanted 1..{len(lexicon.relations)} {where}"
        )
    for relation in lexicon.relations[: config.num_relations]:
        if not 2 <= config.num_objects <= len(relation.objects):
            wanted = f"2..{len(relation.objects)}"
            raise ValueError(f"collect.worlds: num_objects: got {config.num_objects}, wanted {wanted} {where}")
        most = min(len(relation.questions), len(relation.stories)) - 1
        if not 1 <= config.items_per_fact <= most:
            raise ValueError(f"collect.worlds: items_per_fact: got {config.items_per_fact}, wanted 1..{most} {where}")
    if config.num_people < config.num_objects:
        wanted = f"at least num_objects={config.num_objects}"
        raise ValueError(f"collect.worlds: num_people: got {config.num_people}, wanted {wanted} {where}")


def _deal(objects: tuple[str, ...], num_people: int, rng: np.random.Generator) -> list[str]:
    """One object a person, every object equally often up to one."""
    order = rng.permutation(len(objects))
    dealt = [objects[order[i % len(objects)]] for i in range(num_people)]
    return [dealt[i] for i in rng.permutation(num_people)]


def _phrase(
    row: Fact, relation: Relation, pronoun: str, index: int, config: WorldConfig, rng: np.random.Generator
) -> WorldFact:
    """Choose the phrasings that evaluation keeps; every phrasing is kept for equally many people."""
    return WorldFact(
        row=row,
        relation=relation,
        pronoun=pronoun,
        held_statement=(index + int(rng.integers(len(relation.statements)))) % len(relation.statements),
        asked=_window(index, config.items_per_fact, len(relation.questions)),
        told=_window(index + 2, config.items_per_fact, len(relation.stories)),
        split="test",
        evaluated=False,
    )


def _window(start: int, length: int, size: int) -> tuple[int, ...]:
    return tuple(sorted((start + i) % size for i in range(length)))


def _withhold(facts: list[WorldFact], share: float, rng: np.random.Generator) -> list[WorldFact]:
    """Mark the same share of every (relation, object) as withheld; each object and subject keeps one spoken fact."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, fact in enumerate(facts):
        groups[fact.row.relation, fact.row.object].append(i)
    withheld: set[int] = set()
    for members in groups.values():
        wanted = share * len(members)
        count = min(int(wanted) + int(rng.random() < wanted - int(wanted)), len(members) - 1)
        withheld.update(int(i) for i in rng.choice(members, size=count, replace=False))
    spoken = Counter(fact.row.subject for i, fact in enumerate(facts) if i not in withheld)
    for i, fact in enumerate(facts):
        if i in withheld and not spoken[fact.row.subject]:
            withheld.discard(i)
            spoken[fact.row.subject] += 1
            others = [j for j in groups[fact.row.relation, fact.row.object] if j not in withheld and j != i]
            free = [j for j in others if spoken[facts[j].row.subject] > 1]
            if free:
                withheld.add(free[0])
                spoken[facts[free[0]].row.subject] -= 1
    return [replace(fact, row=replace(fact.row, withheld=i in withheld)) for i, fact in enumerate(facts)]


def _split(facts: list[WorldFact], config: WorldConfig, rng: np.random.Generator) -> list[WorldFact]:
    """Choose the facts that are evaluated and give a share of them to validation, evenly over relation and withheld."""
    order = [int(i) for i in rng.permutation(len(facts))]
    ranks: dict[tuple[str, bool], int] = defaultdict(int)
    keyed = []
    for i in order:
        group = (facts[i].row.relation, facts[i].row.withheld)
        keyed.append((ranks[group], i))
        ranks[group] += 1
    chosen = [i for _, i in sorted(keyed, key=lambda pair: pair[0])][: config.num_evaluated_facts]
    splits = {}
    for position, i in enumerate(sorted(chosen, key=lambda i: (facts[i].row.withheld, facts[i].row.relation, i))):
        before, after = position * config.validation_share, (position + 1) * config.validation_share
        splits[i] = "validation" if int(after) > int(before) else "test"
    return [replace(fact, evaluated=i in splits, split=splits.get(i, "test")) for i, fact in enumerate(facts)]
