"""A sample of every shard is heard: as many spans as asked for, of those an ear would write."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import letters
import pytest

import components.speech_tokenizer.model as door
from components.shared.contracts import Interleaved, Segment
from components.shared.manifest import seal, write_shard
from components.shared.places import Inputs
from components.shared.tracking import TerminalTracker
from components.synthesize.hearing import Heard, hear


def shard(path: Path, said: list[tuple[str, str]]) -> Path:
    """A document a span: (its text, what its tokens say)."""
    rows = []
    for number, (text, spoken) in enumerate(said):
        segment = Segment(modality="speech", text=text, tokens=letters.say(spoken), start=0, stop=len(text))
        rows.append(
            Interleaved(
                id=f"t{number}",
                language="en",
                corpus="letters",
                segments=[segment],
                num_text_chars=0,
                num_speech_tokens=len(segment.tokens),
                engine="none",
                license="MIT",
                split="train",
            )
        )
    write_shard(path, rows, Interleaved)
    return path


def listen(tmp_path: Path, paths: list[Path], num: int, monkeypatch: pytest.MonkeyPatch) -> Heard:
    monkeypatch.setattr(door, "load", lambda path: letters.EAR)
    ear = tmp_path / "data" / "speech_tokenizer" / "model"
    ear.mkdir(parents=True, exist_ok=True)
    seal(ear)
    config = SimpleNamespace(seed=3, heard_per_shard=num)
    return hear(paths, config, Inputs(tmp_path / "data"), TerminalTracker())


def test_a_shard_with_speech_has_an_error_rate_whatever_else_is_in_it(tmp_path, monkeypatch):
    """Of eight spans one has words; a sample of one that took any would mostly hear nothing."""
    paths = [shard(tmp_path / "a", [("hmm", "hmm")] * 7 + [(" anna sees", "anna likes")])]
    heard = listen(tmp_path, paths, 1, monkeypatch)
    assert heard.shards == [{"wer": 0.5}] and heard.figures == {"wer_en": 0.5}


def test_errors_are_counted_shard_by_shard_and_over_all(tmp_path, monkeypatch):
    good = shard(tmp_path / "a", [("anna sees bert", "anna sees bert")] * 3)
    bad = shard(tmp_path / "b", [("anna sees bert", "anna likes dino")])
    silent = shard(tmp_path / "c", [("hmm", "hmm")])
    heard = listen(tmp_path, [good, bad, silent], 2, monkeypatch)
    assert heard.shards == [{"wer": 0.0}, {"wer": pytest.approx(2 / 3)}, {}], "two, one and none"
    assert heard.figures == {"wer_en": pytest.approx(2 / 9)}
