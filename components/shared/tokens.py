"""Vocabularies: a text tokenizer, the special tokens of the chat format, then the speech tokens as one block of ids.

Formats are shown in docs/prompts.md (paper section 2; chat format of the published model).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
BEGIN_OF_AUDIO, END_OF_AUDIO = "<|begin_of_audio|>", "<|end_of_audio|>"
SPECIALS = (END_OF_TEXT, PAD, SYSTEM, USER, ASSISTANT, BEGIN_OF_AUDIO, END_OF_AUDIO)
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def audio_token(code: int) -> str:
    """The token of one speech code: <|audio_17|>."""
    return f"<|audio_{code}|>"


def train_bpe(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer without special tokens; any string round-trips.

    vocab_size: at least 256 (the bytes). Deterministic for the same texts in the same order.
    """
    if vocab_size < 256:
        raise ValueError(f"vocab_size: got {vocab_size}, wanted at least 256 (the bytes)")
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def add_speech(tokenizer: PreTrainedTokenizerFast, num_codes: int) -> PreTrainedTokenizerFast:
    """Add the missing special tokens and then <|audio_0|> ... <|audio_{num_codes-1}|> as one contiguous block."""
    known = tokenizer.get_vocab()
    missing = [token for token in SPECIALS if token not in known]
    tokenizer.add_tokens(missing, special_tokens=True)
    tokenizer.pad_token, tokenizer.eos_token = PAD, END_OF_TEXT
    tokenizer.add_tokens([audio_token(code) for code in range(num_codes)], special_tokens=True)
    Vocabulary.of(tokenizer, num_codes)
    return tokenizer


@dataclass(frozen=True)
class Vocabulary:
    """Ids of the special tokens and the block of speech tokens in one tokenizer."""

    size: int
    """Number of ids, without the rows that only pad the embedding matrix."""
    first_audio_id: int
    num_codes: int
    end_of_text: int
    pad: int
    system: int
    user: int
    assistant: int
    begin_of_audio: int
    end_of_audio: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, num_codes: int) -> Vocabulary:
        """Read the ids from a tokenizer. Raises ValueError when the speech tokens are not one contiguous block."""
        known = tokenizer.get_vocab()
        ids = [known.get(audio_token(code), -1) for code in range(num_codes)]
        if not ids or ids[0] < 0 or ids != list(range(ids[0], ids[0] + num_codes)):
            raise ValueError(f"tokenizer: no contiguous block of {num_codes} speech tokens <|audio_i|>")
        specials = [known[token] for token in SPECIALS]
        return cls(len(tokenizer), ids[0], num_codes, *specials)

    def to_ids(self, codes: Iterable[int]) -> list[int]:
        """Token ids of speech codes. Raises ValueError for a code outside 0..num_codes-1."""
        ids = []
        for code in codes:
            if not 0 <= code < self.num_codes:
                raise ValueError(f"speech code: got {code}, wanted 0..{self.num_codes - 1}")
            ids.append(self.first_audio_id + int(code))
        return ids

    def to_codes(self, ids: Iterable[int]) -> list[int]:
        """The speech codes among token ids, everything else left out."""
        first, last = self.first_audio_id, self.first_audio_id + self.num_codes
        return [int(i) - first for i in ids if first <= i < last]

    def is_audio(self, token_id: int) -> bool:
        """Whether the id is a speech token."""
        return self.first_audio_id <= token_id < self.first_audio_id + self.num_codes


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a model folder."""
    return PreTrainedTokenizerFast.from_pretrained(folder)
