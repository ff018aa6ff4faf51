"""What is said is heard, alone or among others; error rates count what a person would count."""

from __future__ import annotations

import numpy as np
import pytest

from components.shared import recognizer
from components.shared.audio import WHISPER_RATE_HZ
from components.shared.recognizer import Recognizer, count_errors, cut, normalize_text, word_error_rate

SAID = (
    "The old bridge crosses the river near the market.",
    "Please close the window before you leave the house.",
    "She has twenty books and a loaf of bread.",
)


@pytest.fixture(scope="module")
def judge() -> Recognizer:
    """Whisper tiny.en from its piece."""
    try:
        return Recognizer("piece:whisper-tiny.en")
    except ConnectionError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def spoken() -> list[np.ndarray]:
    """The sentences, said by a voice at 24 kHz."""
    from components.collect.voices import make_voice

    try:
        voice = make_voice("hibari:heart")
    except ConnectionError as error:
        pytest.skip(str(error))
    return [voice.speak(text, "en", seed) for seed, text in enumerate(SAID)]


def test_sentences_are_heard_word_by_word(judge: Recognizer, spoken: list[np.ndarray]) -> None:
    assert word_error_rate(SAID, judge.transcribe(spoken, 24_000, "en"), "en").errors == 0


def test_a_clip_is_heard_the_same_alone(judge: Recognizer, spoken: list[np.ndarray]) -> None:
    together = judge.transcribe([spoken[2], spoken[0]], 24_000, "en")
    assert judge.transcribe([spoken[0]], 24_000, "en") == together[1:]


def test_a_long_clip_is_heard_in_pieces(
    judge: Recognizer, spoken: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    pause = np.zeros(24_000, np.float32)
    monkeypatch.setattr(recognizer, "cut", lambda wave: cut(wave, longest_s=5.0))
    heard = judge.transcribe([np.concatenate([spoken[0], pause, spoken[1]])], 24_000, "en")
    assert word_error_rate([f"{SAID[0]} {SAID[1]}"], heard, "en").errors == 0


def test_silence_ends(judge: Recognizer) -> None:
    assert len(judge.transcribe([np.zeros(WHISPER_RATE_HZ, np.float32)], WHISPER_RATE_HZ, "en")[0]) < 60


def test_what_it_cannot_hear_gets_one_line(judge: Recognizer) -> None:
    with pytest.raises(ValueError, match="got language 'zh', wanted en"):
        judge.transcribe([], 16_000, "zh")
    with pytest.raises(ValueError, match=r"wave 0: got shape \(0,\)"):
        judge.transcribe([np.zeros(0, np.float32)], 16_000, "en")
    with pytest.raises(ValueError, match=r"wave 1: .* finite"):
        judge.transcribe([np.zeros(9, np.float32), np.full(9, np.nan, np.float32)], 16_000, "en")


def test_long_waves_are_cut_where_it_is_quiet() -> None:
    wave = np.ones(10 * WHISPER_RATE_HZ, np.float32)
    wave[int(4.4 * WHISPER_RATE_HZ) : int(4.8 * WHISPER_RATE_HZ)] = 0
    pieces = cut(wave, longest_s=5.0)
    assert np.array_equal(np.concatenate(pieces), wave)
    assert 4.4 <= len(pieces[0]) / WHISPER_RATE_HZ <= 4.8
    assert all(len(piece) <= 5 * WHISPER_RATE_HZ for piece in pieces)


@pytest.mark.parametrize(
    ("text", "language", "normal"),
    [
        ("Mr. Lee's got twenty-one cats!", "en", "mister lee has got 21 cats"),
        ("It’s  COLD, isn't it?", "en", "it is cold is not it"),
        ("The colour grey, honoured at THE THEATRE.", "en", "the color gray honored at the theater"),
        ("Um, they've paid two hundred and three dollars", "en", "they have paid $203"),
        ("IN EIGHTEEN FORTY FIVE", "en", "in 1845"),
        ("你好，世界！ Ａ", "zh", "你好世界a"),
        ("這是後來的頭髮", "zh", "这是后来的头发"),
        ("《三体》：“他說——走！”……", "zh", "三体他说走"),
        ("2015年3月，降价3.5%", "zh", "二零一五年三月降价百分之三点五"),
        ("有２個，第 12 次", "zh", "有两个第十二次"),
        ("Ça va — bien?", "fr", "ça va bien"),
    ],
)
def test_texts_are_compared_in_a_normal_form(text: str, language: str, normal: str) -> None:
    assert normalize_text(text, language) == normal


@pytest.mark.parametrize(
    ("said", "heard", "language"),
    [
        ("HE'S COME TO MISTER BROWN'S AT TWENTY PAST", "He's come to Mr. Brown's at 20 past.", "en"),
        ("I WILL NOT CANCEL MY FAVOURITE PROGRAMME", "I won't cancel my favorite program.", "en"),
        ("SHE COUNTED ONE THOUSAND TWO HUNDRED", "she counted 1,200", "en"),
        ("销售额为二百三十亿元同比下降百分之十二点五", "銷售額為230億元，同比下降12.5%。", "zh"),
        ("二〇一五年两千人", "2015年2000人", "zh"),
        ("二零一五年二千人", "2015 年 2,000 人", "zh"),
        ("十二万", "12万", "zh"),
    ],
)
def test_two_ways_to_write_the_same_words_are_no_error(said: str, heard: str, language: str) -> None:
    assert count_errors(said, heard, language).errors == 0


def test_a_wrong_number_is_an_error_in_every_script() -> None:
    assert count_errors("二百三十", "240", "zh") == recognizer.ErrorRate(errors=1, length=4)
    assert count_errors("two hundred thirty", "240", "en") == recognizer.ErrorRate(errors=1, length=1)


def test_errors_are_counted_in_words_and_in_characters() -> None:
    assert count_errors("the cat sat", "the cat sat down", "en") == recognizer.ErrorRate(errors=1, length=3)
    assert count_errors("我爱你们", "我爱他", "zh") == recognizer.ErrorRate(errors=2, length=4)
    rate = word_error_rate(["we see the dog", "fifty six"], ["we see", "56"], "en")
    assert (rate.errors, rate.length) == (2, 5) and rate.rate == pytest.approx(0.4)
    assert count_errors("...", "hello there", "en").rate == float("inf")
    assert count_errors("...", "", "en").rate == 0
    with pytest.raises(ValueError, match="zip"):
        word_error_rate(["a"], [], "en")
