"""From a text LM to a speech-text LM: a base grows unharmed, what is wrong is one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import Glm4ForCausalLM, LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM

from components.shared.packed_attention import packed
from components.shared.packed_lm import PackedLM
from components.shared.packing import Piece, collate, pack
from components.shared.speech_lm import grown_model, load_model, save_model
from components.shared.tokens import Vocabulary, add_speech, train_bpe
from tests.speech_rows import NUM_CODES


def vocabulary_of(num_codes: int = NUM_CODES) -> Vocabulary:
    return Vocabulary.of(add_speech(train_bpe(["a cat"], 256), num_codes), num_codes)


def base_of(architecture: type[PreTrainedModel], tied: bool, **settings: Any) -> Any:
    """A small random text LM with 270 rows, of which a tokenizer knows 256; biases are not zero."""
    torch.manual_seed(0)
    config = architecture.config_class(
        vocab_size=270,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        pad_token_id=None,
        **settings,
    )
    base = architecture(config).eval()
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return base


BASES = [
    (LlamaForCausalLM, True, {}),
    (LlamaForCausalLM, False, {"attention_bias": True}),
    (Qwen2ForCausalLM, True, {}),
    (Qwen2ForCausalLM, False, {}),
    (Qwen3ForCausalLM, True, {}),
    (Glm4ForCausalLM, False, {"attention_bias": True}),
]


@pytest.mark.parametrize(("architecture", "tied", "settings"), BASES)
def test_a_grown_base_keeps_its_text_logits_and_is_read_back(
    tmp_path: Path, architecture: type[PreTrainedModel], tied: bool, settings: dict[str, Any]
) -> None:
    base = base_of(architecture, tied, **settings)
    base.save_pretrained(tmp_path / "base")
    tokenizer = add_speech(train_bpe(["a cat"], 256), NUM_CODES)
    vocabulary = Vocabulary.of(tokenizer, NUM_CODES)
    model = grown_model(str(tmp_path / "base"), vocabulary, 256, 64, seed=3).eval()
    rows = model.get_input_embeddings().weight
    assert rows.shape[0] % 64 == 0 and rows.shape[0] >= vocabulary.size
    assert (model.get_output_embeddings().weight is rows) == tied
    ids = torch.randint(0, 256, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits[..., :256], base(ids).logits[..., :256])
    save_model(tmp_path / "grown", model, tokenizer, vocabulary)
    again = load_model(tmp_path / "grown")
    mixed = torch.randint(0, vocabulary.size, (2, 9))
    with torch.no_grad():
        assert torch.equal(again.model(mixed).logits, model(mixed).logits)


@pytest.mark.parametrize(("architecture", "tied", "settings"), BASES[1::2])
def test_every_architecture_learns_from_packed_batches_as_from_documents_alone(
    architecture: type[PreTrainedModel], tied: bool, settings: dict[str, Any]
) -> None:
    model = base_of(architecture, tied, **settings)
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 256, n) for n in (7, 12, 5)]
    batch = collate([pack([Piece(d, 0) for d in documents], 30, 0, False)])
    with packed(model), torch.no_grad():
        _, nll, _ = PackedLM(model, num_real=256, chunk=8)(batch)
        model.set_attn_implementation("eager")
        ids = [torch.tensor(document)[None] for document in documents]
        alone = [F.cross_entropy(model(i).logits[0, :-1, :256], i[0, 1:], reduction="none") for i in ids]
    torch.testing.assert_close(nll, torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_average_words_of_which_no_two_are_alike(tmp_path: Path, tied: bool) -> None:
    base = base_of(LlamaForCausalLM, tied=tied)
    base.save_pretrained(tmp_path / "base")
    vocabulary = vocabulary_of()
    model = grown_model(str(tmp_path / "base"), vocabulary, 256, 64, seed=3)
    new = slice(vocabulary.first_audio_id, vocabulary.size)
    speech = model.get_input_embeddings().weight[new]
    assert len(torch.unique(speech, dim=0)) == NUM_CODES
    old = base.get_input_embeddings().weight[:256]
    spread = (speech - old.mean(0)).std() / old.std(0).mean()
    assert spread.item() == pytest.approx(1.0 if tied else 0.1, rel=0.1)
    if not tied:
        assert model.get_output_embeddings().weight[new].std().item() == pytest.approx(0.02, rel=0.1)


def test_a_base_with_a_window_of_attention_is_refused(tmp_path: Path) -> None:
    base_of(Qwen2ForCausalLM, True, use_sliding_window=True, sliding_window=8, max_window_layers=0).save_pretrained(
        tmp_path / "base"
    )
    with pytest.raises(ValueError, match=r"pretrain\.base: .* attention window of 8 tokens"):
        grown_model(str(tmp_path / "base"), vocabulary_of(), 256, 64, seed=3)


def test_a_base_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pretrain\.base: '/nowhere'"):
        grown_model("/nowhere", vocabulary_of(), 256, 64, seed=3)
