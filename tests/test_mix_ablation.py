"""The arms of the interleaving ablation: equal totals, and every fact seen equally often, by params alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from components.mix.config import FILLER, SOURCES, MixConfig
from components.shared.contracts import Text
from components.shared.loader_config import LabelsConfig
from components.shared.manifest import read_table, write_table
from components.shared.packed_data import PackedData
from components.shared.tokens import Vocabulary, load_tokenizer
from tests.mixed import CONFIG, made, shown
from tests.speech_rows import NUM_CODES, text_row, write_world

ARMS = (0.0, 0.25, 0.5, 1.0)


def arm(spoken_share: float) -> MixConfig:
    return replace(
        CONFIG,
        spoken_share=spoken_share,
        epochs=replace(CONFIG.epochs, interleaved=3),
        filler=["chat"],
        held_out_share=0.05,
    )


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> dict[float, tuple[Path, PackedData, dict[str, float]]]:
    found = {}
    for share in ARMS:
        root = tmp_path_factory.mktemp("arm")
        write_world(root / "data")
        facts = list(read_table(root / "data" / "collect" / "texts", Text))
        chats = [text_row(f"c{number}", f"Hello number {number}, how are you?", corpus="chat") for number in range(120)]
        write_table(root / "data" / "collect" / "texts", facts + chats, Text)
        found[share] = (root, *made(root, arm(share)))
    return found


def test_the_arms_have_equal_totals_and_shares_of_everything_else(arms: dict) -> None:
    totals = {share: metrics["total_tokens"] for share, (_, _, metrics) in arms.items()}
    assert max(totals.values()) - min(totals.values()) <= CONFIG.sequence_length
    assert abs(totals[1.0] - CONFIG.total_tokens) <= CONFIG.sequence_length
    for source in ("text", "speech", "asr", "tts"):
        planned = {metrics[f"planned_share_{source}"] for _, _, metrics in arms.values()}
        assert len(planned) == 1
    filled = [arms[share][2]["planned_share_filler"] for share in ARMS]
    assert filled == sorted(filled, reverse=True) and filled[0] > filled[-1] > 0


def test_every_document_with_a_fact_is_seen_equally_often_in_every_arm(arms: dict) -> None:
    facts = []
    for _, data, _ in arms.values():
        times = shown(data)
        assert set(times["interleaved"].values()) == {3}
        facts.append({source: times[source] for source in ("text", "speech", "asr", "tts", "interleaved")})
        assert all(name.startswith("c") for name in times["filler"])
    assert all(one == facts[0] for one in facts[1:])


def test_the_share_of_the_documents_that_is_spoken_is_the_arms_and_arms_are_nested(arms: dict) -> None:
    spoken = {}
    for share, (root, data, _) in arms.items():
        vocabulary = Vocabulary.of(load_tokenizer(root / "data" / "mix" / "tokenizer"), NUM_CODES)
        interleaved = data.sources.index("interleaved")
        spoken[share], total = set(), set()
        for number in range(len(data)):
            for record in data.pieces(number):
                if record["source"] == interleaved:
                    total.add(data.document_id(record))
                    if any(vocabulary.is_audio(int(i)) for i in data.tokens(record)):
                        spoken[share].add(data.document_id(record))
        assert len(spoken[share]) / len(total) == pytest.approx(share, abs=0.2)
    assert not spoken[0.0] and spoken[0.0] < spoken[0.25] < spoken[0.5] < spoken[1.0] == total


def test_all_arms_are_validated_on_the_same_sequences(arms: dict) -> None:
    def held_out(root: Path) -> Counter[bytes]:
        data = PackedData(root / "data" / "mix" / "shards", "validation")
        records = [r for number in range(len(data)) for r in data.pieces(number)]
        return Counter(np.asarray(data.tokens(record)).tobytes() for record in records)

    seen = [held_out(root) for root, _, _ in arms.values()]
    assert seen[0] and all(one == seen[0] for one in seen[1:])


def test_what_is_learnt_is_said_of_every_source() -> None:
    assert {field.name for field in fields(LabelsConfig)} == {*SOURCES, FILLER}
