"""The planner of mix: the paper's rule in tokens, and what cannot be met refused in one line that names the key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from components.mix.config import Epochs, MaxEpochs
from components.mix.plan import check, plan
from components.shared.contracts import Interleaved, SpeechTokens, Text
from components.shared.manifest import write_table
from tests.mixed import CONFIG, made
from tests.speech_rows import NUM_CODES, interleaved_row, speech, text_row, write_world

AVAILABLE = {"text": 1000, "speech": 100, "asr": 200, "tts": 200, "interleaved": 2000}
ONE, MANY = CONFIG.epochs, CONFIG.max_epochs
FOUR = replace(ONE, interleaved=4)


def test_the_plan_fills_the_rest_with_interleaved() -> None:
    budgets = plan(replace(CONFIG, total_tokens=10_000), AVAILABLE)
    assert {b.source: b.planned for b in budgets} == {
        "text": 3000,
        "speech": 100,
        "asr": 200,
        "tts": 200,
        "interleaved": 6500,
    }
    assert [b.rule for b in budgets] == ["30% of all", "1 epoch", "1 epoch", "1 epoch", "the rest"]


def test_with_a_number_of_epochs_for_interleaved_the_filler_takes_the_rest() -> None:
    config = replace(CONFIG, total_tokens=14_000, filler=["chat"], epochs=FOUR)
    budgets = {b.source: b.planned for b in plan(config, {**AVAILABLE, "filler": 300})}
    assert budgets == {"text": 4200, "speech": 100, "asr": 200, "tts": 200, "interleaved": 8000, "filler": 1300}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"max_epochs": replace(MANY, text=1)}, r"mix\.max_epochs\.text: got 1, but the plan needs 3\.00 epochs"),
        ({"max_epochs": replace(MANY, interleaved=2)}, r"mix\.max_epochs\.interleaved: got 2, .* 3\.25 epochs"),
        ({"total_tokens": 600}, r"mix\.total_tokens: got 600, .* need 680 .*mix\.text_share or mix\.epochs"),
        ({"epochs": FOUR, "total_tokens": 14_000}, r"mix\.filler: got \[\], .*interleaved=4 1300 of 14000 tokens"),
    ],
)
def test_a_plan_that_cannot_be_met_is_refused_by_name(change: dict, line: str) -> None:
    with pytest.raises(ValueError, match=line) as caught:
        plan(replace(CONFIG, **{"total_tokens": 10_000, **change}), AVAILABLE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["speech", "asr", "tts"])
def test_repeats_of_a_fixed_source_are_allowed_by_name_alone(source: str) -> None:
    twice = replace(CONFIG, total_tokens=10_000, epochs=replace(ONE, **{source: 2}))
    with pytest.raises(ValueError, match=rf"mix\.epochs\.{source}: got 2, but mix\.max_epochs\.{source} allows 1"):
        check(twice)
    allowed = replace(twice, max_epochs=replace(MANY, **{source: 2}))
    check(allowed)
    budgets = {b.source: b.epochs for b in plan(allowed, AVAILABLE)}
    assert budgets[source] == 2.0


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"text_share": 1.2}, r"mix\.text_share: got 1\.2, wanted 0\.\.1"),
        ({"spoken_share": -0.1}, r"mix\.spoken_share: got -0\.1"),
        ({"total_tokens": 0}, r"mix\.total_tokens: got 0, wanted at least 1"),
        ({"shuffle_shards": -1}, r"mix\.shuffle_shards: got -1"),
        ({"epochs": replace(ONE, asr=float("nan"))}, r"mix\.epochs\.asr: got nan"),
        ({"max_epochs": replace(MANY, tts=-1.0)}, r"mix\.max_epochs\.tts: got -1"),
        ({"filler": ["chat"]}, r"mix\.filler: got \['chat'\], .*mix\.epochs\.interleaved is null"),
    ],
)
def test_settings_that_no_data_could_meet_are_refused_before_any_is_read(change: dict, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        check(replace(CONFIG, **change))


def without(source: str, data: Path) -> None:
    """A world in which one source has no row to train on."""
    write_world(data)
    if source == "text":
        write_table(data / "collect" / "texts", [text_row("t", "only held out", "test")], Text)
    elif source == "interleaved":
        rows = [interleaved_row("i", [("text", "held out")], "test")]
        write_table(data / "synthesize" / "interleaved", rows, Interleaved)
    else:
        spoken = speech("s", None if source != "speech" else "Anna has a dog.")
        extra = {"num_codes": NUM_CODES, "tokens_per_s": 12.5}
        write_table(data / "tokenize" / "tokens", [spoken], SpeechTokens, extra=extra)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("text", r"there is no row of collect/texts; mix\.text_share=0 leaves the source out"),
        (
            "speech",
            r"mix\.epochs\.speech: got 1, .*without text to train on; mix\.epochs\.speech=0 leaves the source out",
        ),
        ("asr", r"mix\.epochs\.asr: got 1, .*mix\.epochs\.asr=0 leaves the source out"),
        ("interleaved", r"mix\.epochs\.interleaved=0 leaves the source out, and mix\.filler names"),
    ],
)
def test_a_source_without_rows_is_refused_with_the_way_to_leave_it_out(tmp_path: Path, source: str, line: str) -> None:
    without(source, tmp_path / "data")
    with pytest.raises(ValueError, match=line):
        made(tmp_path)


def test_sources_that_are_left_out_stay_in_the_plan_with_nothing(tmp_path: Path) -> None:
    without("speech", tmp_path / "data")
    settings = Epochs(speech=0, asr=0, tts=0, interleaved=None)
    limits = MaxEpochs(text=400, speech=1, asr=1, tts=1, interleaved=400, filler=1)
    data, metrics = made(tmp_path, replace(CONFIG, epochs=settings, max_epochs=limits))
    assert data.sources == ["text", "speech", "asr", "tts", "interleaved"]
    assert metrics["achieved_share_speech"] == metrics["achieved_share_asr"] == metrics["epochs_speech"] == 0.0
    assert metrics["achieved_share_interleaved"] == pytest.approx(0.7, abs=0.01)


def test_a_corpus_of_the_filler_without_text_is_named(tmp_path: Path) -> None:
    write_world(tmp_path / "data")
    config = replace(CONFIG, epochs=replace(ONE, interleaved=1), filler=["closed_world", "chitchaat"])
    with pytest.raises(ValueError, match=r"mix\.filler: 'chitchaat' has no text to train on"):
        made(tmp_path, config)
