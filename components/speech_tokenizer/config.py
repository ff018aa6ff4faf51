"""Settings of the speech_tokenizer stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class SpeechTokenizerConfig:
    """Section speech_tokenizer of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness."""
