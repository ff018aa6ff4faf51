"""FLOPs of a step: the formula against a count of what really runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from components.shared.flops import TokenCost, peak_flops, visible_pairs
from components.shared.packing import Piece, collate, pack


@pytest.mark.parametrize("tied", [True, False])
def test_the_formula_counts_the_products_that_run(tied: bool) -> None:
    """Eager attention computes all pairs, so all of them are given here."""
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config)
    ids = torch.arange(2 * 24).reshape(2, 24)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    rope = 3 * 2 * 24 * 8  # the angles of the rotary positions are a product too, a tiny one
    assert TokenCost.of(model).train_flops(2 * 24, 2 * 24 * 24) == pytest.approx(counter.get_total_flops(), abs=rope)


def test_pairs_are_those_of_one_document_and_of_the_past() -> None:
    pieces = [Piece(np.arange(5), 0), Piece(np.arange(3), 1)]
    apart = collate([pack(pieces, 10, 0, attend_across=False)])
    across = collate([pack(pieces, 10, 0, attend_across=True)])
    assert int(visible_pairs(apart)) == 15 + 6
    assert int(visible_pairs(across)) == 36


def test_a_device_of_unknown_speed_is_measured() -> None:
    assert peak_flops(torch.device("cpu"), torch.float32) > 1e8
