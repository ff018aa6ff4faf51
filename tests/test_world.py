"""The closed world: facts that are dealt evenly, half of them withheld, and items that cannot be guessed."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from components.collect.config import WorldConfig
from components.collect.documents import write_documents
from components.collect.items import make_items, wrong_objects
from components.collect.splits import units
from components.collect.world import lexicon_of, make_world

TINY = WorldConfig(
    num_people=34,
    num_relations=6,
    num_objects=10,
    withheld_share=0.5,
    items_per_fact=3,
    num_evaluated_facts=204,
    validation_share=1 / 6,
    documents_per_person=10,
)
MANDARIN = replace(TINY, num_people=16, num_objects=8, items_per_fact=1, num_evaluated_facts=60)
WORLDS = {"en": make_world(TINY, "en", 17), "zh": make_world(MANDARIN, "zh", 17)}


@pytest.fixture(params=["en", "zh"])
def world(request):
    return WORLDS[request.param]


def test_the_same_seed_gives_the_same_world_and_another_seed_another():
    assert make_world(TINY, "en", 17) == WORLDS["en"]
    assert make_world(TINY, "en", 18).facts != WORLDS["en"].facts


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_phrasing_contains_another(language):
    lexicon = lexicon_of(language)
    for relation in lexicon.relations:
        for kind in (relation.statements, relation.questions):
            said = [" ".join(units(lexicon.fill(text, *lexicon.people[0], "x"), language)) for text in kind]
            assert not any(a != b and a in b for a in said for b in said)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_lexicon_keeps_its_promises(language):
    lexicon = lexicon_of(language)
    names = [name for name, _ in lexicon.people]
    objects = [object for relation in lexicon.relations for object in relation.objects]
    assert len(set(names)) == len(names) and len(set(objects)) == len(objects)
    assert not any(a != b and a in b for a in names for b in names)
    for relation in lexicon.relations:
        assert all("{s}" in text and "{o}" in text for text in relation.statements)
        assert all("{o}" in text and "{s}" not in text for text in relation.pronoun_statements)
        assert all("{s}" in text and "{o}" not in text for text in relation.questions)
        assert all("{s}" in story and "{o}" not in story for story, _ in relation.stories)
        assert all("{o}" in ending and "{s}" not in ending for _, ending in relation.stories)
        for kind in (relation.statements, relation.questions, relation.stories):
            assert len(set(kind)) == len(kind)


def test_objects_are_dealt_evenly_so_that_no_answer_is_a_good_guess(world):
    for relation, objects in world.objects.items():
        dealt = Counter(fact.row.object for fact in world.facts if fact.row.relation == relation)
        assert set(dealt) == set(objects) and max(dealt.values()) - min(dealt.values()) <= 1


def test_about_half_of_the_facts_are_withheld_and_every_subject_and_object_is_spoken_of(world):
    spoken = [fact.row for fact in world.facts if not fact.row.withheld]
    withheld = [fact.row for fact in world.facts if fact.row.withheld]
    assert 0.4 < len(withheld) / len(world.facts) < 0.6
    assert {fact.subject for fact in withheld} <= {fact.subject for fact in spoken}
    assert {(f.relation, f.object) for f in withheld} <= {(f.relation, f.object) for f in spoken}


def test_items_never_name_their_answer_and_have_balanced_endings(world):
    items = make_items(world, 17)
    facts = {fact.row.id: fact.row for fact in world.facts}
    for question in items.questions:
        fact = facts[question.fact]
        assert fact.object.lower() not in question.question.lower() and question.answer == fact.object
        assert (question.withheld, question.relation) == (fact.withheld, fact.relation)
    groups = defaultdict(lambda: (Counter(), Counter()))
    for story in items.stories:
        fact = facts[story.fact]
        right = fact.object
        wrong = [o for o in world.objects[fact.relation] if o.lower() in story.wrong.lower() and o not in story.right]
        assert right.lower() in story.right.lower() and right.lower() not in story.story.lower() and wrong
        assert story.right != story.wrong and fact.subject not in story.right
        rights, wrongs = groups[fact.relation, story.split, story.withheld]
        rights[right] += 1
        wrongs[max(wrong, key=len)] += 1
    for (_, split, _), (rights, wrongs) in groups.items():
        if world.language == "en" and split == "test":  # smaller groups cannot always be balanced
            assert rights == wrongs


def test_wrong_objects_are_the_right_ones_in_another_order():
    import numpy as np

    rng = np.random.default_rng(0)
    right = ["a"] * 4 + ["b"] * 2 + ["c"] * 3
    wrong = wrong_objects(right, ("a", "b", "c"), rng)
    assert Counter(wrong) == Counter(right) and all(w != r for w, r in zip(wrong, right, strict=True))
    assert wrong_objects(["a", "a"], ("a", "b"), rng) == ["b", "b"]


def test_tiny_has_at_least_500_test_items_a_task_and_about_100_for_validation():
    items = make_items(WORLDS["en"], 17)
    for found in (items.questions, items.stories):
        splits = Counter(item.split for item in found)
        assert splits["test"] >= 500 and 80 <= splits["validation"] <= 130
        assert len({item.id for item in found}) == len(found)
        by_fact = defaultdict(set)
        for item in found:
            by_fact[item.fact].add(item.split)
        assert all(len(splits) == 1 for splits in by_fact.values())


def test_every_spoken_item_is_named_and_no_utterance_states_a_withheld_fact(world):
    items = make_items(world, 17)
    named = {
        id for story in items.stories for id in (story.story_utterance, story.right_utterance, story.wrong_utterance)
    }
    named |= {
        id for question in items.questions for id in (question.question_utterance, *question.candidate_utterances)
    }
    assert named == set(items.spoken)
    texts = [text.lower() for text, _ in items.spoken.values()]
    assert len(set(texts)) == len(texts)
    for fact in world.facts:
        if fact.row.withheld:
            subject, object = fact.row.subject.lower(), fact.row.object.lower()
            assert not any(subject in text and object in text for text in texts)


def test_training_documents_hold_no_evaluation_item_and_no_kept_statement(world):
    items = make_items(world, 17)
    texts = write_documents(world, 10, 17)
    assert texts == write_documents(world, 10, 17)
    train = [" ".join(units(text.text, world.language)) for text in texts if text.split == "train"]
    kept = [item.question for item in items.questions] + [item.story for item in items.stories]
    kept += [fact.held(world.lexicon) for fact in world.facts]
    for text in kept:
        said = " ".join(units(text, world.language))
        assert not any(said in document for document in train)
    sizes = [len(units(text.text, world.language)) for text in texts if text.split == "train"]
    assert 20 < sum(sizes) / len(sizes) < 90


def test_every_fact_withheld_or_not_is_written_about(world):
    train = [text.text.lower() for text in write_documents(world, 10, 17) if text.split == "train"]
    stated = {
        fact.row.id: sum(fact.row.subject.lower() in text and fact.row.object.lower() in text for text in train)
        for fact in world.facts
    }
    assert min(stated.values()) >= 2


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"num_relations": 9}, "num_relations: got 9, wanted 1..8"),
        ({"num_objects": 11}, r"num_objects: got 11, wanted 2\.\.10"),
        ({"num_people": 5}, "num_people: got 5, wanted at least num_objects=10"),
        ({"num_people": 5000}, "got more than the"),
        ({"items_per_fact": 5}, r"items_per_fact: got 5, wanted 1\.\.4"),
    ],
)
def test_a_world_that_cannot_be_made_is_one_clear_error(change, wanted):
    with pytest.raises(ValueError, match=wanted):
        make_world(replace(TINY, **change), "en", 17)
    with pytest.raises(ValueError, match="wanted one of en, zh"):
        make_world(TINY, "fr", 17)
