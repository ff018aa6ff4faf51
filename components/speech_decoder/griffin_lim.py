"""Mel -> wave without a trained vocoder: magnitudes by non-negative least squares, phases by fast Griffin-Lim.

Source: Griffin and Lim 1984; the momentum of Perraudin, Balazs and Sondergaard 2013; multiplicative updates of Lee and
Seung 2001 for the magnitudes. Audible as an echo-like roughness, yet intelligible: the tiny scale's vocoder.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from components.speech_decoder.config import GriffinLimConfig
from components.speech_decoder.mel import HOP, NUM_BINS, WINDOW, filters, window

_EDGE = (WINDOW - HOP) // 2
_NNLS_ROUNDS = 24
_HELD_FRAMES = 3
"""Frames at the end of a stream's wave that a later block may still change: half a window and a little more."""
_PAST_FRAMES = 12
"""Frames of finished wave that fix the phases of what follows: 139 ms, more than one period of any voice."""
_FADE_FRAMES = 2
"""Frames after them that pass gradually from what the last push expected to what is known now. Without, joints
click."""


def magnitudes(log_mel: Tensor) -> Tensor:
    """log_mel: (80, F), natural log -> (513, F) magnitudes >= 0 whose mel is as near as can be."""
    mel, basis = log_mel.float().exp(), filters(log_mel.device)
    magnitude = (_inverse().to(mel) @ mel).clamp(min=1e-6)
    pull = basis.T @ mel
    for _ in range(_NNLS_ROUNDS):
        magnitude = magnitude * pull / (basis.T @ (basis @ magnitude)).clamp(min=1e-9)
    return magnitude


@cache
def _inverse() -> Tensor:
    return torch.linalg.pinv(filters(torch.device("cpu")))


def griffin_lim(log_mel: Tensor, config: GriffinLimConfig, past: Tensor | None = None, num_faded: int = 0) -> Tensor:
    """log_mel: (80, F), natural log -> (256 F,) float32 wave at 22.05 kHz; the same mel gives the same wave.

    past: the wave of the first frames where it is known already (samples,); it is kept, and the rest follows from it.
    num_faded: so many samples at its end are only expected: the wave leaves them gradually.
    """
    num_frames = log_mel.shape[-1]
    if log_mel.shape[0] != NUM_BINS or num_frames == 0:
        raise ValueError(f"mel: got shape {tuple(log_mel.shape)}, wanted ({NUM_BINS}, at least 1 frame)")
    magnitude = magnitudes(log_mel)
    generator = torch.Generator().manual_seed(num_frames)
    angle = torch.rand(magnitude.shape, generator=generator).to(magnitude) * (2 * torch.pi)
    spectrum = torch.polar(magnitude, angle)
    past = torch.zeros(0) if past is None else past
    known = F.pad(past, (0, num_frames * HOP - len(past))).to(magnitude)
    share = _share(len(past), num_faded, num_frames).to(magnitude)
    num_fixed = max(0, (int((share == 1).sum()) - WINDOW // 2) // HOP)
    if num_fixed:
        spectrum[:, :num_fixed] = _with_phase(magnitude, _analyse(F.pad(known, (_EDGE, _EDGE))))[:, :num_fixed]
    previous = torch.zeros_like(spectrum)
    for _ in range(config.num_iterations):
        wave = _keep(_overlap_add(spectrum, num_frames), known, share)
        consistent = _analyse(wave)
        spectrum = _with_phase(magnitude, consistent + config.momentum * (consistent - previous))
        previous = consistent
    wave = _keep(_overlap_add(spectrum, num_frames), known, share)
    return wave[_EDGE : _EDGE + num_frames * HOP].clamp(-1.0, 1.0)


def _share(num_known: int, num_faded: int, num_frames: int) -> Tensor:
    """(256 F,): how much of each sample is the past's: 1, then falling over the faded ones, then 0."""
    fall = torch.linspace(1.0, 0.0, num_faded + 2)[1:-1]
    kept = torch.cat([torch.ones(num_known - num_faded), fall])
    return F.pad(kept, (0, num_frames * HOP - num_known))


def _keep(wave: Tensor, known: Tensor, share: Tensor) -> Tensor:
    """wave: (256 F + 768,), the edges included -> the same with what is known of it."""
    inner = slice(_EDGE, _EDGE + len(known))
    wave[inner] = share * known + (1.0 - share) * wave[inner]
    return wave


def _with_phase(magnitude: Tensor, spectrum: Tensor) -> Tensor:
    return magnitude * spectrum / spectrum.abs().clamp(min=1e-12)


def _analyse(wave: Tensor) -> Tensor:
    """wave: (256 F + 768,), the edges included -> (513, F), complex."""
    return torch.stft(wave, WINDOW, HOP, window=window(wave.device), center=False, return_complex=True)


def _overlap_add(spectrum: Tensor, num_frames: int) -> Tensor:
    """(513, F), complex -> (256 F + 768,): the wave whose transform is nearest to the spectrum (Griffin and Lim)."""
    shape = window(spectrum.device)
    pieces = torch.fft.irfft(spectrum, n=WINDOW, dim=0) * shape[:, None]
    length = (num_frames - 1) * HOP + WINDOW
    wave = _fold(pieces, length)
    weight = _fold(shape.square()[:, None].expand(-1, num_frames), length)
    return wave / weight.clamp(min=1e-2)


def _fold(pieces: Tensor, length: int) -> Tensor:
    return F.fold(pieces[None], (1, length), (1, WINDOW), stride=(1, HOP))[0, 0, 0]


class StreamingGriffinLim:
    """Wave piece by piece: each push continues the wave that was given out, no sample is given twice or lost."""

    def __init__(self, config: GriffinLimConfig) -> None:
        self._config = config
        self._mel = torch.zeros(NUM_BINS, 0)  # frames kept: some of the past, then those not given out yet
        self._past = torch.zeros(0)  # the wave of the past frames among them
        self._expected = torch.zeros(0)  # how the last push would have gone on

    @property
    def latency(self) -> int:
        """Frames held back."""
        return _HELD_FRAMES

    def push(self, log_mel: Tensor) -> Tensor:
        """log_mel: (80, F) -> (samples,) float32; the last frames are held back until more is known."""
        self._mel = torch.cat([self._mel.to(log_mel), log_mel], dim=1)
        return self._give(max(0, self._mel.shape[1] - len(self._past) // HOP - _HELD_FRAMES))

    def finish(self) -> Tensor:
        """The wave of the frames held back: (samples,) float32."""
        return self._give(self._mel.shape[1] - len(self._past) // HOP)

    def _give(self, num_frames: int) -> Tensor:
        if num_frames <= 0:
            return torch.zeros(0)
        num_known = len(self._past)
        known = torch.cat([self._past, self._expected])
        wave = griffin_lim(self._mel, self._config, known, len(self._expected)).cpu()
        stop = num_known + num_frames * HOP
        self._expected = wave[stop : stop + _FADE_FRAMES * HOP]
        self._past = torch.cat([self._past, wave[num_known:stop]])[-_PAST_FRAMES * HOP :]
        kept = self._mel.shape[1] - num_known // HOP - num_frames + len(self._past) // HOP
        self._mel = self._mel[:, self._mel.shape[1] - kept :]
        return wave[num_known:stop]
