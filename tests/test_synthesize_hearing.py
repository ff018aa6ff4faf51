"""A sample of every shard is heard: as many spans as asked for, of those an ear would write."""

from __future__ import annotations

from pathlib import Path

import letters
import numpy as np
import pytest

import components.speech_tokenizer.model as door
from components.shared.contracts import Text
from components.shared.manifest import seal
from components.shared.places import Inputs
from components.shared.tracking import TerminalTracker
from components.synthesize.hearing import Heard, hear
from components.synthesize.shard import Listener, Record
from components.synthesize.spans import Piece, Plan, Span


def shard(said: list[tuple[str, str]], num: int, fault: str = "") -> Record:
    """A shard whose documents are a span each: (its text, what its tokens say); num: spans that are heard."""
    listener = Listener(num, seed=3)
    for number, (text, spoken) in enumerate(said):
        document = Text(id=f"t{number}", text=text, language="en", corpus="letters", license="MIT", split="train")
        piece = Piece(f"t{number}:0:0", text, text, codes=np.array(letters.say(spoken), np.uint16))
        listener.offer([Plan(document, 2, [Span(0, len(text), 2, [piece], fault=fault)])])
    return Record(exact=True, samples=listener.samples)


def listen(tmp_path: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch) -> Heard:
    monkeypatch.setattr(door, "load", lambda path: letters.EAR)
    ear = tmp_path / "data" / "speech_tokenizer" / "model"
    ear.mkdir(parents=True, exist_ok=True)
    seal(ear)
    return hear(records, Inputs(tmp_path / "data"), TerminalTracker())


def test_a_shard_with_speech_has_an_error_rate_whatever_else_is_in_it(tmp_path, monkeypatch):
    """Of eight spans one has words; a sample of one that took any would mostly hear nothing."""
    records = [shard([("hmm", "hmm")] * 7 + [(" anna sees", "anna likes")], num=1)]
    heard = listen(tmp_path, records, monkeypatch)
    assert heard.shards == [{"wer": 0.5}] and heard.figures == {"wer_en": 0.5}


def test_errors_are_counted_shard_by_shard_and_over_all(tmp_path, monkeypatch):
    good = shard([("anna sees bert", "anna sees bert")] * 3, num=2)
    bad = shard([("anna sees bert", "anna likes dino")], num=2)
    silent = shard([("hmm", "hmm")], num=2)
    faulty = shard([("anna sees bert", "anna likes dino")], num=2, fault="loop")
    heard = listen(tmp_path, [good, bad, silent, faulty], monkeypatch)
    assert heard.shards == [{"wer": 0.0}, {"wer": pytest.approx(2 / 3)}, {}, {}], "two, one and none"
    assert heard.figures == {"wer_en": pytest.approx(2 / 9)}


def test_every_span_is_as_likely_to_be_heard_as_any_other():
    texts = [(f"anna sees {name}", "anna") for name in "abcdefgh"]
    drawn = [Listener(2, seed) for seed in range(400)]
    for listener in drawn:
        for number, (text, _) in enumerate(texts):
            document = Text(id=f"t{number}", text=text, language="en", corpus="letters", license="MIT", split="train")
            listener.offer([Plan(document, 3, [Span(0, len(text), 3, [Piece("k", text, text)])])])
    counts = [sum(sample.text == text for listener in drawn for sample in listener.samples) for text, _ in texts]
    assert sum(counts) == 800 and all(60 < count < 145 for count in counts)
