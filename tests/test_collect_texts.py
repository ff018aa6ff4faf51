"""collect's texts: read without repeats, tidied, split by content, chosen for speech and cut into phrases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from components.collect.ledger import Ledger
from components.collect.phrases import cut_phrases
from components.collect.splits import split_by_content, units
from components.collect.texts import read_texts, speakable, tidy
from components.shared.contracts import Text
from tests.collected import NOUNS, PHRASES, SPLIT, VERBS, text_corpus, write_dialogues


def test_texts_of_all_corpora_are_read_without_repeats(tmp_path):
    texts = ["a first page.", "a second page.", "a first page.", "  ", "a third page."]
    write_dialogues(tmp_path / "a.json", texts)
    write_dialogues(tmp_path / "b.json", [*texts, "only here."])
    ledger = Ledger()
    configs = {"a": text_corpus("a.json"), "b": text_corpus("b.json")}
    found = read_texts(configs, SPLIT, 17, tmp_path, ledger)
    assert sorted(text.text for text in found) == sorted(
        ["A first page.", "A second page.", "A third page.", "Only here."]
    )
    assert dict(ledger.drops) == {"duplicate_text": 5, "empty_text": 2}
    with pytest.raises(ValueError, match=r"collect\.text_corpora\.d: path: got 'd'"):
        read_texts({"d": text_corpus("d")}, SPLIT, 17, tmp_path, ledger)


@pytest.mark.parametrize(
    ("given", "language", "wanted"),
    [
        ("  hello   there ", "en", "Hello there."),
        ("i think i’m late,", "en", "I think I'm late."),
        ("你好 吗?", "zh", "你好吗？"),
        ("是的,我可以", "zh", "是的，我可以。"),
        ("", "en", ""),
    ],
)
def test_a_line_becomes_a_sentence(given, language, wanted):
    assert tidy(given, language) == wanted


def test_only_sentences_of_known_words_and_plain_letters_are_spoken():
    text = Text(
        id="t",
        text="We walked along the river. We walked along the rivr. In 2019 we walked along the river. Yes.",
        language="en",
        corpus="c",
        license="CC0-1.0",
        split="train",
    )
    found = speakable([text], replace(PHRASES, min_word_uses=2))
    assert [sentence for _, sentence in found["train"]] == ["We walked along the river."]


def test_texts_that_share_five_words_stay_together_unless_the_words_are_stock():
    stock = [f"{name} followed by the pound key" for name in NOUNS[:6]]
    pairs = [f"{verb} the old gate of the castle {end}" for verb in VERBS[:2] for end in ("today", "tonight")]
    alone = [f"{noun} {verb} alone" for noun in NOUNS for verb in VERBS]
    texts = [*stock, *pairs, *alone]
    ledger = Ledger()
    splits = split_by_content(texts, "en", SPLIT, 3, ledger)
    assert ledger.stock["en"] == {"followed by the pound key", "the old gate of the", "old gate of the castle"}
    shares = {split: splits.count(split) / len(texts) for split in ("train", "validation", "test")}
    assert shares["test"] == pytest.approx(0.3, abs=0.02) and shares["validation"] == pytest.approx(0.2, abs=0.02)
    by_text = dict(zip(texts, splits, strict=True))
    assert units("It's 9 o'clock, Ms. Poe!", "en") == ["it's", "9", "o'clock", "ms", "poe"]
    assert units("我有AI，2个。", "zh") == ["我", "有", "ai", "2", "个"]
    tied = split_by_content(pairs * 2 + alone, "en", replace(SPLIT, stock_uses=100), 3, Ledger())
    assert len({tied[i] for i in range(2 * len(pairs))}) == 1 and len(by_text) == len(texts)


def test_phrases_are_spans_of_one_sentence():
    text = Text(
        id="t",
        text="Anna lives in Boston. She has a parrot, and she plays the harp! In 1990 she moved.",
        language="en",
        corpus="closed_world",
        license="CC0-1.0",
        split="train",
    )
    phrases = [phrase.text for phrase in cut_phrases([text] * 200, PHRASES, 100, np.random.default_rng(1))]
    assert len(phrases) == 100 and {len(phrase.split()) for phrase in phrases} >= {2, 3, 4, 5, 6}
    assert all(phrase in text.text and not set(phrase) & set(".!?0123456789") for phrase in phrases)
    mandarin = replace(text, text="吴敏每天练习小提琴。她住在北京，她的宠物是兔子。", language="zh")
    phrases = [phrase.text for phrase in cut_phrases([mandarin] * 200, PHRASES, 20, np.random.default_rng(1))]
    assert len(phrases) == 20 and all(phrase in mandarin.text and "。" not in phrase for phrase in phrases)
