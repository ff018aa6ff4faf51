"""Planning of spans and words: what holds for every text and every number of words."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from components.shared.words import ends_sentence, words
from components.synthesize.interleave import plan_spans

SEEDS = st.integers(0, 2**32 - 1)


def _many(num_words: int, mean_span: float, ratio: float, times: int = 2000) -> list[list[tuple[int, int]]]:
    rng = np.random.default_rng(7)
    return [plan_spans(num_words, mean_span, ratio, rng) for _ in range(times)]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 3000), st.floats(1, 40), st.floats(0, 1), SEEDS)
def test_spans_are_in_order_inside_and_cover_the_ratio_to_the_word(num_words, mean_span, ratio, seed):
    spans = plan_spans(num_words, mean_span, ratio, np.random.default_rng(seed))
    edges = [0, *(edge for span in spans for edge in span), num_words]
    assert edges == sorted(edges)
    assert all(stop > start for start, stop in spans)
    covered = sum(stop - start for start, stop in spans)
    assert abs(covered - ratio * num_words) <= 0.5
    room = num_words - covered >= len(spans)
    assert not room or all(a[1] < b[0] for a, b in itertools.pairwise(spans))


@given(st.integers(0, 300), SEEDS)
def test_equal_seeds_give_equal_spans(num_words, seed):
    one, two = (plan_spans(num_words, 10, 0.3, np.random.default_rng(seed)) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("mean_span", [2.0, 5.0, 10.0, 25.0])
def test_lengths_are_poisson_of_the_mean_without_its_zero(mean_span):
    lengths = [stop - start for spans in _many(2000, mean_span, 0.3, 300) for start, stop in spans]
    rate = mean_span
    for _ in range(50):
        rate = mean_span * -np.expm1(-rate)
    variance = mean_span * (1 + rate - mean_span)
    assert np.mean(lengths) == pytest.approx(mean_span, rel=0.02)
    assert np.var(lengths) == pytest.approx(variance, rel=0.05 if mean_span >= 5 else 0.2)  # zeros are mended
    if mean_span == 10:
        counts = np.bincount(lengths, minlength=31)[5:17]
        wanted = stats.poisson.pmf(np.arange(5, 17), rate)
        assert np.abs(counts / counts.sum() - wanted / wanted.sum()).max() < 0.01


def test_a_mean_of_one_gives_single_words():
    assert all(stop - start == 1 for start, stop in plan_spans(100, 1.0, 0.4, np.random.default_rng(0)))


@pytest.mark.parametrize("num_words", [100, 1000])
def test_no_part_of_a_text_is_favoured(num_words):
    covered = np.zeros(num_words)
    for spans in _many(num_words, 10, 0.3, 4000):
        for start, stop in spans:
            covered[start:stop] += 1 / 4000
    tenths = covered.reshape(10, -1).mean(1)
    assert np.abs(tenths - 0.3).max() < 0.03
    np.testing.assert_allclose(covered, covered[::-1], atol=0.05)
    assert covered[0] > 0.12  # a text may begin with speech


@pytest.mark.parametrize("num_words", [10, 20])
def test_a_short_text_gets_one_span_of_its_share(num_words):
    for spans in _many(num_words, 10, 0.3, 200):
        assert [stop - start for start, stop in spans] == [round(0.3 * num_words)]


@pytest.mark.parametrize(
    "numbers", [(-1, 10, 0.3), (10, 0.5, 0.3), (10, 10, 1.1), (10, 10, -0.1), (10, float("nan"), 0.3)]
)
def test_impossible_numbers_are_refused(numbers):
    with pytest.raises(ValueError, match="plan_spans: got num_words="):
        plan_spans(*numbers, np.random.default_rng(0))


TEXTS = st.text(
    alphabet=st.one_of(st.characters(), st.sampled_from("ab .,!?…—“”\n你好世界北京大学，。😀")), max_size=80
)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_words_are_the_whole_text_or_there_are_none(text):
    places = words(text)
    assert "".join(text[start:stop] for start, stop in places) in (text, "")
    assert bool(places) == any(c.isalnum() for c in text)
    assert all(any(c.isalnum() for c in text[start:stop]) for start, stop in places)
    assert not any(text[:stop][-1:].isspace() for _, stop in places[:-1])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('Dr. Smith said: "Hi" — and left 😀. ', ["Dr.", " Smith", " said:", ' "Hi" —', " and", " left 😀. "]),
        ("他在北京大学学习，很好。", ["他", "在", "北京大学", "学习，", "很", "好。"]),
        ("我用 iPhone 打电话", ["我", "用", " iPhone", " 打电话"]),
        ("😀 …", []),
        ("", []),
    ],
)
def test_words_of_english_and_mandarin(text, wanted):
    assert [text[start:stop] for start, stop in words(text)] == wanted


def test_sentences_end_where_a_reader_ends_them():
    assert [ends_sentence(w) for w in (" left.", ' go!"', " what?", "好。", "end\n")] == [True] * 5
    assert [ends_sentence(w) for w in ("Dr.", " e.g.", " J.", " 3.5", "好，", " and")] == [False] * 6
