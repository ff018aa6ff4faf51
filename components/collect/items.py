"""Evaluation items of the closed world: stories with two endings and questions with candidates, and what speaks them.

The wrong endings of a group are its right ones in another order, so that an ending alone says nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from components.collect.documents import say_object
from components.collect.world import World, WorldFact
from components.shared.contracts import Question, Story

Say = Callable[[str, str], str]
"""(text, split) -> id of the utterance that says it."""


@dataclass(frozen=True, kw_only=True)
class Items:
    """The items of one language and the sentences that must be spoken for them."""

    stories: list[Story]
    questions: list[Question]
    spoken: dict[str, tuple[str, str]]
    """Utterance id -> (text, split)."""


def make_items(world: World, seed: int) -> Items:
    """Stories and questions about every evaluated fact, in the phrasings kept for it.

    Spoken sentences are shared: an ending or a candidate is one utterance however many items use it (split test then).
    """
    spoken: dict[str, tuple[str, str]] = {}
    known: dict[str, str] = {}
    facts = [fact for fact in world.facts if fact.evaluated]

    def say(text: str, split: str) -> str:
        key = known.setdefault(text, f"{world.language}-eval-{len(known):05d}")
        if key in spoken and spoken[key][1] != split:
            split = "test"
        spoken[key] = (text, split)
        return key

    questions = [_question(world, fact, number, say) for fact in facts for number in fact.asked]
    stories = _stories(world, facts, seed, say)
    return Items(stories=stories, questions=questions, spoken=spoken)


def _question(world: World, fact: WorldFact, number: int, say: Say) -> Question:
    text = fact.put(world.lexicon, fact.relation.questions[number])
    candidates = list(world.objects[fact.relation.name])
    return Question(
        id=f"{fact.row.id}-q{number}",
        language=world.language,
        question=text,
        answer=fact.row.object,
        candidates=candidates,
        relation=fact.relation.name,
        fact=fact.row.id,
        withheld=fact.row.withheld,
        question_utterance=say(text, fact.split),
        candidate_utterances=[say(say_object(world, candidate), fact.split) for candidate in candidates],
        split=fact.split,
    )


def _stories(world: World, facts: list[WorldFact], seed: int, say: Say) -> list[Story]:
    drafts: dict[tuple[str, str, bool], list[tuple[WorldFact, int]]] = defaultdict(list)
    for fact in facts:
        for number in fact.told:
            drafts[fact.relation.name, fact.split, fact.row.withheld].append((fact, number))
    stories = []
    for group, members in sorted(drafts.items()):
        rng = np.random.default_rng([seed, *"/".join(map(str, group)).encode()])
        objects = [fact.row.object for fact, _ in members]
        wrong = wrong_objects(objects, world.objects[group[0]], rng)
        stories += [_story(world, *member, other, say) for member, other in zip(members, wrong, strict=True)]
    return stories


def _story(world: World, fact: WorldFact, number: int, wrong_object: str, say: Say) -> Story:
    body, ending = fact.relation.stories[number]
    story = fact.put(world.lexicon, body)
    right, wrong = fact.put(world.lexicon, ending), fact.put(world.lexicon, ending, wrong_object)
    return Story(
        id=f"{fact.row.id}-s{number}",
        language=world.language,
        story=story,
        right=right,
        wrong=wrong,
        fact=fact.row.id,
        withheld=fact.row.withheld,
        story_utterance=say(story, fact.split),
        right_utterance=say(right, fact.split),
        wrong_utterance=say(wrong, fact.split),
        split=fact.split,
    )


def wrong_objects(objects: list[str], known: tuple[str, ...], rng: np.random.Generator) -> list[str]:
    """For each object another one, every object as often wrong as it is right.

    Where one object fills more than half of the list that cannot be; then the places left over draw from `known`.
    """
    order = rng.permutation(len(known))
    rank = {known[i]: place for place, i in enumerate(order)}
    places = sorted(range(len(objects)), key=lambda i: (rank[objects[i]], i))
    shift = max(Counter(objects).values())
    wrong = [""] * len(objects)
    for position, i in enumerate(places):
        wrong[i] = objects[places[(position + shift) % len(places)]]
        if wrong[i] == objects[i]:
            others = [object for object in known if object != objects[i]]
            wrong[i] = others[int(rng.integers(len(others)))]
    return wrong
