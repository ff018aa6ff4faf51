"""Settings of the speech_decoder stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class SpeechDecoderConfig:
    """Section speech_decoder of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness."""
