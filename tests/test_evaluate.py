"""Evaluation: intervals that cover, baselines that a blind model cannot beat, scores of a real tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from components.evaluate.chat import Answered, agreement_scores, answer_scores, holds_only, shares
from components.evaluate.config import EvaluateConfig, Ranking, Split
from components.evaluate.evaluation import error_score
from components.evaluate.figures import summarise
from components.evaluate.generation import Span, cut_span, sentence_scores
from components.evaluate.intervals import difference_interval, ratio_interval
from components.evaluate.language_modelling import question_scores
from components.evaluate.likelihood import (
    Ranked,
    alone_values,
    best_baseline,
    candidate_values,
    credit,
    majority_credits,
    other_values,
    rank,
)
from components.evaluate.resynthesis import DECODED, ORIGINAL, VOCODED, Heard, scores_of, shown
from components.evaluate.selection import choose, choose_each
from components.evaluate.stage import evaluator, run
from components.shared.contracts import ItemScore, Question, Sample, SpeechTokens, Story, Utterance
from components.shared.engine import EngineConfig, EngineKind
from components.shared.manifest import read_table, write_table
from components.shared.places import Inputs, Outputs
from components.shared.tracking import TerminalTracker

LEVEL = 0.95


def item(**changes) -> ItemScore:
    values = {
        "id": "q1",
        "task": "question",
        "mode": "s_to_t",
        "groups": ["spoken"],
        "language": "en",
        "cluster": "f1",
        "score": 1.0,
        "baseline": 0.0,
        "weight": 1.0,
        "reference": "Oslo",
        "answer": "Oslo",
    }
    return ItemScore(**(values | changes))


# Intervals


def test_an_interval_covers_the_true_accuracy_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        facts = rng.beta(2, 3, 60)  # each fact has its own chance; three questions share it
        scores = (rng.random((60, 3)) < facts[:, None]).astype(float)
        clusters = np.repeat([f"f{i}" for i in range(60)], 3)
        found = ratio_interval(scores.ravel(), np.ones(180), clusters, seed=trial, level=LEVEL)
        covered += found.low <= 0.4 <= found.high
    assert 0.90 <= covered / 200 <= 0.98


def test_clusters_widen_an_interval_that_counts_repeats_as_news():
    scores, facts = [1.0, 0.0] * 20, [f"f{i}" for i in range(40)]
    alone = ratio_interval(scores, [1.0] * 40, facts, seed=1, level=LEVEL)
    repeated = ratio_interval(scores * 5, [1.0] * 200, facts * 5, seed=1, level=LEVEL)
    fooled = ratio_interval(scores * 5, [1.0] * 200, [str(i) for i in range(200)], seed=1, level=LEVEL)
    assert repeated.high - repeated.low == pytest.approx(alone.high - alone.low)
    assert fooled.high - fooled.low < 0.6 * (alone.high - alone.low)


def test_all_right_is_not_certainty():
    found = ratio_interval([1.0] * 30, [1.0] * 30, [str(i) for i in range(30)], seed=1, level=LEVEL)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025 ** (1 / 30))
    same = difference_interval([0.0] * 30, [0.0] * 30, [1.0] * 30, [str(i) for i in range(30)], seed=1, level=LEVEL)
    assert same.low == -same.high < 0


def test_a_paired_difference_is_sharper_than_two_separate_intervals():
    rng = np.random.default_rng(3)
    hard = rng.random(100) < 0.5
    ours, theirs = (~hard).astype(float), (~hard & (rng.random(100) < 0.8)).astype(float)
    names = [str(i) for i in range(100)]
    paired = difference_interval(ours, theirs, np.ones(100), names, seed=1, level=LEVEL)
    a, b = (ratio_interval(x, np.ones(100), names, seed=1, level=LEVEL) for x in (ours, theirs))
    assert paired.low > 0
    assert paired.high - paired.low < (a.high - a.low + b.high - b.low) / 2


def test_an_interval_of_nothing_is_refused():
    with pytest.raises(ValueError, match="0 items"):
        ratio_interval([], [], [], seed=1, level=LEVEL)


# Figures


def test_a_word_error_rate_is_errors_over_words_and_never_mixes_groups():
    rows = [
        item(id="a", task="transcription", mode="wer", groups=["recorded_seen"], cluster="a", score=1, weight=2),
        item(id="b", task="transcription", mode="wer", groups=["recorded_seen"], cluster="b", score=1, weight=8),
        item(id="c", task="transcription", mode="wer", groups=["synthesized_seen"], cluster="c", score=0, weight=5),
    ]
    figures = summarise(rows, seed=1, level=LEVEL)
    assert figures["transcription_wer_recorded_seen"] == pytest.approx(0.2)
    assert "transcription_wer" not in figures
    assert figures["transcription_wer_recorded_seen_reference"] == 0.0
    assert figures["transcription_wer_recorded_seen_items"] == 2.0


def test_without_a_baseline_there_is_nothing_to_differ_from():
    figures = summarise([item(mode="wer", groups=["spans"], baseline=None)], seed=1, level=LEVEL)
    assert sorted(figures) == [f"question_wer_spans{end}" for end in ("", "_high", "_items", "_low")]


def test_accuracies_stand_beside_chance_for_withheld_and_spoken_facts_apart():
    rows = [item(id=str(i), cluster=str(i), score=float(i % 2), baseline=0.25) for i in range(40)]
    rows += [item(id=f"w{i}", cluster=f"w{i}", groups=["withheld"], score=0.0, baseline=0.25) for i in range(40)]
    figures = summarise(rows, seed=1, level=LEVEL)
    assert figures["question_s_to_t"] == pytest.approx(0.25)
    assert figures["question_s_to_t_spoken_difference_low"] > 0
    assert figures["question_s_to_t_withheld_difference_high"] < 0
    assert figures["question_s_to_t_spoken_chance"] == 0.25
    assert "question_s_to_t_en" not in figures, "one language needs no line of its own"


# Baselines


def test_ties_share_their_credit():
    assert credit([1.0, 2.0, 2.0], 2) == 0.5
    assert credit([1.0, 2.0, 2.0], 0) == 0.0


def test_the_majority_answer_is_that_of_its_relation():
    relations, answers = ["home", "home", "home", "pet", "pet"], ["Oslo", "Oslo", "Bern", "cat", "dog"]
    assert majority_credits(relations, answers) == [1.0, 1.0, 0.0, 0.5, 0.5]


def test_the_best_baseline_is_chosen_for_each_group():
    chosen = best_baseline([[1.0, 0.0, 0.0, 0.0], [0.4, 0.4, 0.4, 0.4]], ["a", "a", "b", "b"])
    assert chosen == [1.0, 0.0, 0.4, 0.4]


def question(number: int, answer: str, relation: str, withheld: bool) -> Question:
    candidates = ["Oslo", "Bern", "Rome", "Bonn"]
    return Question(
        id=f"q{number}",
        language="en",
        question=f"Where does person {number} live?",
        answer=answer,
        candidates=candidates,
        relation=relation,
        fact=f"f{number}",
        withheld=withheld,
        question_utterance=f"u-q{number}",
        candidate_utterances=[f"u-{name}" for name in candidates],
        split="test",
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_model_that_sees_no_question_cannot_beat_chance(seed):
    rng = np.random.default_rng(seed)
    skewed = rng.choice(["Oslo", "Bern", "Rome", "Bonn"], size=300, p=[0.5, 0.3, 0.1, 0.1])
    questions = [question(i, str(skewed[i]), f"r{i % 3}", bool(i % 4 == 0)) for i in range(300)]
    habits = {f"r{i}": rng.random(4).tolist() for i in range(3)}  # whatever it answers depends on the relation alone
    blind = []
    for asked in questions:
        right = asked.candidates.index(asked.answer)
        value = credit(habits[asked.relation], right)
        blind.append(Ranked(chosen=int(np.argmax(habits[asked.relation])), credit=value, blind_credit=0.0))
    figures = summarise(question_scores(questions, blind, "s_to_t"), seed=seed, level=LEVEL)
    assert figures["question_s_to_t"] <= figures["question_s_to_t_chance"] + 0.02
    assert figures["question_s_to_t_difference_low"] <= 0


def test_an_item_without_words_has_no_error_rate():
    span = Span(id="u", text="[music]", language="en")
    assert (
        error_score(span, task="generation", groups=["spans"], reference="[music]", answer="hello", beside=None) is None
    )


def test_spans_are_words_in_a_row_and_the_same_for_the_same_seed():
    text = "After a long trip Anna took the last train home, and nobody was there to meet her at the station."
    span = cut_span(text, config(mean_span=4.0))
    assert span in text
    assert span == cut_span(text, config(mean_span=4.0))
    lengths = [len(cut_span(f"{text} {i}", config(mean_span=4.0)).split()) for i in range(200)]
    assert 3.6 <= np.mean(lengths) <= 4.4
    assert cut_span("小狗在公园里跑。", config()) in "小狗在公园里跑。"


def test_a_reply_that_names_every_candidate_is_no_answer():
    names = ["Oslo", "Bern"]
    assert holds_only("She lives in Oslo.", "Oslo", names, "en")
    assert not holds_only("Oslo or Bern.", "Oslo", names, "en")
    assert not holds_only("Bernadette told me.", "Bern", names, "en")
    assert holds_only("他住在北京。", "北京", ["北京", "上海"], "zh")


def heard(name: str, origin: str, decoded: str) -> Heard:
    row = SpeechTokens(
        id=name,
        tokens=[1, 2],
        duration_s=0.2,
        text="the train goes to Oslo",
        text_source="human",
        language="en",
        speaker="s",
        corpus="c",
        license="MIT",
        split="test",
        origin=origin,
    )
    texts = {ORIGINAL: "the train goes to Oslo", DECODED: decoded, VOCODED: "the train goes to Oslo"}
    return Heard(row=row, waves={}, texts=texts)


def test_decoded_speech_stands_beside_the_original_and_the_vocoder():
    spoken = [heard("a", "recorded", "the rain goes to Oslo"), heard("b", "synthesized", "the train goes to Oslo")]
    figures = summarise(scores_of(spoken), seed=1, level=LEVEL)
    assert figures["resynthesis_wer_recorded"] == pytest.approx(0.2)
    assert figures["resynthesis_wer_synthesized"] == 0.0
    assert figures["vocoder_wer_recorded"] == figures["resynthesis_wer_recorded_reference"] == 0.0
    assert [item.row.id for item in shown([*spoken, *spoken], 2)] == ["a", "b"]


def test_made_tokens_are_counted_against_the_real_ones():
    row = heard("a", "synthesized", "").row
    figures = summarise(sentence_scores([row], [[1, 2, 3]], ["the train"], [row.text]), seed=1, level=LEVEL)
    assert figures["generation_length_sentences"] == 1.5
    assert figures["generation_wer_sentences"] == pytest.approx(0.6)
    assert figures["generation_wer_sentences_reference"] == 0.0


def test_replies_are_judged_in_text_and_in_speech_beside_the_commonest_answer():
    asked = [question(i, "Oslo" if i < 3 else "Bern", "home", False) for i in range(4)]
    answered = [
        Answered(question=item, text="It is Bern.", codes=[1], heard="It is burn.", finished=i > 0)
        for i, item in enumerate(asked)
    ]
    figures = summarise(answer_scores(answered) + agreement_scores(answered), seed=1, level=LEVEL)
    assert figures["reply_s_to_t"] == 0.25
    assert figures["reply_s_to_s"] == 0.0
    assert figures["reply_s_to_t_chance"] == 0.75
    assert figures["reply_wer_speech"] == pytest.approx(1 / 3)
    assert "reply_wer_speech_reference" not in figures
    assert shares(answered)["replies_finished"] == 0.75


# Selection


def test_a_grown_corpus_keeps_most_of_the_chosen_items():
    before = choose([f"u{i}" for i in range(100)], 20, seed=1, key=str)
    after = choose([f"u{i}" for i in range(110)], 20, seed=1, key=str)
    assert len(set(before) & set(after)) >= 14
    assert choose([f"u{i}" for i in range(99, -1, -1)], 20, seed=1, key=str) == before, "order of the rows is no matter"


def test_every_group_gets_its_share():
    chosen = choose_each(range(100), 3, seed=1, key=str, group=lambda i: "rare" if i < 2 else "common")
    assert sorted(i < 2 for i in chosen) == [False, False, False, True, True]


# A real model


class Habit:
    """An engine whose likelihoods are written down: an id costs its own value in nats, twice that after prompt (1,)."""

    def score(self, prompts, continuations):
        return [
            [-float(i) * (2.0 if p == [1] else 1.0) for i in c] for p, c in zip(prompts, continuations, strict=True)
        ]


def test_rankings_differ_only_in_how_length_counts():
    candidates = [[[2], [1, 1, 1, 1, 1]]]
    total = candidate_values(Habit(), [[1]], candidates, Ranking.total)
    mean = candidate_values(Habit(), [[1]], candidates, Ranking.mean)
    assert total == [[-4.0, -10.0]]
    assert mean == [[-4.0, -2.0]]
    blind = [[-3.5, -1.0]]
    assert rank(total, blind, [0], Ranking.total)[0].credit == 1.0
    assert rank(total, blind, [0], Ranking.total)[0].blind_credit == 0.0
    assert rank(mean, blind, [0], Ranking.mean)[0].credit == 0.0
    assert rank(total, [[-1.0, -9.0]], [1], Ranking.gain)[0].credit == 1.0  # -3 against -1


def test_an_ending_alone_is_scored_behind_the_token_that_all_endings_begin_with():
    shared = alone_values(Habit(), [[[7, 2, 3], [7, 2, 4]]], Ranking.total, start=9)
    apart = alone_values(Habit(), [[[2, 3], [4]]], Ranking.total, start=9)
    assert (shared, apart) == ([[-5.0, -6.0]], [[-5.0, -4.0]])


def test_a_question_is_never_among_those_that_stand_for_not_having_seen_it():
    values = [[-1.0, -9.0], [-1.0, -9.0], [-7.0, -3.0], [-5.0, -5.0]]
    found = other_values(values, ["home", "home", "home", "pet"], ["f1", "f1", "f2", "f3"])
    assert found == [[-7.0, -3.0], [-7.0, -3.0], [-1.0, -9.0], [0.0, 0.0]]


def engine_config() -> EngineConfig:
    return EngineConfig(
        kind=EngineKind.transformers,
        model="",
        dtype="float32",
        max_batch=8,
        max_length=256,
        max_tokens=4096,
        num_threads=1,
        logprobs=False,
    )


def config(**changes) -> EvaluateConfig:
    values = {
        "seed": 3,
        "split": Split.test,
        "level": LEVEL,
        "start": "",
        "judges": {},
        "story_ranking": Ranking.mean,
        "question_ranking": Ranking.mean,
        "mean_span": 10.0,
        "temperature": 0.0,
        "engine": engine_config(),
        "num_utterances": 4,
        "num_sentences": 4,
        "num_stories": 50,
        "num_questions": 50,
        "num_replies": 4,
        "max_reply_tokens": 64,
        "num_decoded": 2,
        "num_samples": 2,
    }
    return EvaluateConfig(**(values | changes))


NUM_CODES = 32


def write_speech(data: Path, said: dict[str, str]) -> None:
    """Utterances and tokens of (id -> text): noise as sound, tokens by a hash of the text."""
    rng = np.random.default_rng(0)
    folder = data / "collect" / "utterances"
    (folder / "audio").mkdir(parents=True)
    utterances, tokens = [], []
    for number, (name, text) in enumerate(sorted(said.items())):
        wave = (0.1 * rng.standard_normal(4000)).astype(np.float32)
        soundfile.write(folder / "audio" / f"{name}.flac", wave, 16_000)
        shared = {
            "id": name,
            "duration_s": 0.25,
            "text": text,
            "text_source": "human",
            "language": "en",
            "speaker": f"s{number % 2}",
            "corpus": "evaluation",
            "license": "CC0-1.0",
            "split": "test",
            "origin": "synthesized",
        }
        sound = {"audio": f"audio/{name}.flac", "sample_rate_hz": 16_000, "bandwidth_hz": 8000.0, "rms_dbfs": -20.0}
        utterances.append(Utterance(**shared, **sound))
        tokens.append(SpeechTokens(**shared, tokens=[sum(map(ord, text)) % NUM_CODES, number % NUM_CODES, 3]))
    write_table(folder, utterances, Utterance)
    write_table(
        data / "tokenize" / "tokens", tokens, SpeechTokens, extra={"num_codes": NUM_CODES, "tokens_per_s": 12.5}
    )


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


def evaluate(data: Path, where: Path, item: str, settings: EvaluateConfig) -> tuple[dict[str, float], Path]:
    outputs = Outputs(root=where / item, work=where / "work", item=item)
    outputs.root.mkdir(parents=True)
    metrics = run(settings, Inputs(data), outputs, TerminalTracker())
    outputs.publish(metrics)
    return metrics, outputs.root


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
