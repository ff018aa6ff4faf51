"""The speech-text language model: the door that later rooms and users open."""

from __future__ import annotations

from pathlib import Path

from components.shared.speech_lm import SpeechTextLM, load_model

__all__ = ["SpeechTextLM", "load"]


def load(path: Path | str) -> SpeechTextLM:
    """The model of data/pretrain/model with its tokenizer, vocabulary, and `formats`: every prompt it was trained on.

    Raises ValueError when the folder is no model of this pipeline.
    """
    return load_model(path)
