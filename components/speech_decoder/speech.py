"""Decoded validation speech: heard in the tracker, and judged by a recogniser that has no part in the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from components.shared.audio import read_wave
from components.shared.tracking import Tracker
from components.speech_decoder.data import Pair
from components.speech_decoder.mel import SAMPLE_RATE_HZ, log_mel
from components.speech_decoder.model import SpeechDecoder

if TYPE_CHECKING:
    from components.shared.recognizer import ErrorRate

_NUM_HEARD = 4
"""Utterances whose sound is kept in the tracker."""


@dataclass(kw_only=True)
class Spoken:
    """One validation utterance in all ways."""

    pair: Pair
    original: np.ndarray
    """(samples,), float32, 22.05 kHz: the recording."""
    vocoded: np.ndarray
    """Its own mel through the vocoder: what no decoder can be better than."""
    decoded: np.ndarray
    """Its tokens through the decoder, block by block."""
    whole: np.ndarray
    """The same in a single pass over all tokens."""
    mel_distance: float
    """Mean absolute difference of decoded and original log mel, natural log."""
    mode_distance: float
    """The same of block by block, as decoded, and a single pass over all tokens."""


def speak(decoder: SpeechDecoder, pairs: list[Pair], tracker: Tracker) -> list[Spoken]:
    """Decode every pair's tokens in its own speaker's voice and keep the first ones' sound."""
    spoken = []
    for number, pair in enumerate(tracker.progress(pairs, len(pairs), "speech_decoder: decoding")):
        original, _ = read_wave(pair.audio, SAMPLE_RATE_HZ)
        mel = log_mel(torch.from_numpy(original))
        tokens = torch.from_numpy(pair.tokens.astype(np.int64))
        wave, blocks = decoder.decode_with_mel(tokens, pair.speaker)
        made = blocks.cpu()
        single = decoder.mel(tokens, pair.speaker)
        shared = min(mel.shape[1], made.shape[1])
        item = Spoken(
            pair=pair,
            original=original,
            vocoded=decoder.to_wave(mel).numpy(),
            decoded=wave.numpy(),
            whole=decoder.to_wave(single).numpy(),
            mel_distance=float((mel[:, :shared] - made[:, :shared]).abs().mean()),
            mode_distance=float((single.cpu() - made).abs().mean()),
        )
        spoken.append(item)
        if number < _NUM_HEARD:
            for name in ("original", "vocoded", "decoded"):
                tracker.log_audio(getattr(item, name), SAMPLE_RATE_HZ, f"{pair.id}-{name}")
    return spoken


class Judge:
    """A recogniser that has no part in the training: how much of decoded speech is understood."""

    def __init__(self, source: str) -> None:
        """source: a Whisper, see assets.load_whisper."""
        from components.shared.recognizer import Recognizer

        self._recognizer = Recognizer(source, device="cuda" if torch.cuda.is_available() else "cpu")

    def known(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Those with a text, in a language that it writes."""
        every = self._recognizer.is_multilingual
        return [pair for pair in pairs if pair.text and (every or pair.language == "en")]

    def errors(self, waves: Sequence[np.ndarray], pairs: Sequence[Pair]) -> dict[str, ErrorRate]:
        """waves: (samples,) at 22.05 kHz, of known pairs -> errors by language, in characters for Mandarin."""
        from components.shared.recognizer import word_error_rate

        found = {}
        for language in sorted({pair.language for pair in pairs}):
            places = [place for place, pair in enumerate(pairs) if pair.language == language]
            heard = self._recognizer.transcribe([waves[place] for place in places], SAMPLE_RATE_HZ, language)
            found[language] = word_error_rate([pairs[place].text or "" for place in places], heard, language)
        return found

    def rate(self, waves: Sequence[np.ndarray], pairs: Sequence[Pair]) -> float:
        """As errors, all languages together: errors over words or characters."""
        found = self.errors(waves, pairs).values()
        return sum(rate.errors for rate in found) / max(1, sum(rate.length for rate in found))


def judge(spoken: list[Spoken], source: str) -> dict[str, float]:
    """Word error rates of all ways, characters for Mandarin; empty without a recogniser.

    source: a Whisper, see assets.load_whisper, or an empty string. Utterances without text, and languages that it does
    not write, are passed over.
    """
    if not source or not any(item.pair.text for item in spoken):
        return {}
    ear = Judge(source)
    known = {pair.id for pair in ear.known([item.pair for item in spoken])}
    items = [item for item in spoken if item.pair.id in known]
    rates = {}
    for way in ("original", "vocoded", "decoded", "whole"):
        found = ear.errors([getattr(item, way) for item in items], [item.pair for item in items])
        for language, errors in found.items():
            rates[f"wer_{way}" if language == "en" else f"wer_{way}_{language}"] = errors.rate
    return rates
