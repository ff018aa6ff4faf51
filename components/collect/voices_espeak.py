"""Many robotic English voices: espeak-ng's shared library, called through ctypes.

The library keeps hidden state between utterances (flutter, wave phase), so the same text would sound different each
time. It is therefore loaded anew for every utterance, which takes 2 ms and makes the wave a function of its inputs.

Source  the calls and constants of espeak-ng 1.52's speak_lib.h
"""

from __future__ import annotations

import ctypes
import threading
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

from components.collect.voices import VoiceName, check_language, pace_of, within_range
from components.shared.assets import PIECES, fetch

SYNCHRONOUS = 2
"""The call returns when all samples have been handed over."""
DONT_EXIT = 0x8000
UTF8 = 1
RATE, PITCH = 1, 3
DEFAULT_WORDS_PER_MINUTE = 160
DEFAULT_PITCH = 50
"""Of espeak's scale 0..100."""
SAMPLE_RATE_HZ = 22_050
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
SYNTH_ARGUMENTS: list[Any] = [ctypes.c_char_p, ctypes.c_size_t, *[ctypes.c_uint] * 4, ctypes.c_void_p, ctypes.c_void_p]
_one_at_a_time = threading.Lock()


class EspeakVoice:
    """One language and variant of espeak-ng."""

    languages: tuple[str, ...] = ("en",)
    license = PIECES["espeak-ng"].license
    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, name: VoiceName) -> None:
        self.folder = fetch("espeak-ng") / "espeakng_loader"
        data = self.folder / "espeak-ng-data"
        accents = sorted(path.name.lower() for path in (data / "lang" / "gmw").glob("en*"))
        if name.speaker not in accents:
            raise ValueError(f"voice {name.full!r}: got accent {name.speaker!r}, wanted one of {', '.join(accents)}")
        if name.variant and not (data / "voices" / "!v" / name.variant).is_file():
            raise ValueError(
                f"voice {name.full!r}: got variant {name.variant!r}, wanted one such as f1..f5, m1..m8, Andy"
            )
        if "formant" in name.options:
            raise ValueError(f"voice {name.full!r}: got formant, wanted pace or pitch; variants move the formants here")
        self.name = name.full
        self.espeak_name = f"{name.speaker}+{name.variant}" if name.variant else name.speaker
        self.pace, self.pitch = name.options.get("pace", 1.0), name.options.get("pitch", 1.0)

    def speak(self, text: str, language: str, seed: int) -> np.ndarray:
        """See Voice.speak."""
        check_language(self, language)
        text = "".join(char for char in text if unicodedata.category(char) != "So")  # it would say an emoji's name
        words_per_minute = round(DEFAULT_WORDS_PER_MINUTE * pace_of(seed, self.pace))
        pitch = min(99, round(DEFAULT_PITCH * self.pitch))
        if not any(char.isalnum() for char in text):
            raise ValueError(f"voice {self.name}: nothing to say in {text[:60]!r}")
        with _one_at_a_time:
            samples = _synthesize(self.folder, self.espeak_name, text, words_per_minute, pitch, seed)
        return within_range(samples / np.float32(32768))


def _synthesize(folder: Path, voice: str, text: str, words_per_minute: int, pitch: int, seed: int) -> np.ndarray:
    """(samples,), int16, at SAMPLE_RATE_HZ, from a library that has said nothing before."""
    library = ctypes.CDLL(str(folder / "libespeak-ng.so"))
    chunks: list[np.ndarray] = []

    def take(samples: Any, count: int, _events: int | None) -> int:
        if samples and count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = CALLBACK(take)
    library.espeak_Synth.argtypes = SYNTH_ARGUMENTS
    try:
        rate_hz = library.espeak_Initialize(SYNCHRONOUS, 0, str(folder).encode(), DONT_EXIT)
        if rate_hz != SAMPLE_RATE_HZ:
            raise RuntimeError(f"espeak-ng in {folder}: got a rate of {rate_hz} Hz, wanted {SAMPLE_RATE_HZ}")
        library.espeak_SetSynthCallback(callback)
        library.espeak_ng_SetRandSeed(ctypes.c_long(seed & 0x7FFFFFFF))
        library.espeak_SetVoiceByName(voice.encode())
        library.espeak_SetParameter(RATE, words_per_minute, 0)
        library.espeak_SetParameter(PITCH, pitch, 0)
        data = text.encode()
        status = library.espeak_Synth(data, len(data) + 1, 0, 0, 0, UTF8, None, None)
        if status != 0:
            raise RuntimeError(f"espeak-ng: voice {voice}: synthesis failed with status {status}")
    finally:
        library.espeak_Terminate()
        unload = ctypes.CDLL(None).dlclose
        unload.argtypes = [ctypes.c_void_p]
        unload(library._handle)
    return np.concatenate(chunks) if chunks else np.zeros(0, np.int16)
