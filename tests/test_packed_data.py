"""Packed data: sequences are laid out as documented, labels by source, and what cannot be right is named."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.shared import packed_data
from components.shared.loader_config import LabelsConfig, Learnt
from components.shared.manifest import seal
from components.shared.packed_data import PackedData
from components.shared.packing import IGNORED, LabelRule, Piece, pack
from components.shared.tokens import Vocabulary
from tests.packed_shards import LENGTH, PAD, SOURCES, write_shards

ALL = LabelsConfig(
    text=Learnt.all, speech=Learnt.all, asr=Learnt.all, tts=Learnt.all, interleaved=Learnt.all, filler=Learnt.all
)
WORDS = Vocabulary(
    size=100, first_audio_id=60, num_codes=30, end_of_text=50, pad=PAD, system=51, user=52, assistant=53,
    begin_of_audio=54, end_of_audio=55,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("packed") / "shards")


def token_by_token(pieces: list[Piece], num_tokens: int, across: bool) -> dict[str, list[int]]:
    """The definition of a packed sequence, a token at a time."""
    out: dict[str, list[int]] = {name: [] for name in ("token_ids", "labels", "positions", "segments", "sources")}
    for number, piece in enumerate(pieces):
        following = pieces[number + 1] if across and number + 1 < len(pieces) else None
        learn = [True] * len(piece.token_ids) if piece.learn is None else piece.learn.tolist()
        for place, token in enumerate(piece.token_ids.tolist()):
            source, label = piece.source, IGNORED
            if place + 1 < len(piece.token_ids):
                label = int(piece.token_ids[place + 1]) if learn[place + 1] else IGNORED
            elif following is not None:
                source = following.source
                label = int(following.token_ids[0]) if following.learn is None or following.learn[0] else IGNORED
            out["positions"].append(len(out["token_ids"]) if across else place)
            out["token_ids"].append(token)
            out["labels"].append(label)
            out["segments"].append(1 if across else number + 1)
            out["sources"].append(source)
    for name, padding in (("token_ids", 7), ("labels", IGNORED), ("positions", 0), ("segments", 0), ("sources", -1)):
        out[name] += [padding] * (num_tokens - len(out[name]))
    return out


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3), st.booleans()), max_size=6), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_sequence_is_what_its_definition_says(drawn: list[tuple[int, int, bool]], across: bool) -> None:
    rng = np.random.default_rng(len(drawn))
    pieces = [
        Piece(rng.integers(0, 50, length), source, rng.random(length) < 0.5 if partly else None)
        for length, source, partly in drawn
    ]
    got = pack(pieces, 54, 7, across)
    assert {name: row.tolist() for name, row in got.items()} == token_by_token(pieces, 54, across)
    assert {row.dtype for row in got.values()} == {np.dtype(np.int64)}


@pytest.mark.parametrize("across", [False, True])
def test_a_batch_is_its_sequences_packed_and_padding_past_the_end(folder: Path, across: bool) -> None:
    data = PackedData(folder, "train")
    numbers = [5, 0, len(data) - 1, len(data), len(data) + 3]
    batch = data.batch(numbers, across)
    for column, number in enumerate(numbers):
        pieces = [Piece(data.tokens(record), int(record["source"])) for record in data.pieces(number)]
        wanted = pack(pieces, LENGTH, PAD, across)
        assert np.array_equal(batch[:, column], np.stack(list(wanted.values())))
    assert (batch[0, 3:] == PAD).all() and (batch[1, 3:] == IGNORED).all()


def test_labels_are_learnt_by_source(folder: Path) -> None:
    data = PackedData(folder, "train")
    plain = data.batch(range(8), False)
    config = replace(ALL, text=Learnt.none, speech=Learnt.speech, asr=Learnt.text)
    ruled = data.batch(range(8), False, LabelRule.of(config, SOURCES, WORDS))
    labels, sources = plain[1], plain[4]
    speech = ((labels >= 60) & (labels < 90)) | (labels == WORDS.end_of_audio)
    kept = (labels != IGNORED) & (((sources == 1) & speech) | ((sources == 2) & ~speech))
    assert kept.any() and (~kept & (labels != IGNORED)).any()
    assert np.array_equal(ruled[1], np.where(kept, labels, IGNORED))
    assert np.array_equal(ruled[[0, 2, 3, 4]], plain[[0, 2, 3, 4]])


def test_every_token_learnt_needs_no_rule_and_none_is_refused() -> None:
    assert LabelRule.of(ALL, SOURCES, WORDS) is None
    nothing = replace(ALL, text=Learnt.none, speech=Learnt.none, asr=Learnt.none)
    with pytest.raises(ValueError, match=r"pretrain\.labels: none for all of text, speech, asr"):
        LabelRule.of(nothing, SOURCES, WORDS)
    with pytest.raises(ValueError, match=r"pretrain\.labels: no key for source 'music'"):
        LabelRule.of(ALL, ["music"], WORDS)


def test_a_token_outside_the_vocabulary_is_named_with_its_document(tmp_path: Path) -> None:
    data = PackedData(write_shards(tmp_path / "shards", bad=4_000_000_000), "train")  # the hash is right
    with pytest.raises(ValueError, match=r"source speech, document 'speech1/10': token id 4000000000 at 1.*0\.\.99"):
        data.batch(range(len(data)), False)


def test_sequences_are_described_by_their_documents(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = PackedData(folder, "train")
    number = next(n for n in range(len(data)) if len(data.pieces(n)) > 1)
    first, second = data.describe([number, len(data)])
    assert first["number"] == number and second == {"number": len(data), "pieces": []}
    for said, record in zip(first["pieces"], data.pieces(number), strict=True):
        source, shard, document, start, length = record.item()
        name = f"{SOURCES[source]}{shard}/{document}"
        assert said == {"source": SOURCES[source], "document": name, "start": start, "length": length}
        assert data.document_id(record) == name


def test_an_id_is_found_whatever_group_it_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_data, "_IDS_A_GROUP", 7)
    data = PackedData(write_shards(tmp_path / "shards"), "train")
    for record in data.pieces(0):
        source, shard, document, _, _ = record.item()
        assert data.document_id(record) == f"{SOURCES[source]}{shard}/{document}"


def test_more_shards_than_may_be_open_read_alike(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = PackedData(folder, "train").batch(range(10), False)
    monkeypatch.setattr("components.shared.shard_maps.MAX_OPEN", 1)
    data = PackedData(folder, "train")
    assert np.array_equal(data.batch(range(10), False), wanted)
    assert len(data._maps._shards) == 1


def test_data_that_is_sent_to_a_worker_takes_no_maps_along(folder: Path) -> None:
    data = PackedData(folder, "train")
    wanted = data.batch(range(4), False)
    sent = pickle.loads(pickle.dumps(data))  # noqa: S301, as multiprocessing does with our own object
    assert not {"_maps", "_pieces", "_sequences"} & set(sent.__dict__)
    assert np.array_equal(sent.batch(range(4), False), wanted)


def test_a_schedule_that_does_not_fit_its_shards_is_named(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards")
    whole = PackedData(folder, "train")
    extra = {"sources": SOURCES, "sequence_length": LENGTH // 2, "pad_id": PAD, "vocabulary_size": 100}
    del whole
    seal(folder, extra=extra)
    with pytest.raises(ValueError, match=r"train sequence \d+: \d+ pieces of \d+ tokens together do not fit into 32"):
        data = PackedData(folder, "train")
        data.batch(range(len(data)), False)
    for path in folder.glob("asr-00001.*"):
        path.unlink()
    seal(folder, extra={**extra, "sequence_length": LENGTH})
    with pytest.raises(ValueError, match=r"names asr-00001\.bin, the manifest does not"):
        data = PackedData(folder, "train")
        data.batch(range(len(data)), False)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards")
    (folder / "asr-00001.offsets").unlink()
    with pytest.raises(ValueError, match=r"asr-00001\.offsets: missing, wanted 488 bytes"):
        PackedData(folder, "train")
