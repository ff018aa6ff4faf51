"""The whole of evaluate on a real tiny model: every mode is scored, the same seed gives the same scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from evaluated import NUM_CODES, config, evaluate, question, write_speech

from components.evaluate.stage import evaluator
from components.shared.contracts import ItemScore, Question, Sample, Story
from components.shared.manifest import read_table, write_table


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A closed world of ten facts, its speech, and a random language model."""
    data = tmp_path_factory.mktemp("run") / "data"
    names = ["Oslo", "Bern", "Rome", "Bonn"]
    questions = [question(i, names[i % 4], "home", i % 2 == 0) for i in range(10)]
    stories = [
        Story(
            id=f"s{i}",
            language="en",
            story=f"Person {i} packs the bags.",
            right=f"The train goes to {names[i % 4]}.",
            wrong=f"The train goes to {names[(i + 1) % 4]}.",
            fact=f"f{i}",
            withheld=i % 2 == 0,
            story_utterance=f"u-s{i}",
            right_utterance=f"u-train-{names[i % 4]}",
            wrong_utterance=f"u-train-{names[(i + 1) % 4]}",
            split="test" if i else "validation",
        )
        for i in range(10)
    ]
    write_table(data / "collect" / "questions", questions, Question)
    write_table(data / "collect" / "stories", stories, Story)
    said = {f"u-{name}": name for name in names} | {f"u-train-{name}": f"The train goes to {name}." for name in names}
    said |= {asked.question_utterance: asked.question for asked in questions[:-1]}  # one question was not spoken
    said |= {story.story_utterance: story.story for story in stories}
    write_speech(data, said)
    write_language_model(data / "pretrain" / "model")
    return data


def write_language_model(folder: Path) -> None:
    from components.shared.lm_config import LmShapeConfig
    from components.shared.manifest import seal
    from components.shared.speech_lm import random_model, save_model
    from components.shared.tokens import Vocabulary, add_speech, train_bpe

    tokenizer = add_speech(train_bpe(["The train goes to Oslo."], 300), NUM_CODES)
    vocabulary = Vocabulary.of(tokenizer, NUM_CODES)
    shape = LmShapeConfig(
        hidden_size=32,
        feed_forward_size=64,
        num_layers=2,
        num_heads=2,
        num_key_value_heads=2,
        rope_theta=10_000.0,
        init_std=0.2,
        tied=True,
        pad_vocabulary_to=64,
    )
    save_model(folder, random_model(shape, vocabulary, 256, seed=1), tokenizer, vocabulary)
    seal(folder)


def test_the_language_model_is_scored_in_every_mode_with_its_speech(data, tmp_path):
    torch.set_num_threads(1)
    metrics, folder = evaluate(data, tmp_path, "pretrain", config())
    scores = list(read_table(folder / "scores", ItemScore))
    assert {(row.task, row.mode) for row in scores} == {
        (task, mode) for task in ("story", "question") for mode in ("s_to_s", "s_to_t", "t_to_t")
    }
    assert metrics["story_t_to_t_items"] == 9.0, "items of validation are left alone"
    assert metrics["question_s_to_s_items"] == 9.0
    assert metrics["dropped_without_speech_tokens"] == 1.0
    assert metrics["story_s_to_s_chance"] >= 0.5
    assert metrics["question_s_to_t_chance"] >= 0.25
    samples = list(read_table(folder / "samples", Sample))
    assert len(samples) == 2
    assert all((folder / "samples" / sound.audio).is_file() for sample in samples for sound in sample.sounds)
    assert json.loads((folder / "metrics.json").read_text()) == metrics


def test_the_same_seed_gives_the_same_scores(data, tmp_path):
    first, _ = evaluate(data, tmp_path / "a", "pretrain", config(num_stories=3, num_questions=3))
    second, _ = evaluate(data, tmp_path / "b", "pretrain", config(num_stories=3, num_questions=3))
    assert first == second


def test_an_unknown_model_is_one_line():
    with pytest.raises(ValueError, match="--item: got 'mix', wanted one of speech_tokenizer"):
        evaluator("mix")
