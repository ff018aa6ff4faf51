"""What speech of a text may take, judged many texts at a time: pace, loops, words, and the ids of speakable texts."""

from __future__ import annotations

from collections import Counter

import letters
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.speakable import speakable
from components.text_to_token.encoding import WordIds
from components.text_to_token.model import all_plain_ids
from components.text_to_token.pace import Pace, features, longest_loops, num_words
from components.text_to_token.pairs import make_tokenizer, select


@given(st.lists(st.lists(st.integers(0, 3), max_size=40), max_size=4))
def test_loops_are_found_as_a_search_by_hand_finds_them(utterances):
    wanted = []
    for codes in utterances:
        best = 0
        for period in range(1, 7):
            for start in range(len(codes)):
                stop = start + period
                while stop < len(codes) and codes[stop] == codes[stop - period]:
                    stop += 1
                if stop - start >= 2 * period and stop <= len(codes):
                    best = max(best, stop - start)
        wanted.append(best)
    assert longest_loops([np.array(codes, dtype=np.uint16) for codes in utterances]).tolist() == wanted


def test_real_speech_has_no_fault_and_what_cannot_be_speech_has_one():
    rng = np.random.default_rng(0)
    texts = [speech for speech in letters.sentences(300, seed=3)]
    said = [text.lower()[: rng.integers(8, 40)] for text in texts]
    pace = Pace.learn(("en", text, np.array(letters.say(text))) for text in said)
    faults = pace.faults(pace.bounds(said, "en"), "en", [np.array(letters.say(text)) for text in said])
    assert sum(bool(fault) for fault in faults) <= 3
    text = "anna sees two dogs"
    assert pace.expected(text, "en") == pytest.approx(len(letters.say(text)), rel=0.1)
    wrong = [np.array(codes) for codes in ([1, 2], list(range(28)) * 2, [1, 2, 3] * 6)]
    assert pace.faults(pace.bounds([text] * 3, "en"), "en", wrong) == ["too_short", "too_long", "loop"]
    assert Pace.from_json(pace.to_json()) == pace
    with pytest.raises(ValueError, match="got language 'fr'"):
        pace.bounds([text], "fr")


def test_words_are_counted_ideographs_one_by_one():
    assert num_words(["hello, two worlds!", "我有两个 iphone.", ", .", "", "a-b c"]).tolist() == [3, 5, 0, 0, 2]


def test_letters_ideographs_and_marks_are_counted_text_by_text():
    counted = features(["two dogs, no!", "", "我有两个 iphone."])
    assert counted.tolist() == [[1, 9, 0, 2], [1, 0, 0, 0], [1, 6, 4, 1]]


TOKENIZER = make_tokenizer(select(letters.rows(), Counter())["train"], 300, letters.NUM_CODES)


@given(
    st.lists(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("ab ,.?!'1你好")), max_size=30), max_size=4)
)
def test_words_joined_have_the_ids_of_the_text(texts):
    said = [text for text in (speakable(text, language) for text in texts for language in ("en", "zh")) if text]
    assert WordIds(TOKENIZER).encode(said) == all_plain_ids(TOKENIZER, said)
