"""Many robotic English voices: espeak-ng's shared library, called through ctypes, one instance a process.

Source  the calls and constants of espeak-ng 1.52's speak_lib.h
"""

from __future__ import annotations

import ctypes
import functools
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
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class _Espeak:
    """The library, initialised, and the samples of the utterance that it is speaking."""

    def __init__(self, folder: Path) -> None:
        self.library = ctypes.CDLL(str(folder / "libespeak-ng.so"))
        self.rate_hz = self.library.espeak_Initialize(SYNCHRONOUS, 0, str(folder).encode(), DONT_EXIT)
        if self.rate_hz <= 0:
            raise ValueError(f"espeak-ng: cannot read its data in {folder}")
        self.library.espeak_Synth.argtypes = [
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_uint,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        self.chunks: list[np.ndarray] = []
        self.callback = CALLBACK(self._take)
        """Kept, since the library holds its address."""
        self.library.espeak_SetSynthCallback(self.callback)

    def _take(self, samples: Any, count: int, _events: int | None) -> int:
        if samples and count > 0:
            self.chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(self, voice: str, text: str, words_per_minute: int, pitch: int) -> np.ndarray:
        """(samples,), int16. The voice is set each time, which also resets its parameters."""
        if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng: got voice {voice!r}, wanted one such as en-us+f3")
        self.library.espeak_SetParameter(RATE, words_per_minute, 0)
        self.library.espeak_SetParameter(PITCH, pitch, 0)
        self.chunks = []
        data = text.encode()
        status = self.library.espeak_Synth(data, len(data) + 1, 0, 0, 0, UTF8, None, None)
        if status != 0:
            raise RuntimeError(f"espeak-ng: synthesis failed with status {status}")
        return np.concatenate(self.chunks) if self.chunks else np.zeros(0, np.int16)


@functools.cache
def _espeak() -> _Espeak:
    return _Espeak(fetch("espeak-ng") / "espeakng_loader")


class EspeakVoice:
    """One language and variant of espeak-ng."""

    languages = ("en",)
    license = PIECES["espeak-ng"].license

    def __init__(self, name: VoiceName) -> None:
        self.name = name.full
        self.voice = f"{name.speaker}+{name.variant}" if name.variant else name.speaker
        if "formant" in name.options:
            raise ValueError(f"voice {name.full!r}: espeak has no formant option, wanted pace or pitch")
        variants = fetch("espeak-ng") / "espeakng_loader" / "espeak-ng-data" / "voices" / "!v"
        if not name.speaker.startswith("en") or (name.variant and not (variants / name.variant).is_file()):
            raise ValueError(f"voice {name.full!r}: wanted espeak:en-us, en-gb, ... with a variant such as f3 or m1")
        self.pace, self.pitch = name.options.get("pace", 1.0), name.options.get("pitch", 1.0)
        self.sample_rate_hz = _espeak().rate_hz

    def speak(self, text: str, language: str, seed: int) -> np.ndarray:
        """See Voice.speak."""
        check_language(self, language)
        words_per_minute = round(DEFAULT_WORDS_PER_MINUTE * pace_of(seed, self.pace))
        pitch = min(99, round(DEFAULT_PITCH * self.pitch))
        samples = _espeak().speak(self.voice, text, words_per_minute, pitch)
        if not samples.any():
            raise ValueError(f"voice {self.name}: nothing to say in {text[:60]!r}")
        return within_range(samples / np.float32(32768))
