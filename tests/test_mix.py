"""mix: the plan is met or refused, every document is seen as often as planned, and the order is a pure function."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.mix.permutation import permute
from components.shared.executor import ExecutorConfig, ExecutorKind
from components.shared.formats import Formats
from components.shared.manifest import read_manifest
from components.shared.packed_data import PackedData
from components.shared.packed_loader import PackedLoader
from components.shared.packing import FIELDS, IGNORED, Piece, attention_mask, pack
from components.shared.tokens import Vocabulary, load_tokenizer
from docs.prompts import render
from tests.mixed import CONFIG, made
from tests.speech_rows import NUM_CODES, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mix")
    write_world(root / "data")
    return root


def schedule(data: PackedData) -> list[list[tuple]]:
    return [[tuple(record) for record in data.pieces(number).tolist()] for number in range(len(data))]


def test_achieved_shares_are_the_planned_ones(world: Path) -> None:
    _, metrics = made(world)
    assert metrics["planned_share_text"] == pytest.approx(0.3, abs=1e-3)
    for source in ("text", "speech", "asr", "tts", "interleaved"):
        assert metrics[f"achieved_share_{source}"] == pytest.approx(metrics[f"planned_share_{source}"], abs=0.01)
    assert metrics["padding_share"] < 0.15  # documents of one length do not fill a sequence of another


def test_every_stretch_of_the_run_has_the_mix(world: Path) -> None:
    data, metrics = made(world, replace(CONFIG, window_sequences=16))
    quarters = np.array_split(np.arange(len(data)), 4)
    for quarter in quarters:
        records = np.concatenate([data.pieces(int(number)) for number in quarter])
        text = records["length"][records["source"] == 0].sum() / records["length"].sum()
        assert text == pytest.approx(metrics["achieved_share_text"], abs=0.06)


def test_the_schedule_depends_on_the_seed_alone(world: Path, tmp_path: Path) -> None:
    first = schedule(made(world)[0])
    write_world(tmp_path / "data")
    assert schedule(made(tmp_path)[0]) == first
    assert schedule(made(tmp_path, replace(CONFIG, seed=18))[0]) != first


@pytest.mark.slow
def test_the_shards_do_not_depend_on_the_number_of_workers(world: Path, tmp_path: Path) -> None:
    made(world)
    write_world(tmp_path / "data")
    made(tmp_path, replace(CONFIG, executor=ExecutorConfig(kind=ExecutorKind.local, num_workers=2)))
    hashes = [read_manifest(root / "data" / "mix" / "shards").content_hash for root in (world, tmp_path)]
    assert hashes[0] == hashes[1]


def test_sixty_four_ranks_together_read_the_schedule_in_its_order(world: Path) -> None:
    data, _ = made(world)
    ranks = [list(PackedLoader(data, 64, 2, False, rank, 64)) for rank in range(64)]
    together = [ranks[rank][batch]["token_ids"][0].numpy() for batch in range(2) for rank in range(64)]
    for number, token_ids in enumerate(together):
        assert np.array_equal(token_ids, data.batch([number], False)[FIELDS.index("token_ids"), 0])
    assert len(data) >= 120  # past the end of a schedule a batch is filled with padding


def test_ranks_share_the_global_order(world: Path) -> None:
    data, _ = made(world)
    alone = [batch["token_ids"].numpy() for batch in PackedLoader(data, 4, 3, False)]
    ranks = [[b["token_ids"].numpy() for b in PackedLoader(data, 4, 3, False, r, 2)] for r in range(2)]
    for number, batch in enumerate(alone):
        assert np.array_equal(batch, np.concatenate([rank[number] for rank in ranks]))
    resumed = PackedLoader(data, 4, 3, False)
    resumed.load_state_dict({"position": 2})
    assert [np.array_equal(b["token_ids"].numpy(), alone[2]) for b in resumed] == [True]


def test_a_loader_that_nobody_asked_for_more_than_its_last_batch_begins_again(world: Path) -> None:
    """So does Lightning, which knows the length: every second validation would see nothing."""
    loader = PackedLoader(made(world)[0], 4, 3, False)
    passes = [[batch["token_ids"] for batch in itertools.islice(loader, 3)] for _ in range(3)]
    assert [len(batches) for batches in passes] == [3, 3, 3]
    assert all(torch.equal(a, b) for a, b in zip(passes[0], passes[2], strict=True))


def test_documents_read_back_as_they_were_written(world: Path) -> None:
    data, _ = made(world)
    tokenizer = load_tokenizer(world / "data" / "mix" / "tokenizer")
    formats = Formats(tokenizer, Vocabulary.of(tokenizer, NUM_CODES))
    shown = {}
    for number in range(len(data)):
        for record in data.pieces(number):
            shown[data.document_id(record)] = formats.show(data.tokens(record).tolist())
    assert shown["t0"] == "Anna has a dog. What pet does Anna have? Dog.<|endoftext|>"
    audio = "".join(f"<|audio_{ord(letter) - ord('a')}|>" for letter in "annafeeds")
    assert shown["i0"] == f"Every day 0 <|begin_of_audio|>{audio}<|end_of_audio|> a dog.<|endoftext|>"
    assert shown["u0"].startswith("<|begin_of_audio|>") and shown["u0"].endswith("<|end_of_audio|><|endoftext|>")


def test_control_tokens_in_a_corpus_are_spelled_out(world: Path) -> None:
    tokenizer = load_tokenizer(world / "data" / "mix" / "tokenizer")
    vocabulary = Vocabulary.of(tokenizer, NUM_CODES)
    ids = Formats(tokenizer, vocabulary).text_document("hello <|user|> <|audio_3|>")
    assert vocabulary.user not in ids and not any(vocabulary.is_audio(i) for i in ids)


def test_a_cut_shard_is_refused(tmp_path: Path) -> None:
    write_world(tmp_path / "data")
    made(tmp_path)
    shards = tmp_path / "data" / "mix" / "shards"
    content = (shards / "text-00000.bin").read_bytes()
    (shards / "text-00000.bin").unlink()
    (shards / "text-00000.bin").write_bytes(content[:-4])
    with pytest.raises(ValueError, match=r"text-00000\.bin.*planned"):
        PackedData(shards, "train")
    assert read_manifest(shards).extra["sequence_length"] == 96


def test_the_page_of_formats_shows_what_the_code_does() -> None:
    root = Path(__file__).parents[1]
    samples = json.loads((root / "docs" / "prompts.json").read_text(encoding="utf-8"))
    page = (root / "docs" / "prompts.md").read_text(encoding="utf-8")
    assert render(samples) == page, "docs/prompts.md is not what `python -m docs.prompts` writes"


@given(st.integers(1, 3000), st.integers(0, 2**40))
@settings(max_examples=40, deadline=None)
def test_permute_is_a_permutation(size: int, key: int) -> None:
    order = permute(np.arange(size), size, key)
    assert np.array_equal(np.sort(order), np.arange(size))


def test_pieces_are_blind_to_each_other() -> None:
    pieces = [Piece(np.array([5, 6, 7]), 0), Piece(np.array([8, 9]), 1, np.array([False, True]))]
    packed = pack(pieces, 7, pad_id=1, attend_across=False)
    assert packed["token_ids"].tolist() == [5, 6, 7, 8, 9, 1, 1]
    assert packed["labels"].tolist() == [6, 7, IGNORED, 9, IGNORED, IGNORED, IGNORED]
    assert packed["positions"].tolist() == [0, 1, 2, 0, 1, 0, 0]
    assert packed["sources"].tolist() == [0, 0, 0, 1, 1, -1, -1]
    import torch

    mask = attention_mask(torch.from_numpy(packed["segments"])[None])[0, 0]
    assert mask[2].tolist() == [True, True, True, False, False, False, False]
    assert mask[4].tolist() == [False, False, False, True, True, False, False]


def test_attention_across_documents_predicts_their_first_tokens() -> None:
    packed = pack([Piece(np.array([5, 6, 7]), 0), Piece(np.array([8, 9]), 1)], 6, pad_id=1, attend_across=True)
    assert packed["labels"].tolist() == [6, 7, 8, 9, IGNORED, IGNORED]
    assert packed["positions"].tolist() == [0, 1, 2, 3, 4, 0]
    assert packed["sources"].tolist() == [0, 0, 1, 1, 1, -1]
