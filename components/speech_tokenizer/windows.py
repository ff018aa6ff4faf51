"""How a clip is cut into pieces that fit the encoder's position table, the same offline and in a stream.

With block-causal attention the window advances by whole blocks: the first gives all of its tokens, each later one those
of its last block only. Otherwise clips are cut every max_source_positions frames (30 s), as in the public code.
Unit: hidden frames, 50 a second; one hidden frame is two mel frames.
"""

from __future__ import annotations

from dataclasses import dataclass

from components.speech_tokenizer.whisper_config import WhisperVQConfig

MEL_PER_HIDDEN = 2


@dataclass(frozen=True)
class Window:
    """One piece of a clip."""

    start: int
    """First hidden frame."""
    stop: int
    """One past the last."""
    keep: int
    """First hidden frame whose tokens are kept."""


def windows(num_hidden: int, config: WhisperVQConfig) -> list[Window]:
    """The pieces of a clip of so many hidden frames; what they keep covers the clip once and in order."""
    table, block = _table(config), config.quantize_causal_block_size
    if num_hidden <= table:
        return [Window(0, num_hidden, 0)]
    if block is None or block > table:
        return [Window(start, min(start + table, num_hidden), start) for start in range(0, num_hidden, table)]
    span = table // block * block
    later = range(span, num_hidden, block)
    return [Window(0, span, 0), *(block_window(start, min(start + block, num_hidden), config) for start in later)]


def block_window(start: int, stop: int, config: WhisperVQConfig) -> Window:
    """The window in which frames start..stop-1 of one block are encoded: from the clip's start while that fits."""
    table, block = _table(config), config.quantize_causal_block_size
    assert block is not None and start % block == 0
    if stop <= table:
        return Window(0, stop, start)
    return Window(start + block - table // block * block, stop, start)


def _table(config: WhisperVQConfig) -> int:
    """Hidden frames of the position table in whole tokens."""
    return config.max_source_positions // config.kernel * config.kernel
