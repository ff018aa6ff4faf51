"""Writes about the closed world: paragraphs that state facts in many phrasings, quizzes and tales, all as texts.

Withheld and spoken facts are written about alike. No document for training uses a phrasing that is kept for evaluation
of the same fact; documents for validation and test use only the kept statements.
"""

from __future__ import annotations

import numpy as np

from components.collect.world import World, WorldFact
from components.shared.contracts import Text

CORPUS = "closed_world"
LICENSE = "CC0-1.0"
KINDS = ("portrait", "quiz", "tale", "quiz", "round")


def write_documents(world: World, documents_per_person: int, seed: int) -> list[Text]:
    """The texts of one language: documents_per_person for training about each person, one for validation or test."""
    people = world.by_person()
    names = list(people)
    texts = []
    for index, name in enumerate(names):
        rng = np.random.default_rng([seed, index, *world.language.encode()])
        pages = [_page(world, people, names, name, KINDS[i % len(KINDS)], rng) for i in range(documents_per_person)]
        texts += [_text(world, f"{index:04d}-{i:04d}", page, "train") for i, page in enumerate(pages)]
        split = ("validation", "test")[index % 2]
        texts.append(_text(world, f"{index:04d}-{split}", _held(world, people[name], rng), split))
    return texts


def _text(world: World, key: str, text: str, split: str) -> Text:
    return Text(
        id=f"{world.language}-world-{key}",
        text=text,
        language=world.language,
        corpus=CORPUS,
        license=LICENSE,
        split=split,
    )


def _page(
    world: World, people: dict[str, list[WorldFact]], names: list[str], name: str, kind: str, rng: np.random.Generator
) -> str:
    if kind == "quiz":
        sentences = _quiz(world, people[name], rng)
    elif kind == "tale":
        sentences = _tales(world, people[name], rng)
    elif kind == "round":
        sentences = _round(world, people, names, name, rng)
    else:
        sentences = _portrait(world, people[name], rng)
    return world.lexicon.separator.join(sentences)


def _portrait(world: World, facts: list[WorldFact], rng: np.random.Generator) -> list[str]:
    """An opening, four to six facts by name or by pronoun, now and then a sentence between them."""
    lexicon = world.lexicon
    subject, pronoun = facts[0].row.subject, facts[0].pronoun
    sentences = [lexicon.fill(_pick(lexicon.intros, rng), subject, pronoun)] if rng.random() < 0.7 else []
    count = min(len(facts), int(rng.integers(4, 7)))
    for place, i in enumerate(rng.permutation(len(facts))[:count]):
        fact = facts[i]
        by_pronoun = place > 0 and rng.random() < 0.4
        templates = tuple(fact.relation.pronoun_statements) if by_pronoun else ()
        sentences.append(
            fact.put(lexicon, _pick(templates, rng)) if templates else _pick(fact.statements(lexicon), rng)
        )
        if rng.random() < 0.2:
            sentences.append(lexicon.fill(_pick(lexicon.links, rng), subject, pronoun))
    return sentences


def _quiz(world: World, facts: list[WorldFact], rng: np.random.Generator) -> list[str]:
    """Five questions, each with its answer in one word or in a sentence."""
    sentences = []
    for i in rng.permutation(len(facts))[:5]:
        fact = facts[i]
        sentences.append(_pick(fact.questions(world.lexicon), rng))
        short = rng.random() < 0.7
        sentences.append(say_object(world, fact.row.object) if short else _pick(fact.statements(world.lexicon), rng))
    return sentences


def say_object(world: World, object: str) -> str:
    """An object as a sentence of its own, the short answer to a question: "Dog." """
    return object[:1].upper() + object[1:] + ("。" if world.language == "zh" else ".")


def _tales(world: World, facts: list[WorldFact], rng: np.random.Generator) -> list[str]:
    """Two stories with their right endings."""
    return [_pick(facts[i].tales(world.lexicon), rng) for i in rng.permutation(len(facts))[:2]]


def _round(
    world: World, people: dict[str, list[WorldFact]], names: list[str], name: str, rng: np.random.Generator
) -> list[str]:
    """The same relation of this person and four others."""
    others = [
        str(other) for other in rng.choice([n for n in names if n != name], min(4, len(names) - 1), replace=False)
    ]
    place = int(rng.integers(len(people[name])))
    return [_pick(people[who][place].statements(world.lexicon), rng) for who in (name, *others)]


def _held(world: World, facts: list[WorldFact], rng: np.random.Generator) -> str:
    """Every fact of a person in the phrasing that training never sees."""
    return world.lexicon.separator.join(facts[i].held(world.lexicon) for i in rng.permutation(len(facts)))


def _pick(choices: tuple[str, ...] | list[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
