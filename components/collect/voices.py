"""Synthesiser voices behind one door: text in, wave out.

Names are `engine:speaker`, with options behind plus signs:
  hibari:heart                        neural, one American woman
  hibari:heart+pitch=0.6+formant=0.85 the same network with a lower voice and a longer vocal tract: another speaker
  kokoro:jf_alpha                     neural, English and Mandarin; kokoro:jf_alpha+jm_kumo is between the two
  espeak:en-us+f3                     formant synthesis, a variant of espeak-ng; +pace=0.9, +pitch=1.2 as well
All voices are deterministic functions of (text, language, seed); the seed moves the pace by a few percent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

PACE_SPREAD = 0.08
"""Largest change of pace that a seed makes, as a share."""
SENTENCE_END = re.compile(r"(?<=[.!?…])[\s\"”)]+")
PAUSE = re.compile(r"(?<=[,;:—])\s+")


class Voice(Protocol):
    """Someone who can speak."""

    name: str
    languages: tuple[str, ...]
    """ISO 639-1."""
    license: str
    """SPDX name of the network or program that speaks."""
    sample_rate_hz: int

    def speak(self, text: str, language: str, seed: int) -> np.ndarray:
        """The spoken text: (samples,), float32, -1..1, at sample_rate_hz.

        Raises ValueError when the voice does not speak the language or the text holds nothing that can be said.
        """


@dataclass(frozen=True, kw_only=True)
class VoiceName:
    """The parts of `engine:speaker+variant+key=value`."""

    full: str
    engine: str
    speaker: str
    variant: str = ""
    options: dict[str, float] = field(default_factory=dict)
    """pace, pitch and formant: factors, 1 leaves the voice as it is."""


def parse_name(name: str, known_options: tuple[str, ...] = ("pace", "pitch", "formant")) -> VoiceName:
    """Split a voice's name. Raises ValueError that says what was wrong with it."""
    engine, colon, rest = name.partition(":")
    speaker, *extras = rest.split("+")
    if not colon or not speaker:
        raise ValueError(f"voice: got {name!r}, wanted engine:speaker, such as hibari:heart or espeak:en-us+f3")
    variant, options = "", {}
    for extra in extras:
        key, equals, value = extra.partition("=")
        if not equals:
            variant = extra
            continue
        try:
            options[key] = float(value)
        except ValueError:
            options[key] = 0.0
        if key not in known_options or not 0.25 <= options[key] <= 4:
            raise ValueError(f"voice {name!r}: got {extra!r}, wanted {' or '.join(known_options)} = 0.25 to 4")
    return VoiceName(full=name, engine=engine, speaker=speaker, variant=variant, options=options)


def make_voice(name: str) -> Voice:
    """The voice of that name; its files are fetched on first use.

    Raises ValueError when there is no such voice, ConnectionError when its files cannot be had now.
    """
    parsed = parse_name(name)
    if parsed.engine == "hibari":
        from components.collect.voices_hibari import HibariVoice

        return HibariVoice(parsed)
    if parsed.engine == "espeak":
        from components.collect.voices_espeak import EspeakVoice

        return EspeakVoice(parsed)
    if parsed.engine == "kokoro":
        from components.collect.voices_kokoro import KokoroVoice

        return KokoroVoice(parsed)
    raise ValueError(f"voice {name!r}: got engine {parsed.engine!r}, wanted hibari, kokoro or espeak")


def pace_of(seed: int, pace: float) -> float:
    """The pace of one utterance: the voice's own, moved a little by the seed."""
    return pace * (1 + PACE_SPREAD * float(np.random.default_rng([seed, 1]).uniform(-1, 1)))


def check_language(voice: Voice, language: str) -> None:
    """Raises ValueError when the voice does not speak the language."""
    if language not in voice.languages:
        raise ValueError(f"voice {voice.name}: got language {language!r}, wanted {' or '.join(voice.languages)}")


def within_range(wave: np.ndarray) -> np.ndarray:
    """wave: (samples,) -> the same in float32, made softer when it leaves -1..1."""
    peak = float(np.max(np.abs(wave), initial=0.0))
    return (wave / max(1.0, peak / 0.99)).astype(np.float32)


def split(phonemes: str, longest: int) -> list[str]:
    """Phonemes of a text cut into sentences of at most `longest` symbols, at pauses where it can be."""
    pieces: list[str] = []
    for sentence in SENTENCE_END.split(phonemes):
        current = ""
        for clause in PAUSE.split(sentence):
            if current and len(current) + 1 + len(clause) > longest:
                pieces.append(current)
                current = clause
            else:
                current = f"{current} {clause}".strip()
        pieces += [current[at : at + longest] for at in range(0, len(current), longest)]
    return [piece for piece in pieces if piece.strip()]
