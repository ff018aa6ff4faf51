"""Interleaved documents to read and hear: whole, with every span marked, some of them decoded and transcribed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import letters
import pytest
import torch
from evaluated import config

from components.evaluate.documents import MAX_SPANS, SHELF, choose_documents, heard_spans, marked, show
from components.evaluate.samples import SampleBook
from components.shared.contracts import Interleaved, Sample, Segment
from components.shared.manifest import read_table, write_shard
from components.shared.manifest import seal as seal_table
from components.shared.tracking import TerminalTracker

DECODER = SimpleNamespace(sample_rate_hz=100, decode=lambda tokens: torch.linspace(-0.5, 0.5, 8 * len(tokens)))
"""As long as the tokens say, and no more than that."""


def document(number: int, corpus: str = "letters", num_spans: int = 3) -> Interleaved:
    segments, at = [], 0
    for span in range(num_spans):
        for modality, text in (("text", f" Here is {number}."), ("speech", f" anna sees dog {'abc'[span % 3]}")):
            tokens = letters.say(text) if modality == "speech" else []
            segments.append(Segment(modality=modality, text=text, tokens=tokens, start=at, stop=at + len(text)))
            at += len(text)
    num_tokens = sum(len(segment.tokens) for segment in segments)
    return Interleaved(
        id=f"{corpus}-{number}",
        language="en",
        corpus=corpus,
        segments=segments,
        num_text_chars=at,
        num_speech_tokens=num_tokens,
        engine="none",
        license="MIT",
        split="train",
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A table of eight shards: nine in ten documents are of one corpus."""
    folder = tmp_path / "interleaved"
    folder.mkdir()
    for shard in range(8):
        rows = [document(10 * shard + n, "rare" if n == 0 else "letters") for n in range(10)]
        write_shard(folder / f"part-{shard:05d}.parquet", rows, Interleaved)
    seal_table(folder, contract=Interleaved.__name__)
    return folder


def test_documents_are_shown_whole_with_their_spans_numbered_heard_and_decoded(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    book = SampleBook(tmp_path / "samples", TerminalTracker())
    assert show(book, folder, DECODER, letters.EAR.transcribe, config(num_samples=6, seed=1)) == 3
    book.close()
    samples = list(read_table(tmp_path / "samples", Sample))
    by_id = {row.id: row for row in read_table(folder, Interleaved)}
    assert [sample.shelf for sample in samples] == [SHELF] * 3
    for sample in samples:
        texts = {text.label: text.text for text in sample.texts}
        read = texts["document"]
        for segment in by_id[sample.id].segments:
            if segment.modality == "speech":
                assert f"{segment.text.strip()}, {len(segment.tokens)} tokens⟧" in read
            else:
                assert segment.text in read
        assert [sound.label for sound in sample.sounds] == ["span 1", "span 2"]
        for number in (1, 2):
            said = read.split(f"⟦{number}: ")[1].split(",")[0]
            assert texts[f"span {number} heard"] == f"{said} (0 errors in 4 words)"


def test_documents_come_from_every_corpus_in_turn_and_the_same_ones_again(folder: Path) -> None:
    chosen = choose_documents(folder, 4, seed=1)
    assert [row.corpus for row in chosen] == ["letters", "rare", "letters", "rare"]
    assert [row.id for row in chosen] == [row.id for row in choose_documents(folder, 4, seed=1)]
    assert len({int(row.id.split("-")[1]) // 10 for row in choose_documents(folder, 20, seed=1)}) == 4, "of four shards"


def test_a_span_keeps_the_space_before_it_outside_its_mark() -> None:
    one = document(1, num_spans=1)
    assert marked(one.segments, []) == " Here is 1. ⟦anna sees dog a, 15 tokens⟧"
    assert marked(one.segments, [1]) == " Here is 1. ⟦1: anna sees dog a, 15 tokens⟧"


def test_a_handful_of_spans_is_heard_in_the_order_of_the_text() -> None:
    for spans, wanted in ((1, 1), (2, 2), (9, MAX_SPANS)):
        heard = heard_spans(document(1, num_spans=spans), seed=3)
        assert len(heard) == wanted and heard == sorted(heard) and all(place % 2 for place in heard)
