"""What pretrain writes is read by transformers and by the real SGLang, and all three agree: `make test-sglang`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Glm4ForCausalLM

from components.shared.engine import EngineConfig, EngineKind, make_engine
from components.shared.manifest import seal
from components.shared.packed_attention import packed
from components.shared.packed_lm import PackedLM
from components.shared.packing import Piece, collate, pack
from components.shared.speech_lm import grown_model, random_model, save_model
from components.shared.tokens import Vocabulary, add_speech, train_bpe
from tests.speech_rows import NUM_CODES
from tests.test_pretrain import SHAPE
from tests.test_speech_lm import base_of

pytestmark = pytest.mark.sglang


def written(folder: Path, kind: str) -> tuple[Any, Vocabulary]:
    """A model trained for a few steps, in a folder as pretrain writes it; rows past the vocabulary pad it."""
    tokenizer = add_speech(train_bpe(["a cat"], 256), NUM_CODES)
    vocabulary = Vocabulary.of(tokenizer, NUM_CODES)
    model: Any
    if kind == "random start":
        model = random_model(SHAPE, vocabulary, 128, seed=1)
    else:
        base_of(Glm4ForCausalLM, tied=False, attention_bias=True).save_pretrained(folder / "base")
        model = grown_model(str(folder / "base"), vocabulary, 256, 64, seed=3)
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, vocabulary.size, 12) for _ in range(4)]
    batch = collate([pack([Piece(d, 0) for d in documents], 48, vocabulary.pad, False)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with packed(model):
        for _ in range(5):
            PackedLM(model, num_real=vocabulary.size, chunk=8)(batch)[0].backward()
            optimizer.step()
            optimizer.zero_grad()
    assert model.get_input_embeddings().weight.shape[0] > vocabulary.size
    save_model(folder / "model", model.eval(), tokenizer, vocabulary)
    seal(folder / "model")
    return model, vocabulary


@pytest.mark.parametrize("kind", ["random start", "grown Glm4"])
def test_transformers_and_sglang_read_the_model_that_was_trained(tmp_path: Path, kind: str) -> None:
    model, vocabulary = written(tmp_path, kind)
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, vocabulary.size, n).tolist() for n in (1, 5, 20)]
    continuations = [rng.integers(0, vocabulary.size, n).tolist() for n in (4, 9, 30)]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    wanted = []
    with torch.no_grad():
        for prompt, continuation in zip(prompts, continuations, strict=True):
            ids = torch.tensor([prompt + continuation])
            logits = model(ids).logits
            assert torch.equal(again(ids).logits, logits)
            log_p = logits[0, len(prompt) - 1 : -1, : vocabulary.size].log_softmax(-1)
            wanted.append(log_p[torch.arange(len(continuation)), torch.tensor(continuation)].tolist())
    engine = make_engine(
        EngineConfig(
            kind=EngineKind.sglang,
            model=str(tmp_path / "model"),
            dtype="float32",
            max_batch=16,
            max_length=128,
            max_tokens=4096,
            num_threads=1,
            logprobs=True,
            servers=[],
            in_flight=32,
            timeout_s=60.0,
            patience_s=120.0,
        )
    )
    for scored, plain in zip(engine.score(prompts, continuations), wanted, strict=True):
        np.testing.assert_allclose(scored, plain, atol=1e-4)
