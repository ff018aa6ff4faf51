"""LibriSpeech and AISHELL-1, small but in their official layouts, heard from tokens and by an un-quantised Whisper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from evaluated import NUM_CODES, config, evaluate, write_speech
from small_whisper import SMALL

from components.config import load_config
from components.evaluate import benchmarks
from components.evaluate.benchmarks import Recording, chunks
from components.evaluate.config import BenchmarkConfig, EvaluateConfig, Recipe
from components.evaluate.figures import summarise
from components.shared.manifest import seal
from components.shared.recognizer import Recognizer
from components.shared.tracking import TerminalTracker
from components.speech_tokenizer import checkpoint, start
from components.speech_tokenizer.model import load
from components.speech_tokenizer.transcripts import END, NO_TIMESTAMPS, START, TASK, train_tokenizer

RATE_HZ = 16_000
CLEAN = {
    "121-121726-0000": "ALSO A POPULAR CONTRIVANCE",
    "121-121726-0001": "HARANGUE THE TIRESOME PRODUCT OF A TIRELESS TONGUE",
    "121-123852-0000": "THOSE PRETTY WRONGS THAT LIBERTY COMMITS",
    "237-126133-0000": "HERE SHE WOULD STAY COMFORTED AND SOOTHED",
    "237-126133-0001": "AND I'LL TELL YOU ANNE",
}
OTHER = {"367-130732-0000": "LOBSTERS AND LOBSTERS", "367-130732-0001": "SHE SAW THE GREY WAGON"}
MANDARIN = {
    "BAC009S0764W0121": "甚至 出现 交易 几乎 停滞 的 情况",
    "BAC009S0764W0122": "一二 线 城市 虽然 也 处于 调整 中",
    "BAC009S0765W0123": "但 因为 聚集 了 过多 公共 资源",
}


def write_sound(path: Path, seed: int) -> None:
    """0.4 s of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(RATE_HZ * 2 // 5), RATE_HZ)


def write_librispeech(folder: Path, part: str, texts: dict[str, str]) -> None:
    """A part as its archive unpacks: <part>/<speaker>/<chapter>/<utterance>.flac and one transcript file a chapter."""
    for seed, (name, text) in enumerate(texts.items()):
        speaker, chapter, _ = name.split("-")
        write_sound(folder / part / speaker / chapter / f"{name}.flac", seed)
        with (folder / part / speaker / chapter / f"{speaker}-{chapter}.trans.txt").open("a") as stream:
            stream.write(f"{name} {text}\n")


def write_aishell(folder: Path, part: str, texts: dict[str, str]) -> None:
    """data_aishell/wav/<part>/<speaker>/<utterance>.wav and one transcript file of all parts, with one of another."""
    for seed, name in enumerate(texts):
        write_sound(folder / "data_aishell" / "wav" / part / name[6:11] / f"{name}.wav", seed)
    file = folder / "data_aishell" / "transcript" / "aishell_transcript_v0.8.txt"
    file.parent.mkdir(parents=True)
    lines = [*(f"{name} {text}" for name, text in texts.items()), "BAC009S0002W0122 而 对 楼市 成交 抑制"]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with both corpora below it."""
    write_librispeech(tmp_path / "sets" / "LibriSpeech", "test-clean", CLEAN)
    write_librispeech(tmp_path / "sets" / "LibriSpeech", "test-other", OTHER)
    write_aishell(tmp_path / "sets" / "aishell", "test", MANDARIN)
    return tmp_path


def settings(start: str = "", num_utterances: int = 4, **changes: BenchmarkConfig) -> EvaluateConfig:
    both = {
        "librispeech": BenchmarkConfig(
            recipe=Recipe.librispeech, path="sets/LibriSpeech", parts=["test-clean", "test-other"]
        ),
        "aishell": BenchmarkConfig(recipe=Recipe.aishell, path="sets/aishell", parts=["test"]),
    }
    return config(benchmarks=changes or both, start=start, num_utterances=num_utterances)


def write_tokenizer(folder: Path) -> None:
    made = start.make_start(replace(SMALL, num_codes=NUM_CODES), [], TerminalTracker())
    checkpoint.write(made.network, folder, made.tokenizer)
    seal(folder)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a random Whisper that writes English and Mandarin."""
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
    )

    from components.shared.whisper import _tokenizer

    folder = tmp_path_factory.mktemp("whisper")
    texts = train_tokenizer([*CLEAN.values(), *MANDARIN.values()], ["en", "zh"], 300)
    texts.save(str(folder / "written.json"))
    ids = texts.get_vocab()
    tokens = {"pad_token_id": ids[END], "bos_token_id": ids[END], "eos_token_id": ids[END]}
    tokens |= {"decoder_start_token_id": ids[START]}
    layers = {f"{side}_{name}": 1 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    widths = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": texts.get_vocab_size()}
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(**widths, **layers, **tokens))
    model.generation_config = GenerationConfig(
        **tokens,
        is_multilingual=True,
        lang_to_id={f"<|{language}|>": ids[f"<|{language}|>"] for language in ("en", "zh")},
        task_to_id={"transcribe": ids[TASK]},
        no_timestamps_token_id=ids[NO_TIMESTAMPS],
        suppress_tokens=[],
        begin_suppress_tokens=[],
    )
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(), _tokenizer(folder / "written.json", folder)).save_pretrained(folder)
    return str(folder)


def read(root: Path, settings: EvaluateConfig) -> benchmarks.Benchmarks:
    return benchmarks.read(settings, root, TerminalTracker(), benchmarks.HEARD)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_public_test_sets_stand_beside_the_corpora_part_by_part(root: Path, whisper: str) -> None:
    write_speech(root / "data", {f"u{number}": f"The train number {number} goes." for number in range(3)})
    write_tokenizer(root / "data" / "speech_tokenizer" / "model")
    before = files(root / "sets")
    metrics, _ = evaluate(root / "data", root / "out", "speech_tokenizer", settings(whisper))
    assert files(root / "sets") == before, "nothing is written into a corpus"
    named = {
        "transcription_wer_librispeech_test_clean": 4.0,
        "transcription_wer_librispeech_test_other": 2.0,
        "transcription_cer_aishell_test": 3.0,
    }
    ends = ("", "_low", "_high", "_reference", "_difference", "_difference_low", "_difference_high")
    for name, num_items in named.items():
        assert metrics[f"{name}_items"] == num_items
        assert all(f"{name}{end}" in metrics for end in ends)
    assert metrics["transcription_wer_synthesized_unseen_items"] == 3.0
    assert not [name for name in metrics if name.startswith("dropped_") and name != "dropped_text_in_training"]


def test_utterances_are_those_of_the_corpus(root: Path) -> None:
    rows = {row.id: row for row in read(root, settings(num_utterances=0)).rows}
    assert Counter(row.group for row in rows.values()) == {
        "librispeech_test_clean": 5,
        "librispeech_test_other": 2,
        "aishell_test": 3,
    }
    english, mandarin = rows["librispeech_test_clean-237-126133-0001"], rows["aishell_test-BAC009S0765W0123"]
    assert (english.text, english.speaker, english.language) == ("AND I'LL TELL YOU ANNE", "librispeech-237", "en")
    assert (mandarin.text, mandarin.speaker, mandarin.language) == ("但因为聚集了过多公共资源", "aishell-S0765", "zh")
    assert mandarin.path == root / "sets/aishell/data_aishell/wav/test/S0765/BAC009S0765W0123.wav"
    assert english.duration_s == pytest.approx(0.4)


def test_a_limit_takes_the_same_utterances_whatever_else_is_asked(root: Path) -> None:
    part = BenchmarkConfig(recipe=Recipe.librispeech, path=str(root / "sets" / "LibriSpeech"), parts=["test-clean"] * 2)
    alone = [row.id for row in read(root, settings(num_utterances=2, librispeech=part)).rows]
    assert alone == [row.id for row in read(root, settings(num_utterances=2)).rows][:2]


def test_what_cannot_be_heard_is_dropped_and_counted(root: Path, whisper: str) -> None:
    folder = root / "sets" / "LibriSpeech" / "test-clean"
    write_sound(folder / "121" / "121726" / "121-121726-0009.flac", 9)
    (folder / "121" / "123852" / "121-123852-0000.flac").unlink()
    cut = folder / "237" / "126133" / "237-126133-0000.flac"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    transcript = folder / "237" / "126133" / "237-126133.trans.txt"
    transcript.write_text(transcript.read_text().replace("AND I'LL TELL YOU ANNE", "..."))
    write_tokenizer(root / "model")
    found = benchmarks.evaluate(
        read(root, settings(num_utterances=0)), load(root / "model"), Recognizer(whisper), set(), TerminalTracker()
    )
    assert found.metrics == {
        f"dropped_{reason}_librispeech_test_clean": 1.0
        for reason in ("missing_text", "missing_file", "not_audio", "empty_text")
    }
    clean = {row.id for row in found.scores if row.groups == ["librispeech_test_clean"]}
    assert clean == {f"librispeech_test_clean-121-121726-000{number}" for number in range(2)}


def test_a_part_of_which_nothing_is_left_is_one_line(root: Path, whisper: str) -> None:
    for path in (root / "sets" / "LibriSpeech" / "test-other").rglob("*.flac"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    write_tokenizer(root / "model")
    rows = read(root, settings())
    with pytest.raises(ValueError, match=r"librispeech_test_other: got .*not_audio_librispeech_test_other': 2"):
        benchmarks.evaluate(rows, load(root / "model"), Recognizer(whisper), set(), TerminalTracker())


def test_a_speaker_that_training_had_is_reported_apart(root: Path, whisper: str) -> None:
    write_tokenizer(root / "model")
    rows = read(root, settings(num_utterances=0))
    found = benchmarks.evaluate(
        rows, load(root / "model"), Recognizer(whisper), {"librispeech-237", "S0764"}, TerminalTracker()
    )
    figures = summarise(found.scores, seed=1, level=0.95)
    items = {name.removeprefix("transcription_"): value for name, value in figures.items() if name.endswith("_items")}
    assert items == {
        "wer_librispeech_test_clean_items": 5.0,
        "wer_librispeech_test_clean_seen_items": 2.0,
        "wer_librispeech_test_clean_unseen_items": 3.0,
        "wer_librispeech_test_other_items": 2.0,
        "cer_aishell_test_items": 3.0,
        "cer_aishell_test_seen_items": 2.0,
        "cer_aishell_test_unseen_items": 1.0,
    }


def spoil(name: str) -> Callable[[Path], None]:
    """A function that breaks one file of LibriSpeech's or AISHELL-1's."""
    return lambda root: (root / "sets" / name).write_bytes(b"\xff\xfe no sound, no text")


def empty(root: Path) -> None:
    (root / "sets" / "LibriSpeech" / "test-empty").mkdir()


def librispeech(path: str = "sets/LibriSpeech", *parts: str) -> dict[str, BenchmarkConfig]:
    return {"libri": BenchmarkConfig(recipe=Recipe.librispeech, path=path, parts=list(parts))}


def aishell(path: str, *parts: str) -> dict[str, BenchmarkConfig]:
    return {"aishell": BenchmarkConfig(recipe=Recipe.aishell, path=path, parts=list(parts))}


@pytest.mark.parametrize(
    ("change", "given", "words"),
    [
        (None, librispeech("nowhere", "test-clean"), r"benchmarks.libri.path: got 'nowhere', wanted a folder that ex"),
        (None, librispeech("", "test-clean"), r"benchmarks.libri.path: got '', wanted a folder"),
        (
            None,
            librispeech("sets", "test-clean"),
            r"wanted the folder with test-clean in it; .*sets holds LibriSpeech,",
        ),
        (None, librispeech("sets/LibriSpeech", "dev-clean"), r"with dev-clean in it; .* holds test-clean, test-other"),
        (None, librispeech("sets/LibriSpeech"), r"benchmarks.libri.parts: got \[\], wanted at least one"),
        (None, aishell("sets/aishell", "dev"), r"aishell.path: .* with data_aishell/wav/dev in it; .* holds test"),
        (None, aishell("sets/aishell/data_aishell", "test"), r"with data_aishell/wav/test in it; .* holds no folder"),
        (empty, librispeech("sets/LibriSpeech", "test-empty"), r"libri.path: .*test-empty, which .* No recordings"),
        (
            spoil("LibriSpeech/test-clean/237/126133/237-126133-0000.flac"),
            librispeech("sets/LibriSpeech", "test-clean"),
            r"cannot read: .*237-126133-0000.flac",
        ),
        (
            spoil("LibriSpeech/test-clean/237/126133/237-126133.trans.txt"),
            librispeech("sets/LibriSpeech", "test-clean"),
            r"libri.path: .*cannot read: 'utf-8' codec",
        ),
        (
            spoil("aishell/data_aishell/wav/test/S0764/BAC009S0764W0121.wav"),
            aishell("sets/aishell", "test"),
            r"aishell.path: .*cannot read: .*BAC009S0764W0121.wav",
        ),
        (
            lambda root: (root / "sets/aishell/data_aishell/transcript/aishell_transcript_v0.8.txt").unlink(),
            aishell("sets/aishell", "test"),
            r"aishell.path: .*cannot read: .*aishell_transcript_v0.8.txt",
        ),
    ],
)
def test_a_folder_that_is_not_the_corpus_is_one_line(
    root: Path, change: Callable[[Path], None] | None, given: dict[str, BenchmarkConfig], words: str
) -> None:
    if change:
        change(root)
    with pytest.raises(ValueError, match=words) as caught:
        read(root, settings(**given))
    assert str(caught.value).startswith("evaluate.benchmarks.") and len(str(caught.value).splitlines()) == 1


def test_the_settings_that_the_documentation_shows_load(checkout: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "corpora.md").read_text(encoding="utf-8")
    shown = yaml.safe_load(text.split("## Public test sets")[1].split("```yaml")[1].split("```")[0])
    params = yaml.safe_load((checkout / "params.yaml").read_text(encoding="utf-8"))
    assert params["evaluate"].pop("benchmarks") == {}, "the default run reads no corpus from outside"
    params["evaluate"] |= shown["evaluate"]
    (checkout / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    found = load_config().evaluate.benchmarks
    assert (found["librispeech"].recipe, found["aishell"].recipe) == (Recipe.librispeech, Recipe.aishell)
    assert found["librispeech"].parts == ["test-clean", "test-other"]
    assert (found["vctk"].recipe, found["vctk"].parts) == (Recipe.vctk, ["mic2"])


def test_recordings_are_read_a_few_at_a_time_and_never_two_languages_together() -> None:
    def row(seconds: float, language: str = "en") -> Recording:
        return Recording(
            id="u", group="g", path=Path("u.wav"), duration_s=seconds, text="a", language=language, speaker="s"
        )

    rows = [row(6.0), row(4.0), row(1.0), row(20.0), row(2.0, "zh"), row(3.0, "zh")]
    parts = chunks(rows, 10.0)
    assert [[one.duration_s for one in part] for part in parts] == [[6.0, 4.0], [1.0], [20.0], [2.0, 3.0]]
    assert [one for part in parts for one in part] == rows
    assert chunks([], 10.0) == []
