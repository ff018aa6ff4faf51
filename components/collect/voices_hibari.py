"""An English voice whose small network draws a spectrum that is turned into a wave here.

For every 12.5 ms the network gives the harmonics' gain and phase, the gain of noise, a third part with a phase of its
own, and the pitch. With P the short-time spectrum of a pulse train at that pitch and Z complex white noise, the
spectrum of the speech is

    S = exp(harmonic) exp(i pi tanh(harmonic_phase)) P + exp(noise) Z + exp(free) exp(i free_phase)

and its inverse is the wave. Pitch and formants can be moved before that, which makes further speakers of one network.

Source  inputs, outputs and the formula of the network in hibari-tts 0.2.1 (Apache-2.0); pulse train: the closed form of
        a sum of cosines (Dirichlet kernel)
"""

from __future__ import annotations

import json

import numpy as np

from components.collect.phonemes_english import to_phonemes
from components.collect.voices import VoiceName, check_language, pace_of, split, within_range
from components.collect.voices_onnx import open_session
from components.shared.assets import PIECES, fetch

SAMPLE_RATE_HZ = 24_000
HOP = 300
WINDOW_SIZE = 4 * HOP
WINDOW = np.hanning(WINDOW_SIZE + 1)[:-1].astype(np.float32)
"""(WINDOW_SIZE,), periodic Hann."""
MIN_PITCH_HZ = 40.0
"""Below it a frame is voiceless."""
MAX_HARMONIC_HZ = 11_000.0
MAX_LOG_GAIN = 7.0
MAX_PHONEMES = 400
"""Longer sentences are cut at a pause."""


class HibariVoice:
    """The one speaker of the network, or another one made from it by `pitch` and `formant`."""

    languages: tuple[str, ...] = ("en",)
    license = PIECES["hibari"].license
    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, name: VoiceName) -> None:
        if name.speaker != "heart" or name.variant:
            raise ValueError(f"voice {name.full!r}: got {name.speaker!r} {name.variant!r}, wanted hibari:heart")
        self.name = name.full
        self.pace, self.pitch, self.formant = (name.options.get(key, 1.0) for key in ("pace", "pitch", "formant"))
        folder = fetch("hibari") / "hibari" / "assets"
        self.session = open_session(folder / "hibari.onnx")
        self.symbols: dict[str, int] = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))

    def speak(self, text: str, language: str, seed: int) -> np.ndarray:
        """See Voice.speak."""
        check_language(self, language)
        rng = np.random.default_rng([seed, 0])
        pace = np.asarray([pace_of(seed, self.pace)], np.float32)
        waves = []
        for phonemes in split(to_phonemes(text), MAX_PHONEMES):
            ids = [0, *(self.symbols[char] for char in phonemes if char in self.symbols), 0]
            spectrum = self.session.run(None, {"ids": np.asarray([ids], np.int64), "speed": pace})
            waves.append(reconstruct(*(part[0] for part in spectrum), rng=rng, pitch=self.pitch, formant=self.formant))
        if not waves:
            raise ValueError(f"voice {self.name}: nothing to say in {text[:60]!r}")
        return within_range(np.concatenate(waves))


def reconstruct(
    harmonic: np.ndarray,
    harmonic_phase: np.ndarray,
    noise: np.ndarray,
    free: np.ndarray,
    free_phase: np.ndarray,
    pitch_hz: np.ndarray,
    *,
    rng: np.random.Generator,
    pitch: float = 1.0,
    formant: float = 1.0,
) -> np.ndarray:
    """The network's outputs as a wave.

    harmonic, harmonic_phase, noise, free, free_phase: (bins, frames), float32, logarithms of gains and phases;
    pitch_hz: (frames,), float32, 0 where voiceless. pitch, formant: factors on the pitch and on the frequency axis of
    the gains. Returns (frames * HOP,), float32.
    """
    num_bins, num_frames = harmonic.shape
    if formant != 1.0:
        harmonic, noise, free = (_stretch(part, formant) for part in (harmonic, noise, free))
        source = np.clip(np.round(np.arange(num_bins) / formant).astype(int), 0, num_bins - 1)
        harmonic_phase = harmonic_phase[source]
        # A bin that takes another bin's phase must still turn at its own frequency from frame to frame.
        turn = 2 * np.pi * HOP / WINDOW_SIZE * (np.arange(num_bins) - source)
        free_phase = free_phase[source] + (turn[:, None] * np.arange(num_frames)).astype(np.float32)
    pulses = _spectrum(_pulse_train(pitch_hz * pitch), num_frames)
    white = rng.standard_normal((2, num_bins, num_frames), dtype=np.float32)
    spectrum = _polar(harmonic, np.pi * np.tanh(harmonic_phase)) * pulses
    spectrum += _gain(noise) * (white[0] + 1j * white[1])
    spectrum += _polar(free, free_phase)
    return _inverse(spectrum)


def _gain(log_gain: np.ndarray) -> np.ndarray:
    return np.exp(np.minimum(log_gain, MAX_LOG_GAIN))


def _polar(log_gain: np.ndarray, phase: np.ndarray) -> np.ndarray:
    turned = np.empty(phase.shape, np.complex64)
    turned.real, turned.imag = np.cos(phase), np.sin(phase)
    turned *= _gain(log_gain)
    return turned


def _stretch(gains: np.ndarray, factor: float) -> np.ndarray:
    """(bins, frames) with bin k taking what stood at k / factor; what lies above the last bin repeats it."""
    at = np.clip(np.arange(len(gains)) / factor, 0, len(gains) - 1)
    below = np.floor(at).astype(int)
    above = np.minimum(below + 1, len(gains) - 1)
    share = (at - below)[:, None].astype(np.float32)
    return gains[below] * (1 - share) + gains[above] * share


def _pulse_train(pitch_hz: np.ndarray) -> np.ndarray:
    """(frames,) in Hz -> (frames * HOP,), float32: all harmonics below MAX_HARMONIC_HZ, amplitude 1; 0 if voiceless.

    With H harmonics of phase t their sum is sin((H + 1/2) t) / (2 sin(t / 2)) - 1/2, and H where sin(t / 2) vanishes.
    """
    num_frames = len(pitch_hz)
    at = (np.arange(num_frames * HOP) + 0.5) / HOP - 0.5
    hz = np.interp(at, np.arange(num_frames), pitch_hz)
    voiced = hz > MIN_PITCH_HZ
    hz = np.maximum(hz, MIN_PITCH_HZ)
    half = np.pi * (np.cumsum(hz) / SAMPLE_RATE_HZ % 1.0)
    count = np.floor(MAX_HARMONIC_HZ / hz)
    below = 2 * np.sin(half)
    flat = np.abs(below) < 2e-3
    total = np.sin((2 * count + 1) * half) / np.where(flat, 1.0, below) - 0.5
    return np.where(voiced, np.where(flat, count, total), 0.0).astype(np.float32)


def _spectrum(wave: np.ndarray, num_frames: int) -> np.ndarray:
    """(samples,) -> (bins, frames), complex64: centred frames, scaled so that a unit cosine peaks at 1 / 2 * 4."""
    padded = np.pad(wave, WINDOW_SIZE // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SIZE)[::HOP][:num_frames]
    return np.fft.rfft(frames * (WINDOW / (WINDOW_SIZE / 4)), axis=1).T


def _inverse(spectrum: np.ndarray) -> np.ndarray:
    """(bins, frames), complex64 -> (frames * HOP,), float32, by windowed overlap-add of centred frames."""
    frames = np.fft.irfft(spectrum.T, n=WINDOW_SIZE, axis=1).astype(np.float32) * WINDOW
    num_frames, overlap = len(frames), WINDOW_SIZE // HOP
    total = np.zeros((num_frames + overlap - 1, HOP), np.float32)
    weight = np.zeros_like(total)
    for part in range(overlap):
        total[part : part + num_frames] += frames[:, part * HOP : (part + 1) * HOP]
        weight[part : part + num_frames] += WINDOW[part * HOP : (part + 1) * HOP] ** 2
    wave = (total / np.maximum(weight, 1e-8)).reshape(-1)
    return wave[WINDOW_SIZE // 2 :][: num_frames * HOP]
