"""The text-to-token model measured as a whole: spans, speakers told apart, VCTK said beside its recordings.

Speech is made of tones here, a letter each: an ear that finds the tone hears exactly what is said.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import letters
import numpy as np
import pytest
import soundfile
import torch
from evaluated import config, evaluate

import components.speech_tokenizer.model as door
from components.evaluate import benchmarks, naming
from components.evaluate.config import BenchmarkConfig, Recipe, Split
from components.evaluate.figures import summarise
from components.evaluate.recitation import Unheard
from components.evaluate.saying import Said, Saying
from components.shared.contracts import ItemScore, Sample, SpeechTokens, Text, Utterance
from components.shared.manifest import read_table, seal, write_table
from components.shared.places import Inputs
from components.shared.recognizer import normalize_text
from components.shared.tracking import TerminalTracker
from components.text_to_token.model import load

RATE_HZ, SAMPLES = 16_000, 1280
"""A tone of 0.08 s for each code, as 12.5 tokens a second have it."""


def tones(codes: list[int]) -> np.ndarray:
    """(samples,) float32: code c sounds at 200 + 100 c Hz."""
    time_s = np.arange(SAMPLES) / RATE_HZ
    return np.concatenate([0.3 * np.sin(2 * np.pi * (200 + 100 * code) * time_s) for code in codes]).astype(np.float32)


def listen(waves: list[torch.Tensor]) -> list[torch.Tensor]:
    """The loudest frequency of every 0.08 s as a code."""
    found = []
    for wave in waves:
        frames = wave[: len(wave) // SAMPLES * SAMPLES].reshape(-1, SAMPLES)
        loudest_hz = torch.fft.rfft(frames).abs().argmax(-1) * RATE_HZ / SAMPLES
        found.append(((loudest_hz - 200) / 100).round().long())
    return found


EAR = SimpleNamespace(transcribe=letters.EAR.transcribe, encode=listen)


def write_vctk(folder: Path, said: dict[str, str], *, without_sound: str = "", without_text: str = "") -> None:
    """VCTK 0.92 as its archive unpacks, of utterances such as p225_001, both microphones."""
    folder.mkdir(parents=True)
    speakers = sorted({name.split("_")[0] for name in said})
    lines = [
        "ID  AGE  GENDER  ACCENTS  REGION COMMENTS ",
        *(f"{name}  23  F    English    London" for name in speakers),
    ]
    (folder / "speaker-info.txt").write_text("\n".join(lines) + "\n")
    for name, text in said.items():
        speaker = name.split("_")[0]
        for mic in ("mic1", "mic2"):
            path = folder / "wav48_silence_trimmed" / speaker / f"{name}_{mic}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            if name != without_sound:
                soundfile.write(path, tones(letters.say(text)), RATE_HZ)
        path = folder / "txt" / speaker / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        if name != without_text:
            path.write_text(text + "\n")


def vctk(path: str = "sets/VCTK-Corpus-0.92", *parts: str) -> dict[str, BenchmarkConfig]:
    return {"vctk": BenchmarkConfig(recipe=Recipe.vctk, path=path, parts=list(parts or ("mic2",)))}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a model that says letters, unseen utterances with sound, texts, and a small VCTK."""
    root = tmp_path_factory.mktemp("generation")
    letters.train(root)
    unseen = [row for row in letters.rows() if row.split == "validation"]
    folder = root / "data" / "collect" / "utterances"
    (folder / "audio").mkdir(parents=True)
    shared = ("id", "duration_s", "text", "text_source", "language", "speaker", "corpus", "license", "split", "origin")
    sound = {"sample_rate_hz": RATE_HZ, "bandwidth_hz": 8000.0, "rms_dbfs": -13.0}
    utterances = []
    for row in unseen:
        soundfile.write(folder / "audio" / f"{row.id}.flac", tones(row.tokens), RATE_HZ)
        values = {name: getattr(row, name) for name in shared}
        utterances.append(Utterance(**values, audio=f"audio/{row.id}.flac", **sound))
    write_table(folder, utterances, Utterance)
    long = [" ".join(letters.sentences(4, seed=50 + i)) for i in range(12)]
    texts = [
        Text(id=f"t{i}", text=text, language="en", corpus="letters", license="MIT", split="validation")
        for i, text in enumerate(long)
    ]
    write_table(root / "data" / "collect" / "texts", texts, Text)
    fresh = [row.text or "" for row in unseen][:5]
    seen = next(row.text for row in letters.rows() if row.split == "train" and (row.text or "").endswith("."))
    write_vctk(
        root / "sets" / "VCTK-Corpus-0.92",
        {
            "p225_001": fresh[0],
            "p225_002": fresh[1],
            "p226_001": fresh[0],
            "p226_002": seen,
            "p226_003": fresh[2],
            "p227_001": fresh[3],
            "p315_001": fresh[4],
        },
        without_sound="p227_001",
        without_text="p315_001",
    )
    return root


@pytest.fixture(scope="module")
def measured(root: Path) -> tuple[dict[str, float], Path]:
    settings = config(split=Split.validation, mean_span=4.0, num_sentences=8, num_utterances=0, benchmarks=vctk())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(door, "load", lambda path, device="cpu": EAR)
        return evaluate(root / "data", root / "out", "text_to_token", settings)


def test_sentences_and_spans_are_said_with_a_speaker_named_and_without(measured) -> None:
    metrics, folder = measured
    for name in ("sentences", "sentences_unnamed", "sentences_others", "spans", "spans_unnamed"):
        assert metrics[f"generation_wer_{name}"] <= 0.25, name
    assert metrics["generation_wer_sentences_items"] == metrics["generation_wer_sentences_unnamed_items"] == 8
    assert metrics["generation_wer_sentences_others_items"] == 3, "three sentences in the name of one other speaker"
    assert metrics["generation_wer_sentences_reference"] == 0.0
    assert metrics["generation_length_sentences"] == pytest.approx(1, abs=0.1)
    assert "generation_wer_spans_reference" not in metrics
    samples = list(read_table(folder / "samples", Sample))
    assert {"made tokens say", "no speaker named"} <= {text.label for text in samples[0].texts}


def test_two_speakers_of_one_voice_cannot_be_told_apart_by_what_is_asked_for(measured) -> None:
    """Letters sound alike whoever says them: a measure that found speakers here would be of no use."""
    metrics, folder = measured
    assert metrics["speaker_asked_chance"] == metrics["speaker_real_chance"] == 0.5
    assert metrics["speaker_asked_difference_low"] <= 0 <= metrics["speaker_asked_difference_high"]
    by_name = json.loads((folder / "scores" / "speakers.json").read_text())
    assert set(by_name) == {"en/ann", "en/bob"} and set(by_name["en/ann"]) == {"asked", "real"}


def test_sentences_of_vctk_are_said_once_each_beside_their_recordings(measured) -> None:
    metrics, folder = measured
    rows = [row for row in read_table(folder / "scores", ItemScore) if row.groups == ["vctk_mic2"]]
    assert {row.id for row in rows} == {f"vctk_mic2-p22{name}_mic2" for name in ("5_001", "5_002", "6_003")}
    assert metrics["generation_wer_vctk_mic2_items"] == metrics["generation_length_vctk_mic2_items"] == 3
    assert metrics["generation_wer_vctk_mic2_reference"] == 0.0, "tones are heard without a mistake"
    assert metrics["generation_wer_vctk_mic2"] <= 0.25
    assert metrics["generation_length_vctk_mic2"] == pytest.approx(1, abs=0.1)
    dropped = {name: value for name, value in metrics.items() if name.endswith("vctk_mic2") and "dropped" in name}
    reasons = ("missing_file", "missing_text", "repeated_text", "text_in_training")
    assert dropped == {f"dropped_{reason}_vctk_mic2": 1.0 for reason in reasons}


def test_a_test_set_belongs_to_the_model_that_it_measures(root: Path) -> None:
    settings = config(benchmarks=vctk())
    tracker = TerminalTracker()
    assert benchmarks.read(settings, root, tracker, benchmarks.HEARD).rows == []
    rows = benchmarks.read(settings, root, tracker, benchmarks.SAID).rows
    assert {row.speaker for row in rows} <= {"vctk-p225", "vctk-p226"} and all(row.path.is_file() for row in rows)
    assert all(row.path.is_relative_to(root) for row in rows), "links of the reading are gone"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (vctk("sets/VCTK-Corpus-0.92", "mic3"), r"with wav48_silence_trimmed/mic3 in it; .* holds mic1, mic2"),
        (vctk("sets"), r"with wav48_silence_trimmed/mic2 in it; .* holds no folder"),
        (vctk("empty"), r"vctk.path: .*cannot read: "),
    ],
)
def test_a_folder_that_is_not_vctk_is_one_line(root: Path, given: dict[str, BenchmarkConfig], words: str) -> None:
    (root / "empty" / "wav48_silence_trimmed").mkdir(parents=True, exist_ok=True)
    with pytest.raises(ValueError, match=words) as caught:
        benchmarks.read(config(benchmarks=given), root, TerminalTracker(), benchmarks.SAID)
    assert str(caught.value).startswith("evaluate.benchmarks.") and len(str(caught.value).splitlines()) == 1


def test_a_part_whose_sentences_were_all_in_training_is_one_line(root: Path) -> None:
    known = {normalize_text(row.text or "", "en") for row in letters.rows()}
    with pytest.raises(
        ValueError, match=r"vctk: mic2: got {.*text_in_training_vctk_mic2': 5.*}, wanted a new sentence"
    ):
        benchmarks.read(config(benchmarks=vctk()), root, TerminalTracker(), benchmarks.SAID, Unheard(known))


# Telling speakers apart


def voices(folder: Path) -> Inputs:
    """Two speakers, low in codes 0..7 and high in 8..15 two times in three; high also likes to talk about code 20."""
    rng = np.random.default_rng(4)
    rows = []
    for number in range(80):
        name = ("low", "high")[number % 2]
        row = letters.utterance(number, "nothing", speaker=name, tokens=speech(name, rng, of_itself=True))
        rows.append(row)
    extra = {"num_codes": letters.NUM_CODES, "tokens_per_s": 12.5}
    write_table(folder / "tokenize" / "tokens", rows, SpeechTokens, extra=extra)
    seal(folder / "tokenize" / "tokens", contract="SpeechTokens", extra=extra)
    return Inputs(folder)


def speech(name: str, rng: np.random.Generator, *, of_itself: bool = False) -> list[int]:
    own = 8 * (name == "high")
    codes = np.where(rng.random(30) < 2 / 3, own + rng.integers(0, 8, 30), 8 - own + rng.integers(0, 8, 30))
    return [*codes.tolist(), *([20] * 10 if of_itself and name == "high" else [])]


def asked(number: int, name: str, codes: list[int]) -> Said:
    return Said(saying=Saying(id=f"t{number}", text="a", language="en", speaker=name), codes=codes, heard="a")


@pytest.fixture
def profiles(tmp_path: Path) -> naming.Profiles:
    inputs = voices(tmp_path)
    speakers = naming.choose_speakers(inputs, {"en": "low", "zh": "none"}, {"low", "high"}, config())
    assert speakers == {"en": ["low", "high"]}, "a language without a second speaker has none to tell apart"
    return naming.learn_profiles(inputs, speakers)


def test_a_model_that_heeds_the_name_is_told_apart(profiles: naming.Profiles) -> None:
    rng = np.random.default_rng(5)
    said = [asked(number, name, speech(name, rng)) for number in range(40) for name in ("low", "high")]
    figures = summarise(naming.asked_scores(said, profiles), seed=1, level=0.95)
    assert figures["speaker_asked"] > 0.9 and figures["speaker_asked_difference_low"] > 0


@pytest.mark.parametrize("subject", [[], [20] * 10], ids=["anything", "what one speaker talks about"])
def test_a_model_that_does_not_heed_the_name_is_right_at_chance(profiles: naming.Profiles, subject: list[int]) -> None:
    rng = np.random.default_rng(6)
    one = [speech("low", rng) + subject for _ in range(40)]
    same = [asked(number, name, one[number]) for number in range(40) for name in ("low", "high")]
    assert {row.score for row in naming.asked_scores(same, profiles)} == {0.5}
    varied = [asked(n, name, speech("low", rng) + subject) for n in range(40) for name in ("low", "high")]
    figures = summarise(naming.asked_scores(varied, profiles), seed=1, level=0.95)
    assert figures["speaker_asked_low"] <= 0.5 <= figures["speaker_asked_high"]


def test_real_speech_is_told_by_voice_and_words_and_nothing_said_by_nothing(profiles: naming.Profiles) -> None:
    rng = np.random.default_rng(7)
    names = ["low", "high"] * 20
    rows = [
        letters.utterance(number, "a", speaker=name, tokens=speech(name, rng, of_itself=True))
        for number, name in enumerate(names)
    ]
    known = naming.choose_real([*rows, letters.utterance(99, "a", speaker="eve")], profiles, config(num_by_speaker=9))
    assert len(known) == 18 and {row.speaker for row in known} == {"low", "high"}
    scores = naming.real_scores(known, profiles)
    assert np.mean([row.score for row in scores]) > 0.85
    assert {row.score for row in naming.asked_scores([asked(0, "low", []), asked(0, "high", [])], profiles)} == {0.5}
    assert naming.by_speaker(scores)["en/low"]["real"] > 0.7


def test_only_speakers_that_a_request_can_name_are_asked_for(root: Path) -> None:
    model = load(root / "data" / "text_to_token" / "model")
    inputs = Inputs(root / "data")
    chosen = naming.choose_speakers(inputs, model.main_speakers, model.speakers, config(num_speakers=9))
    assert chosen == {"en": ["ann", "bob"]} and set(chosen["en"]) == set(model.speakers)
    assert naming.choose_speakers(inputs, model.main_speakers, {"ann"}, config(num_speakers=9)) == {}
