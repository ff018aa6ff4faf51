"""The vocabularies: round trips, contiguous speech tokens, clear errors."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.shared.tokens import SPECIALS, Vocabulary, add_speech, audio_token, load_tokenizer, train_bpe

TEXTS = ["Hello there, it's 12 o'clock.", "你好，世界。", "Anna lives in Paris."] * 20
TOKENIZER = add_speech(train_bpe(TEXTS, 400), 16)
VOCABULARY = Vocabulary.of(TOKENIZER, 16)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=60))
def test_any_text_survives_the_byte_level_tokenizer(text: str) -> None:
    plain = "".join(text.split("<|"))
    assert TOKENIZER.decode(TOKENIZER(plain)["input_ids"]) == plain


def test_special_tokens_are_one_id_each_and_speech_tokens_are_one_block() -> None:
    for token in [*SPECIALS, audio_token(0), audio_token(15)]:
        assert len(TOKENIZER(token)["input_ids"]) == 1
    assert VOCABULARY.to_ids([0, 15]) == [VOCABULARY.first_audio_id, VOCABULARY.first_audio_id + 15]
    assert VOCABULARY.size == VOCABULARY.first_audio_id + 16 == len(TOKENIZER)


def test_codes_and_ids_are_inverse_and_text_ids_are_left_out() -> None:
    ids = [VOCABULARY.user, *VOCABULARY.to_ids([3, 0, 7]), VOCABULARY.end_of_audio]
    assert VOCABULARY.to_codes(ids) == [3, 0, 7]


def test_a_code_outside_the_codebook_is_refused() -> None:
    with pytest.raises(ValueError, match=r"speech code: got 16, wanted 0\.\.15"):
        VOCABULARY.to_ids([16])


def test_a_tokenizer_without_the_speech_block_is_refused() -> None:
    with pytest.raises(ValueError, match="no contiguous block of 17 speech tokens"):
        Vocabulary.of(TOKENIZER, 17)


def test_a_vocabulary_smaller_than_the_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="wanted at least 256"):
        train_bpe(TEXTS, 100)


def test_a_saved_tokenizer_gives_the_same_ids(tmp_path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    text = "<|user|>\nWhere does Anna live?<|begin_of_audio|><|audio_3|><|end_of_audio|>"
    assert again(text)["input_ids"] == TOKENIZER(text)["input_ids"]
    assert Vocabulary.of(again, 16) == VOCABULARY
    assert again.pad_token_id == VOCABULARY.pad and again.eos_token_id == VOCABULARY.end_of_text
