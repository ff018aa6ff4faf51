"""Evaluation: intervals that cover, baselines that a blind model cannot beat, judges that are not fooled."""

from __future__ import annotations

import numpy as np
import pytest
from evaluated import LEVEL, config, question

from components.evaluate.chat import Answered, agreement_scores, answer_scores, holds_only, shares
from components.evaluate.config import Ranking
from components.evaluate.evaluation import error_score
from components.evaluate.figures import summarise
from components.evaluate.generation import cut_span
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
from components.evaluate.saying import Real, Said, Saying, scores_beside_real
from components.evaluate.selection import choose, choose_each
from components.shared.contracts import ItemScore, SpeechTokens


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
    span = Saying(id="u", text="[music]", language="en", speaker=None)
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
    return Heard(row=row, group=f"{origin}_seen", waves={}, texts=texts)


def test_decoded_speech_stands_beside_the_original_and_the_vocoder():
    spoken = [heard("a", "recorded", "the rain goes to Oslo"), heard("b", "synthesized", "the train goes to Oslo")]
    figures = summarise(scores_of(spoken), seed=1, level=LEVEL)
    assert figures["resynthesis_wer_recorded_seen"] == pytest.approx(0.2)
    assert figures["resynthesis_wer_synthesized_seen"] == 0.0
    assert figures["vocoder_wer_recorded_seen"] == figures["resynthesis_wer_recorded_seen_reference"] == 0.0
    assert [item.row.id for item in shown([*spoken, *spoken], 2)] == ["a", "b"]


def test_made_tokens_are_counted_against_the_real_ones():
    row = heard("a", "synthesized", "").row
    saying = Saying(id=row.id, text=row.text, language="en", speaker=None)
    said, real = Said(saying=saying, codes=[1, 2, 3], heard="the train"), Real(codes=row.tokens, heard=row.text)
    figures = summarise(scores_beside_real([said], [real], "sentences"), seed=1, level=LEVEL)
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
