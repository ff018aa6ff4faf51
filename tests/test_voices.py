"""Voices say the same thing the same way, in the languages they speak; text becomes the right phonemes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from components.collect import phonemes_english, phonemes_mandarin
from components.collect.voices import make_voice, parse_name, split
from components.collect.voices_hibari import HOP, SAMPLE_RATE_HZ, _inverse, _pulse_train, _spectrum
from components.shared.assets import fetch
from components.shared.numbers_english import spell_numbers

NAMES = ("hibari:heart", "hibari:heart+pitch=0.6+formant=0.85", "espeak:en-us+f3", "kokoro:jf_alpha+jm_kumo")


@pytest.fixture
def need() -> Callable[..., None]:
    """Skip the test where a piece is neither in the cache nor to be had."""

    def check(*pieces: str) -> None:
        try:
            for piece in pieces:
                fetch(piece)
        except ConnectionError as error:
            pytest.skip(str(error))

    return check


@pytest.mark.parametrize("name", NAMES)
def test_a_voice_is_a_function_of_text_and_seed(name: str, need: Callable[..., None]) -> None:
    need("hibari", name.split(":")[0].replace("espeak", "espeak-ng"))
    voice = make_voice(name)
    first = voice.speak("The cat sleeps.", "en", 3)
    other = voice.speak("The cat sleeps.", "en", 4)
    again = make_voice(name).speak("The cat sleeps.", "en", 3)
    assert np.array_equal(first, again)
    assert other.shape != first.shape or not np.array_equal(other, first)
    assert first.dtype == np.float32 and first.ndim == 1 and 0.05 < np.abs(first).max() <= 1
    assert 0.5 < len(first) / voice.sample_rate_hz < 3 and voice.sample_rate_hz <= 24_000
    assert voice.name == name and voice.license


def test_kokoro_speaks_mandarin_and_hibari_does_not(need: Callable[..., None]) -> None:
    need("kokoro", "hibari")
    wave = make_voice("kokoro:jm_kumo").speak("你好，世界！", "zh", 0)
    assert 0.8 < len(wave) / 24_000 < 4
    with pytest.raises(ValueError, match="hibari:heart: got language 'zh', wanted en"):
        make_voice("hibari:heart").speak("你好", "zh", 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["", " … ", "🙂"])
def test_a_text_without_words_is_refused(name: str, text: str, need: Callable[..., None]) -> None:
    need("hibari", "kokoro", "espeak-ng")
    with pytest.raises(ValueError, match="nothing to say"):
        make_voice(name).speak(text, "en", 0)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("heart", "wanted engine:speaker"),
        ("festival:kal", "got engine 'festival', wanted hibari, kokoro or espeak"),
        ("hibari:emma", "wanted hibari:heart"),
        ("hibari:heart+pitch=9", "got 'pitch=9', wanted pace or pitch or formant = 0.25 to 4"),
        ("hibari:heart+tempo=1", "got 'tempo=1'"),
        ("kokoro:am_adam", "got 'am_adam', wanted one of jf_alpha"),
        ("kokoro:jf_alpha+pitch=2", "wanted pace"),
        ("espeak:cmn", "got accent 'cmn', wanted one of en"),
        ("espeak:en-us+f99", "got variant 'f99'"),
        ("espeak:en-us+formant=1.1", "got formant"),
    ],
)
def test_a_wrong_name_gets_one_line(name: str, line: str, need: Callable[..., None]) -> None:
    need("hibari", "kokoro", "espeak-ng")
    with pytest.raises(ValueError, match="voice") as caught:
        make_voice(name)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_options_of_a_name() -> None:
    parsed = parse_name("espeak:en-us+f3+pace=0.9")
    assert (parsed.engine, parsed.speaker, parsed.variant, parsed.options) == ("espeak", "en-us", "f3", {"pace": 0.9})


def test_a_moved_pitch_is_heard_as_such(need: Callable[..., None]) -> None:
    need("hibari")
    tones = [strongest_period_hz(make_voice(name).speak("Aaron owns a yellow moon.", "en", 0)) for name in NAMES[:2]]
    assert tones[1] / tones[0] == pytest.approx(0.6, rel=0.1)


def strongest_period_hz(wave: np.ndarray) -> float:
    """Median over voiced frames of the autocorrelation's highest peak between 70 and 400 Hz."""
    found = []
    for frame in np.lib.stride_tricks.sliding_window_view(wave, 1440)[::480]:
        if np.sqrt(np.mean(frame**2)) > 0.05:
            lags = np.correlate(frame, frame, "full")[1439:]
            at = 60 + int(np.argmax(lags[60:343]))
            if lags[at] > 0.6 * lags[0]:
                found.append(SAMPLE_RATE_HZ / at)
    return float(np.median(found))


def test_spectrum_and_inverse_give_the_wave_back() -> None:
    wave = np.random.default_rng(0).standard_normal(40 * HOP).astype(np.float32)
    back = _inverse(_spectrum(wave, 40) * (4 * HOP / 4))
    assert np.allclose(back[2 * HOP : -2 * HOP], wave[2 * HOP : -2 * HOP], atol=1e-4)


def test_a_pulse_train_holds_every_harmonic_once() -> None:
    wave = _pulse_train(np.full(80, 200.0, np.float32))
    power = np.abs(np.fft.rfft(wave)) / (len(wave) / 2)
    hz = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE_HZ)
    harmonics = np.isin(np.round(hz, 3), np.arange(200, 10_801, 200))
    assert np.allclose(power[harmonics], 1, atol=0.02)
    assert power[~harmonics & (hz < 10_700)].max() < 0.05
    assert not _pulse_train(np.zeros(5, np.float32)).any()


def test_english_readings(need: Callable[..., None]) -> None:
    need("hibari")
    to_phonemes = phonemes_english.to_phonemes
    assert to_phonemes("Hello there.") == "həlˈO ðɛɹ."
    assert to_phonemes("The apple, the tree") == "ði ˈæpᵊl, ðə tɹˈi"
    assert "lˈɪvz" in to_phonemes("Anna lives here.") and "lˈIvz" in to_phonemes("our lives")
    assert to_phonemes("the U.S.") == "ðə ˌjuˈɛs"
    assert to_phonemes("boxes, cats, wanted") == "bˈɑksᵻz, kˈæts, wˈɑntᵻd"
    assert to_phonemes("oranges").removeprefix(to_phonemes("orange")) == "ᵻz"
    assert to_phonemes("21") == to_phonemes("twenty-one")
    assert phonemes_english._read_letters("zorblat").startswith("zˈɔɹbl")


def test_english_symbols_are_all_known_to_the_voices(need: Callable[..., None]) -> None:
    need("hibari", "chatterbot")
    known = set(make_voice("hibari:heart").symbols)  # type: ignore[attr-defined]
    folder = fetch("chatterbot") / "chatterbot_corpus" / "data" / "english"
    for path in sorted(folder.glob("*.yml"))[::4]:
        said = phonemes_english.to_phonemes(path.read_text(encoding="utf-8"))
        assert set(said) <= known, path.name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("in 1987 and 2004", "in nineteen eighty-seven and two thousand four"),
        ("$2.50, $3 million", "two dollars and fifty cents, three million dollars"),
        ("the 21st of 1,250", "the twenty-first of one thousand two hundred fifty"),
        ("at 7:05", "at seven oh five"),
        ("No. I said No. 5", "No. I said number five"),
        ("Dr. Lee is 3.5% off", "Doctor Lee is three point five percent off"),
    ],
)
def test_numbers_are_said(text: str, words: str) -> None:
    assert spell_numbers(text) == words


def test_mandarin_readings() -> None:
    to_phonemes = phonemes_mandarin.to_phonemes
    assert to_phonemes("你好！") == "ni↗xau↓!"
    assert to_phonemes("学生喜欢女儿") == "ɕɥe↗ʂəŋ ɕi↓xwan ny↓ɚ↗"
    assert to_phonemes("不是一点儿") == "pu↗ʂɨ↘ i↘tjɛ↓nɚ"
    assert to_phonemes("在2023年") == to_phonemes("在二零二三年")
    assert to_phonemes("…") == ""


def test_mandarin_symbols_are_all_known_to_the_voices(need: Callable[..., None]) -> None:
    need("hsk", "kokoro")
    known = set(make_voice("kokoro:jf_alpha").symbols)  # type: ignore[attr-defined]
    for row in sentences()[::40]:
        assert set(phonemes_mandarin.to_phonemes(row)) <= known, row


def sentences() -> list[str]:
    import json

    rows = json.loads((Path(fetch("hsk")) / "hsk_sentences_audio" / "data" / "sentences.json").read_text("utf-8"))
    return [row["chinese"] for row in rows]


def test_long_texts_are_cut_at_pauses() -> None:
    pieces = split("one two, three four. five six; seven eight nine ten", 20)
    assert pieces == ["one two, three four.", "five six;", "seven eight nine ten"]
    assert split("abcdefgh", 3) == ["abc", "def", "gh"]
