"""Decoded validation speech: heard in the tracker, and judged by a recogniser that has no part in the training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from components.shared.audio import read_wave
from components.shared.tracking import Tracker
from components.speech_decoder.data import Pair
from components.speech_decoder.mel import SAMPLE_RATE_HZ, log_mel
from components.speech_decoder.model import SpeechDecoder

_NUM_HEARD = 4
"""Utterances whose sound is kept in the tracker."""


@dataclass(kw_only=True)
class Spoken:
    """One validation utterance three ways, and what was understood of each."""

    pair: Pair
    original: np.ndarray
    """(samples,), float32, 22.05 kHz: the recording."""
    vocoded: np.ndarray
    """Its own mel through the vocoder: what no decoder can be better than."""
    decoded: np.ndarray
    """Its tokens through the decoder."""
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
        shared = min(mel.shape[1], made.shape[1])
        item = Spoken(
            pair=pair,
            original=original,
            vocoded=decoder.to_wave(mel).numpy(),
            decoded=wave.numpy(),
            mel_distance=float((mel[:, :shared] - made[:, :shared]).abs().mean()),
            mode_distance=float((decoder.mel(tokens, pair.speaker).cpu() - made).abs().mean()),
        )
        spoken.append(item)
        if number < _NUM_HEARD:
            for name in ("original", "vocoded", "decoded"):
                tracker.log_audio(getattr(item, name), SAMPLE_RATE_HZ, f"{pair.id}-{name}")
    return spoken


def judge(spoken: list[Spoken], source: str) -> dict[str, float]:
    """Word error rates of the three ways, characters for Mandarin; empty without a recogniser.

    source: a Whisper, see assets.load_whisper, or an empty string. Utterances without text, and languages that it does
    not write, are passed over.
    """
    from components.shared.recognizer import Recognizer, word_error_rate

    rates: dict[str, float] = {}
    known = [item for item in spoken if item.pair.text]
    if not source or not known:
        return rates
    recognizer = Recognizer(source, device="cuda" if torch.cuda.is_available() else "cpu")
    languages = {item.pair.language for item in known}
    for language in sorted(languages if recognizer.is_multilingual else languages & {"en"}):
        items = [item for item in known if item.pair.language == language]
        texts = [item.pair.text or "" for item in items]
        for way in ("original", "vocoded", "decoded"):
            heard = recognizer.transcribe([getattr(item, way) for item in items], SAMPLE_RATE_HZ, language)
            name = f"wer_{way}" if language == "en" else f"wer_{way}_{language}"
            rates[name] = word_error_rate(texts, heard, language).rate
    return rates
