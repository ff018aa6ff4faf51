"""The language model's tokenizer: a base LM's or a byte-level BPE of the collected texts, with speech tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from components.mix.config import MixConfig
from components.shared.tokens import add_speech, train_bpe


def make_tokenizer(config: MixConfig, texts: Iterable[str], num_codes: int) -> tuple[PreTrainedTokenizerFast, int]:
    """The tokenizer of the config with control tokens and num_codes speech tokens, and how many ids are the base's.

    texts: what a new BPE is trained on; not read with a base.
    Raises ValueError when the base has no fast tokenizer, cannot be read, or has speech tokens of its own.
    """
    if not config.base:
        return add_speech(train_bpe(texts, config.vocab_size), num_codes), 0
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(config.base)
    except (OSError, ValueError) as error:
        line = str(error).splitlines()[0]
        raise ValueError(f"mix.base: {config.base!r}: {line}; wanted a hub id or a folder with a tokenizer") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        kind = type(tokenizer).__name__
        raise ValueError(f"mix.base: {config.base!r}: got {kind}, wanted a fast tokenizer (tokenizer.json)")
    num_base_tokens = len(tokenizer)
    return add_speech(tokenizer, num_codes), num_base_tokens
