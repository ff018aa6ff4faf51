"""Training on packed batches: pieces are blind to each other, whatever computes them."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from components.shared.packed_attention import packed as packed_attention
from components.shared.packed_lm import PackedLM
from components.shared.packing import Piece, collate, pack
from components.shared.speech_lm import random_model
from tests.test_pretrain import SHAPE
from tests.test_speech_lm import vocabulary_of


@pytest.mark.parametrize("explicit", [True, False])
def test_a_packed_document_has_the_loss_that_it_has_alone(explicit: bool) -> None:
    vocabulary = vocabulary_of()
    model = random_model(SHAPE, vocabulary, 64, seed=1)
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, vocabulary.size, n) for n in (7, 12, 5)]
    batch = collate([pack([Piece(d, 0) for d in documents], 30, vocabulary.pad, False)])
    with packed_attention(model) if explicit else nullcontext():
        _, nll, learnt = PackedLM(model, num_real=vocabulary.size, chunk=4)(batch)
    assert int(learnt.sum()) == len(nll) == 6 + 11 + 4
    alone = []
    for document in documents:
        ids = torch.tensor(document)[None]
        logits = model(ids).logits[0, :-1, : vocabulary.size]
        alone.append(F.cross_entropy(logits, ids[0, 1:], reduction="none"))
    torch.testing.assert_close(nll, torch.cat(alone).detach(), atol=1e-5, rtol=1e-5)
