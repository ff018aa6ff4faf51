"""Every judge of sound prefers speech to the same speech in noise; an evaluation writes their figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from evaluated import config, evaluate, write_speech

from components.evaluate import documents, resynthesis
from components.evaluate.config import SoundJudge
from components.evaluate.figures import summarise
from components.evaluate.intervals import difference_interval, ratio_interval
from components.evaluate.sound_quality import ORIGINAL, Sounds, in_words, judge_sounds, sound_scores
from components.shared.audio import resample
from components.shared.contracts import ItemScore, Sample, SpeechTokens
from components.shared.distillmos import DistillMos
from components.shared.dnsmos import Dnsmos
from components.shared.manifest import read_table, seal
from components.shared.visqol import visqol

RATE_HZ = 16_000
SAID = ("The old bridge crosses the river near the market.", "Please close the window before you leave the house.")
Score = Callable[[list[np.ndarray]], list[float]]


@pytest.fixture(scope="module")
def spoken() -> list[np.ndarray]:
    """The sentences, said by a voice, at 16 kHz."""
    from components.collect.voices import make_voice

    try:
        voice = make_voice("hibari:heart")
    except ConnectionError as error:
        pytest.skip(str(error))
    return [resample(voice.speak(text, "en", seed), voice.sample_rate_hz, RATE_HZ) for seed, text in enumerate(SAID)]


def noisy(wave: np.ndarray, snr_db: float) -> np.ndarray:
    """The wave with white noise that is so much quieter."""
    noise = np.random.default_rng(7).standard_normal(len(wave)) * wave.std() * 10 ** (-snr_db / 20)
    return (wave + noise).astype(np.float32)


def made(judge: type[DistillMos] | type[Dnsmos]) -> Score:
    try:
        found = judge()
    except ConnectionError as error:
        pytest.skip(str(error))
    return lambda waves: found.score(waves, RATE_HZ)


@pytest.mark.parametrize("judge", [DistillMos, Dnsmos])
def test_speech_is_worth_more_than_the_same_in_noise(judge, spoken) -> None:
    score = made(judge)
    for wave in spoken:
        clean, hissing, loud = score([wave, noisy(wave, 20), noisy(wave, 0)])
        assert 1 <= loud < hissing < clean <= 5.01
        assert clean - loud > 1


@pytest.mark.parametrize("judge", [DistillMos, Dnsmos])
def test_a_wave_is_worth_the_same_alone_and_however_long_it_is_a_score(judge, spoken) -> None:
    score = made(judge)
    together = score(spoken)
    assert score(spoken[1:]) == together[1:]
    long = np.concatenate([*spoken, *spoken, *spoken])  # several windows
    assert abs(score([long])[0] - np.mean(together)) < 0.7


@pytest.mark.parametrize("judge", [DistillMos, Dnsmos])
def test_what_is_no_wave_or_no_network_is_one_line(judge, spoken, tmp_path: Path) -> None:
    score = made(judge)
    with pytest.raises(ValueError, match=r"wave 1: got shape \(100,\) at 16000 Hz, wanted \(samples,\) of at least"):
        score([spoken[0], np.zeros(100, np.float32)])
    with pytest.raises(ValueError, match=r"wave 0: got NaN or infinite samples"):
        score([np.full(9000, np.inf, np.float32)])
    with pytest.raises(ValueError, match="got 'nowhere', wanted piece:"):
        judge("nowhere")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="text: not "):
        judge(str(tmp_path / "text"))


def test_visqol_falls_with_noise_and_forgives_loudness_and_a_short_delay(spoken) -> None:
    wave = spoken[0]
    same, quiet, hissing, loud, silent = visqol(
        [wave, 0.3 * wave, noisy(wave, 20), noisy(wave, 0), 0 * wave], [wave] * 5, RATE_HZ
    )
    assert same == pytest.approx(5.0) and quiet == pytest.approx(5.0, abs=0.01)
    assert 1 <= loud < hissing < same and same - loud > 1
    assert silent == 1.0
    late = np.concatenate([np.zeros(800, np.float32), wave])
    assert visqol([late], [wave], RATE_HZ)[0] > 4.8
    assert visqol([wave], [spoken[1]], RATE_HZ)[0] < hissing, "another sentence"


def test_visqol_takes_clips_that_are_shorter_than_a_patch(spoken) -> None:
    word = spoken[0][8000:12_000]
    (same, loud) = visqol([word, noisy(word, 0)], [word, word], RATE_HZ)
    assert loud < same == pytest.approx(5.0)


def test_visqol_says_what_it_cannot_compare(spoken) -> None:
    wave = spoken[0]
    with pytest.raises(ValueError, match="got 2 waves and 1 references"):
        visqol([wave, wave], [wave], RATE_HZ)
    with pytest.raises(ValueError, match="reference 0: got silence"):
        visqol([wave], [0 * wave], RATE_HZ)
    with pytest.raises(ValueError, match="ViSQOL: wave 0: got NaN"):
        visqol([wave * np.nan], [wave], RATE_HZ)


# In the evaluation


def row(name: str, origin: str = "recorded") -> SpeechTokens:
    about = {"text": "hello", "text_source": "human", "language": "en", "speaker": "s", "corpus": "c", "license": "MIT"}
    return SpeechTokens(id=name, tokens=[1, 2], duration_s=0.2, split="test", origin=origin, **about)


def test_a_judges_grades_stand_beside_those_of_the_original() -> None:
    sounds = [Sounds(row=row(name), group="recorded_seen", waves={}, other=None) for name in ("a", "b")]
    verdicts = [
        {SoundJudge.mos: {ORIGINAL: 4.0, "decoded": 3.0}, SoundJudge.visqol: {"decoded": 1.0}},
        {SoundJudge.mos: {ORIGINAL: 5.0, "decoded": 3.5}, SoundJudge.visqol: {"decoded": 1.0}},
    ]
    scores = sound_scores(sounds, verdicts, {"decoded": "resynthesis", ORIGINAL: "original"})
    figures = summarise(scores, seed=1, level=0.95)
    assert figures["resynthesis_mos_recorded_seen"] == 3.25 and figures["original_mos_recorded_seen"] == 4.5
    assert figures["resynthesis_mos_recorded_seen_reference"] == 4.5
    assert figures["resynthesis_mos_recorded_seen_difference"] == -1.25
    assert figures["resynthesis_mos_recorded_seen_difference_low"] == -1.5
    assert (
        "resynthesis_visqol_recorded_seen_reference" not in figures and "original_visqol_recorded_seen" not in figures
    )
    assert figures["resynthesis_visqol_recorded_seen_low"] == figures["resynthesis_visqol_recorded_seen_high"] == 1.0
    assert in_words(verdicts[0]) == {"DistillMOS": "original 4.00, decoded 3.00", "ViSQOL": "decoded 1.00"}


def test_grades_are_no_successes() -> None:
    ones, names = [1.0] * 4, list("abcd")
    counted = ratio_interval(ones, ones, names, seed=1, level=0.95)
    graded = ratio_interval(ones, ones, names, seed=1, level=0.95, counts=False)
    assert counted.low < 0.5 and (graded.low, graded.high) == (1.0, 1.0)
    same = difference_interval(ones, ones, ones, names, seed=1, level=0.95, counts=False)
    assert (same.low, same.high) == (0.0, 0.0)


def test_the_voice_of_the_original_is_compared_with_the_speakers_other_utterance(spoken) -> None:
    sounds = [
        Sounds(
            row=row("a"),
            group="recorded_seen",
            waves={ORIGINAL: spoken[0], "hissing": noisy(spoken[0], 5)},
            other=spoken[1],
        ),
        Sounds(row=row("b"), group="recorded_seen", waves={ORIGINAL: spoken[0], "hissing": spoken[0]}, other=None),
    ]
    try:
        first, second = judge_sounds(sounds, RATE_HZ, [SoundJudge.speaker])
    except ConnectionError as error:
        pytest.skip(str(error))
    assert 0.6 < first[SoundJudge.speaker][ORIGINAL] < 1 and first[SoundJudge.speaker]["hissing"] < 0.9
    assert ORIGINAL not in second[SoundJudge.speaker]
    assert second[SoundJudge.speaker]["hissing"] == pytest.approx(1.0, abs=1e-5)


class Mumbler:
    """A decoder that makes noise of tokens, and a vocoder that adds a little of it."""

    sample_rate_hz = RATE_HZ

    def decode(self, tokens: list[int]) -> torch.Tensor:
        return torch.from_numpy(np.random.default_rng(sum(tokens)).normal(0, 0.1, 4000).astype(np.float32))

    def vocode(self, wave: torch.Tensor) -> torch.Tensor:
        return wave + 0.01 * self.decode([len(wave)])


def run(where: Path, monkeypatch: pytest.MonkeyPatch, **changes) -> tuple[dict[str, float], Path]:
    """An evaluation of a decoder, without what is evaluated elsewhere."""
    import components.speech_decoder.model as decoder
    import components.speech_tokenizer.model as tokenizer

    write_speech(where / "data", {"u1": "one", "u2": "two", "u3": "three", "u4": "four"})
    for name in ("speech_decoder/model", "speech_tokenizer/model", "synthesize/interleaved"):
        (where / "data" / name).mkdir(parents=True)
        seal(where / "data" / name)
    monkeypatch.setattr(decoder, "load", lambda path, device="cpu": Mumbler())
    monkeypatch.setattr(tokenizer, "load", lambda path, device="cpu": SimpleNamespace(transcribe=None))
    monkeypatch.setattr(documents, "show", lambda *rest: None)
    monkeypatch.setattr(resynthesis, "say", lambda *rest: {})
    deaf = SimpleNamespace(transcribe=lambda waves, rate_hz, language: ["one"] * len(waves))
    monkeypatch.setattr(resynthesis, "Recognizer", lambda *rest: deaf)
    return evaluate(where / "data", where / "out", "speech_decoder", config(judges={"en": "deaf"}, **changes))


def test_an_evaluation_writes_the_figures_of_every_judge_and_shows_them(tmp_path, monkeypatch) -> None:
    try:
        metrics, folder = run(tmp_path, monkeypatch, sound_judges=list(SoundJudge), num_sound_judged=2)
    except ConnectionError as error:
        pytest.skip(str(error))
    for mode in ("mos", "dnsmos", "visqol", "speaker"):
        for task in ("resynthesis", "vocoder"):
            name = f"{task}_{mode}_synthesized_unseen"
            assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]
            assert metrics[f"{name}_items"] == 2
            assert (f"{name}_reference" in metrics) == (mode != "visqol")
    assert metrics["original_mos_synthesized_unseen"] == metrics["resynthesis_mos_synthesized_unseen_reference"]
    assert metrics["vocoder_visqol_synthesized_unseen"] > metrics["resynthesis_visqol_synthesized_unseen"]
    assert metrics["vocoder_speaker_synthesized_unseen"] > metrics["resynthesis_speaker_synthesized_unseen"]
    kept = list(read_table(folder / "scores", ItemScore))
    assert {row.mode for row in kept} == {"wer", "mos", "dnsmos", "visqol", "speaker"}
    labels = {text.label for sample in read_table(folder / "samples", Sample) for text in sample.texts}
    assert {"DistillMOS", "DNSMOS", "ViSQOL", "speaker similarity"} <= labels


def test_judges_that_are_left_out_have_no_figures(tmp_path, monkeypatch) -> None:
    metrics, _ = run(tmp_path, monkeypatch, sound_judges=[SoundJudge.visqol], num_sound_judged=1)
    assert (
        metrics["resynthesis_visqol_synthesized_unseen_items"] == 1
        and metrics["resynthesis_wer_synthesized_unseen_items"] == 2
    )
    assert not [name for name in metrics if "mos" in name or "speaker" in name]
