"""The speech-text LM: which ending of a story and which answer to a question it finds likelier.

Speech -> speech (s_to_s), speech -> text (s_to_t) and text -> text (t_to_t, the ceiling) of the same items. Chance is
the best baseline that never sees the story or the question (likelihood.py), for withheld and spoken facts apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from components.evaluate.config import EvaluateConfig
from components.evaluate.evaluation import Evaluation
from components.evaluate.likelihood import (
    Ranked,
    alone_values,
    best_baseline,
    candidate_values,
    majority_credits,
    other_values,
    rank,
)
from components.evaluate.samples import SampleBook
from components.evaluate.selection import choose
from components.evaluate.speech import Speech, read_speech
from components.shared.contracts import ItemScore, Question, Story
from components.shared.engine import Engine, make_engine
from components.shared.formats import Formats, short_answer
from components.shared.manifest import read_table
from components.shared.places import Inputs
from components.shared.speech_lm import load_formats
from components.shared.tracking import Tracker

MODES = ("s_to_s", "s_to_t", "t_to_t")
Item = TypeVar("Item", Story, Question)
WITHHELD, SPOKEN = "withheld", "spoken"


def evaluate(config: EvaluateConfig, inputs: Inputs, book: SampleBook, tracker: Tracker) -> Evaluation:
    """Scores of stories and questions of the split, in every mode, and counts of items left out for lack of speech."""
    folder = inputs.folder("pretrain", "model")
    formats = load_formats(folder)
    engine = make_engine(replace(config.engine, model=str(folder)))
    stories = _chosen(inputs, "stories", Story, config.num_stories, config)
    questions = _chosen(inputs, "questions", Question, config.num_questions, config)
    needed = {name for story in stories for name in utterances_of_story(story)}
    needed |= {name for question in questions for name in utterances_of_question(question)}
    speech = read_speech(inputs, needed)
    counts = f"{len(stories)} stories and {len(questions)} questions"
    tracker.say(f"language modelling: {counts} of split {config.split.value}, {len(needed)} utterances")
    heard = [story for story in stories if all(name in speech for name in utterances_of_story(story))]
    asked = [item for item in questions if all(name in speech for name in utterances_of_question(item))]
    scores: list[ItemScore] = []
    for mode in tracker.progress(MODES, len(MODES), "stories and questions"):
        scores += score_stories(engine, formats, heard, speech, mode, config)
        scores += score_questions(engine, formats, asked, speech, mode, config)
    show(book, scores, heard, asked, speech, config.num_samples)
    dropped = len(stories) - len(heard) + len(questions) - len(asked)
    return Evaluation(scores=scores, metrics={"dropped_without_speech_tokens": float(dropped)})


def _chosen(inputs: Inputs, name: str, row_type: type[Item], num: int, config: EvaluateConfig) -> list[Item]:
    rows = [row for row in read_table(inputs.folder("collect", name), row_type) if row.split == config.split.value]
    return choose(rows, num, seed=config.seed, key=lambda row: row.id)


def utterances_of_story(story: Story) -> list[str]:
    """Ids of the spoken story and its endings."""
    return [story.story_utterance, story.right_utterance, story.wrong_utterance]


def utterances_of_question(question: Question) -> list[str]:
    """Ids of the spoken question and its candidates."""
    return [question.question_utterance, *question.candidate_utterances]


def score_stories(
    engine: Engine, formats: Formats, stories: Sequence[Story], speech: Speech, mode: str, config: EvaluateConfig
) -> list[ItemScore]:
    """Whether the right ending is likelier than the wrong one; blind: the endings alone, as a document of their own."""
    prompts, candidates, documents = [], [], []
    for story in stories:
        told = story.story if mode == "t_to_t" else speech.tokens(story.story_utterance)
        right, wrong = story.right_utterance, story.wrong_utterance
        endings = [speech.tokens(right), speech.tokens(wrong)] if mode == "s_to_s" else [story.right, story.wrong]
        prompts.append(formats.context(told))
        candidates.append([formats.continuation(ending, story.language) for ending in endings])
        documents.append([formats.context(ending) for ending in endings])
    told_values = candidate_values(engine, prompts, candidates, config.story_ranking)
    alone = alone_values(engine, documents, config.story_ranking, formats.vocabulary.end_of_text)
    ranked = rank(told_values, alone, [0] * len(stories), config.story_ranking)
    groups = [WITHHELD if story.withheld else SPOKEN for story in stories]
    coin = [0.5] * len(stories)
    baselines = best_baseline([[item.blind_credit for item in ranked], coin], groups)
    return [
        ItemScore(
            id=story.id,
            task="story",
            mode=mode,
            groups=[group],
            language=story.language,
            cluster=story.fact,
            score=item.credit,
            baseline=baseline,
            weight=1.0,
            reference=story.right,
            answer=(story.right, story.wrong)[item.chosen],
        )
        for story, item, group, baseline in zip(stories, ranked, groups, baselines, strict=True)
    ]


def score_questions(
    engine: Engine, formats: Formats, questions: Sequence[Question], speech: Speech, mode: str, config: EvaluateConfig
) -> list[ItemScore]:
    """Whether the right answer is the likeliest of its relation's; blind: what it is worth after others' questions."""
    prompts, candidates = [], []
    for question in questions:
        asked = question.question if mode == "t_to_t" else speech.tokens(question.question_utterance)
        written = [short_answer(answer, question.language) for answer in question.candidates]
        answers = [speech.tokens(name) for name in question.candidate_utterances] if mode == "s_to_s" else written
        prompts.append(formats.context(asked))
        candidates.append([formats.continuation(answer, question.language) for answer in answers])
    told = candidate_values(engine, prompts, candidates, config.question_ranking)
    blind = other_values(told, [relation_of(item) for item in questions], [item.fact for item in questions])
    right = [question.candidates.index(question.answer) for question in questions]
    return question_scores(questions, rank(told, blind, right, config.question_ranking), mode)


def relation_of(question: Question) -> tuple[str, ...]:
    """Questions that share their candidates: the relation in one language."""
    return (question.language, question.relation, *question.candidates)


def question_scores(questions: Sequence[Question], ranked: Sequence[Ranked], mode: str) -> list[ItemScore]:
    """Item scores of ranked questions beside the best of: the model without the question, majority answer, uniform."""
    groups = [WITHHELD if question.withheld else SPOKEN for question in questions]
    blind = [item.blind_credit for item in ranked]
    majority = majority_credits([relation_of(item) for item in questions], [item.answer for item in questions])
    uniform = [1.0 / len(question.candidates) for question in questions]
    baselines = best_baseline([blind, majority, uniform], groups)
    return [
        ItemScore(
            id=question.id,
            task="question",
            mode=mode,
            groups=[group],
            language=question.language,
            cluster=question.fact,
            score=item.credit,
            baseline=baseline,
            weight=1.0,
            reference=question.answer,
            answer=question.candidates[item.chosen],
        )
        for question, item, group, baseline in zip(questions, ranked, groups, baselines, strict=True)
    ]


def show(
    book: SampleBook,
    scores: Sequence[ItemScore],
    stories: Sequence[Story],
    questions: Sequence[Question],
    speech: Speech,
    num: int,
) -> None:
    """Half stories, half questions, to hear and to read with what the model chose in every mode."""
    chosen = {(row.id, row.mode): row.answer for row in scores}
    names = {"s_to_s": "chosen in speech", "s_to_t": "chosen in text", "t_to_t": "chosen when read"}
    for story in stories[: num - num // 2]:
        texts = {"story": story.story, "right": story.right, "wrong": story.wrong}
        texts |= {label: chosen[story.id, mode] for mode, label in names.items()}
        title = "Story, fact withheld from speech" if story.withheld else "Story, fact also spoken"
        book.add(title, story.language, texts, {"story": speech.wave(story.story_utterance)}, key=story.id)
    for question in questions[: num // 2]:
        texts = {"question": question.question, "right": question.answer}
        texts |= {label: chosen[question.id, mode] for mode, label in names.items()}
        title = "Question, fact withheld from speech" if question.withheld else "Question, fact also spoken"
        book.add(
            title, question.language, texts, {"question": speech.wave(question.question_utterance)}, key=question.id
        )
