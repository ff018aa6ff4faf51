"""From a text LM to a speech-text LM: a base grows unharmed, what is wrong is one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from components.shared.speech_lm import grown_model
from components.shared.tokens import Vocabulary, add_speech, train_bpe
from tests.speech_rows import NUM_CODES


def vocabulary_of(num_codes: int = NUM_CODES) -> Vocabulary:
    return Vocabulary.of(add_speech(train_bpe(["a cat"], 256), num_codes), num_codes)


@pytest.mark.parametrize("tied", [True, False])
def test_a_grown_base_keeps_its_text_logits(tmp_path: Path, tied: bool) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=270,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    base = LlamaForCausalLM(config).eval()
    base.save_pretrained(tmp_path / "base")
    vocabulary = vocabulary_of()
    model = grown_model(str(tmp_path / "base"), vocabulary, 256, 64, seed=3).eval()
    assert model.get_input_embeddings().weight.shape[0] % 64 == 0
    assert model.get_input_embeddings().weight.shape[0] >= vocabulary.size
    ids = torch.randint(0, 256, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits[..., :256], base(ids).logits[..., :256])
    speech = model.get_input_embeddings().weight[vocabulary.first_audio_id : vocabulary.size]
    assert len(torch.unique(speech, dim=0)) == NUM_CODES
    old = base.get_input_embeddings().weight[:256]
    assert (speech - old.mean(0)).norm(dim=1).max() < old.norm(dim=1).min()


def test_a_base_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pretrain\.base: '/nowhere'"):
        grown_model("/nowhere", vocabulary_of(), 256, 64, seed=3)
