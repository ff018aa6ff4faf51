"""The order of documents in mix: an epoch shows every document once, and groups of shards keep a stretch together."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.mix.achieved import count
from components.mix.config import Epochs, MaxEpochs
from components.mix.schedule import windows, write
from components.shared.contracts import SpeechTokens, Text
from components.shared.manifest import write_table
from components.shared.packed_data import PIECE, PackedData
from tests.mixed import CONFIG, made, shown, stream_of
from tests.speech_rows import NUM_CODES, speech, text_row, write_world

LENGTH = 64


def whole(pieces: np.ndarray) -> Counter[tuple[int, int]]:
    """How often each (shard, document) begins."""
    return Counter((int(p["shard"]), int(p["document"])) for p in pieces if p["start"] == 0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("order")
    write_world(root / "data", rows_per_shard=9)
    return root


def expected(root: Path) -> dict[str, set[str]]:
    """The documents that each fixed source has for training."""
    pairs = {f"s{number}" for number in range(40) if number % 10 != 9}
    return {"speech": {f"u{number}" for number in range(10)}, "asr": pairs, "tts": pairs}


def test_one_epoch_shows_every_document_once_by_its_id(world: Path) -> None:
    data, metrics = made(world)
    counts = shown(data)
    for source, names in expected(world).items():
        assert counts[source] == dict.fromkeys(names, 1)
        assert metrics[f"epochs_{source}"] == 1.0 and metrics[f"repeats_{source}"] == 0.0
    for source in ("text", "interleaved"):
        assert max(counts[source].values()) - min(counts[source].values()) <= 1
        assert metrics[f"repeats_{source}"] == sum(counts[source].values()) - len(counts[source])


@pytest.mark.parametrize("shuffle_shards", [0, 2])
def test_two_epochs_show_every_document_twice_and_a_fraction_rounds_per_document(
    world: Path, shuffle_shards: int
) -> None:
    epochs = Epochs(speech=2, asr=1.5, tts=0.25, interleaved=None)
    limits = MaxEpochs(text=10, speech=2, asr=1.5, tts=1, interleaved=20, filler=1)
    data, metrics = made(world, replace(CONFIG, epochs=epochs, max_epochs=limits, shuffle_shards=shuffle_shards))
    counts, names = shown(data), expected(world)
    assert counts["speech"] == dict.fromkeys(names["speech"], 2)
    assert set(counts["asr"]) == names["asr"] and set(counts["asr"].values()) == {1, 2}
    assert set(counts["tts"]) < names["tts"] and set(counts["tts"].values()) == {1}
    assert metrics["epochs_asr"] == pytest.approx(1.5, abs=0.03)  # to one document
    assert metrics["repeats_asr"] == sum(count == 2 for count in counts["asr"].values())


@given(
    st.lists(st.lists(st.integers(1, 200), max_size=12), min_size=1, max_size=9).filter(lambda s: any(s)),
    st.floats(0.0, 3.2),
    st.integers(0, 4),
    st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_whatever_the_budget_no_document_is_seen_more_than_once_more_than_another(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[int]], epochs: float, group: int, window: int
) -> None:
    folder = tmp_path_factory.mktemp("stream")
    budget = round(epochs * sum(map(sum, shards)))
    stream = stream_of(folder, shards, budget, LENGTH, group)
    write(folder, "train", windows([stream], LENGTH, window, 17))
    pieces = np.fromfile(folder / "train.pieces", PIECE)
    times = whole(pieces)
    numbers = [(shard, document) for shard, lengths in enumerate(shards) for document in range(len(lengths))]
    assert {times[number] for number in numbers} <= {math.floor(epochs), math.ceil(epochs), round(epochs)}
    for (shard, document), seen in times.items():
        of_it = pieces[(pieces["shard"] == shard) & (pieces["document"] == document)]
        assert of_it["length"].sum() == seen * shards[shard][document]
    (found,) = count(folder / "train.pieces", [stream.documents.count])
    assert (found.least, found.most) == (min(times[n] for n in numbers), max(times[n] for n in numbers))
    assert found.tokens == pieces["length"].sum() and found.documents == len(numbers)


def test_a_stretch_of_the_run_reads_the_shards_of_a_group_or_two(tmp_path: Path) -> None:
    shards = [[20] * 50 for _ in range(40)]

    def most_in_a_stretch(shuffle_shards: int) -> int:
        folder = tmp_path / str(shuffle_shards)
        stream = stream_of(folder, shards, 2 * 40 * 1000, LENGTH, shuffle_shards)
        pieces = np.concatenate([records for records, _ in windows([stream], LENGTH, 16, 17)])
        assert set(whole(pieces).values()) == {2}  # two whole epochs
        return max(len(set(pieces["shard"][start : start + 150].tolist())) for start in range(0, len(pieces), 50))

    assert most_in_a_stretch(0) >= 38
    assert most_in_a_stretch(4) <= 8


def test_the_groups_of_shards_differ_from_epoch_to_epoch(tmp_path: Path) -> None:
    stream = stream_of(tmp_path, [[1] * 4 for _ in range(30)], 240, LENGTH, 3)
    first, second = stream.take(120), stream.take(240)
    assert set(first["shard"][:12].tolist()) != set(second["shard"][:12].tolist())
    assert len(set(first["shard"][:12].tolist())) == 3
    again = stream_of(tmp_path / "again", [[1] * 4 for _ in range(30)], 240, LENGTH, 3)
    assert np.array_equal(again.take(240), np.concatenate([first, second]))  # a function of the seed, however taken


def test_documents_longer_than_a_sequence_are_cut_counted_and_lose_no_token(tmp_path: Path) -> None:
    write_world(tmp_path / "data")
    long = " ".join(f"Anna has {number} dogs." for number in range(60))
    rows = [text_row("long", long), *(text_row(f"t{number}", "Anna has a dog.") for number in range(30))]
    write_table(tmp_path / "data" / "collect" / "texts", rows, Text)
    spoken = [*(speech(f"s{n}", "Anna has a dog.") for n in range(30)), speech("u", None), speech("ss", "a" * 500)]
    extra = {"num_codes": NUM_CODES, "tokens_per_s": 12.5}
    write_table(tmp_path / "data" / "tokenize" / "tokens", spoken, SpeechTokens, extra=extra)
    data, metrics = made(tmp_path)
    assert metrics["split_documents_text"] == metrics["split_documents_asr"] == metrics["split_documents_tts"] == 1.0
    assert metrics["split_documents_speech"] == metrics["split_documents_interleaved"] == 0.0
    assert shown(data)["asr"]["ss"] == 1  # every piece is there
    pieces = stretch(data, "asr", "ss")
    assert list(itertools.chain.from_iterable(pieces)) == whole_document(tmp_path, data, "asr", "ss")


def stretch(data: PackedData, source: str, name: str) -> list[list[int]]:
    """The pieces of a document that is seen once, from its beginning to its end."""
    records = [r for number in range(len(data)) for r in data.pieces(number) if data.sources[r["source"]] == source]
    own = sorted((r for r in records if data.document_id(r) == name), key=lambda r: int(r["start"]))
    assert len(own) > 1 and all(int(r["length"]) == 96 for r in own[:-1])
    return [data.tokens(r).tolist() for r in own]


def whole_document(root: Path, data: PackedData, source: str, name: str) -> list[int]:
    """The document as it stands in its shard."""
    shards = root / "data" / "mix" / "shards"
    place = pq.read_table(shards / f"{source}-00000.ids.parquet")["id"].to_pylist().index(name)
    offsets = np.fromfile(shards / f"{source}-00000.offsets", "<u8")
    tokens = np.fromfile(shards / f"{source}-00000.bin", "<u4")
    return tokens[int(offsets[place]) : int(offsets[place + 1])].tolist()


def test_a_budget_that_ends_with_a_document_takes_no_further_one(tmp_path: Path) -> None:
    stream = stream_of(tmp_path, [[20] * 6, [20] * 6], 240, LENGTH)
    assert [len(stream.take(until)) for until in (100, 100, 101, 160, 240, 240)] == [5, 0, 1, 2, 4, 0]
