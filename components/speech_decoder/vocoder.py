"""HiFT piece by piece: the wave of a mel that arrives in pieces, equal to that of the whole mel.

The network is convolutional, so a sample depends on the mel frames within its reach alone: a piece is decoded with that
much context on both sides, and what lies in the context is thrown away. The source is made once for every frame: its
sines go on where they stopped and its noise is a function of the place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from components.speech_decoder.hift import Hift, HiftConfig
from components.speech_decoder.mel import NUM_BINS
from components.speech_decoder.noise import source_noise

PITCH_REACH = 5
"""Frames on either side that the pitch of a frame depends on: five convolutions of three."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How many frames around a frame its 256 samples depend on, by way of the mel or of the source."""

    before: int
    after: int

    @property
    def latency(self) -> int:
        """Frames that must follow a frame before its samples are known."""
        return self.after + PITCH_REACH


def reach(config: HiftConfig) -> Reach:
    """Follow the first and the last sample of a frame back through the network's kernels."""
    n_fft, hop, frame = config.istft_params["n_fft"], config.istft_params["hop_len"], config.samples_per_frame
    half, steps = n_fft // 2, list(config.upsample_rates)
    low, high = _windows(0, frame - 1, half, hop)
    low, high = low - 3, high + 3  # conv_post
    samples: list[int] = []
    kernels = zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
    width = max(_width(kernel, dilations) for kernel, dilations in kernels)
    for level in reversed(range(len(steps))):
        low, high = low - width, high + width
        own = _width(config.source_resblock_kernel_sizes[level], config.source_resblock_dilation_sizes[level])
        step = 1
        for rate in steps[level + 1 :]:
            step *= rate
        first, last = (low - own) * step, (high + own) * step
        if step > 1:  # a kernel of 2 steps, padded by half a step
            first, last = first - step // 2, last - step // 2 + 2 * step - 1
        samples += [first * hop - half, last * hop + half - 1]
        if level == len(steps) - 1:
            low, high = low - 1, high - 1  # padded by one on the left
        kernel, rate = config.upsample_kernel_sizes[level], steps[level]
        pad = (kernel - rate) // 2
        low, high = -((kernel - 1 - low - pad) // rate), (high + pad) // rate
    low, high = low - 3, high + 3  # conv_pre
    return Reach(before=max(-low, -(min(samples) // frame)), after=max(high, max(samples) // frame))


def _windows(low: int, high: int, half: int, hop: int) -> tuple[int, int]:
    """First and last window of the inverse transform that touch samples low .. high."""
    return -((half - 1 - low) // hop), (high + half) // hop


def _width(kernel: int, dilations: list[int]) -> int:
    """Reach of a residual block on either side."""
    return sum((kernel - 1) // 2 * (dilation + 1) for dilation in dilations)


def whole_wave(network: Hift, mel: Tensor) -> Tensor:
    """mel: (80, F), natural log -> (256 F,), float32, all frames in one pass, on the mel's device."""
    stream = StreamingHift(network)
    stream.hold(mel)
    return stream.finish()


class StreamingHift:
    """Wave piece by piece; a frame's samples are given out when `latency` frames follow it, or at the end."""

    def __init__(self, network: Hift) -> None:
        self._network, self._reach = network, reach(network.config)
        self._mel = torch.zeros(NUM_BINS, 0)  # frames kept: context, then those not given out yet
        self._source = torch.zeros(0)  # of the first frames among them
        self._first = 0  # number of the first frame kept
        self._given = 0  # number of the first frame not given out
        self._turns = network.first_turns(1, torch.Generator().manual_seed(0))

    @property
    def latency(self) -> int:
        """Frames held back."""
        return self._reach.latency

    def hold(self, mel: Tensor) -> None:
        """mel: (80, F): to be given out by a later push or by finish."""
        self._mel = torch.cat([self._mel.to(mel), mel], dim=1)

    def push(self, mel: Tensor) -> Tensor:
        """mel: (80, F), natural log -> (samples,), float32: what is certain by now."""
        self.hold(mel)
        certain = self._first + self._mel.shape[1] - PITCH_REACH
        return self._give(certain, certain - self._reach.after)

    def finish(self) -> Tensor:
        """The wave of the frames held back: (samples,), float32."""
        end = self._first + self._mel.shape[1]
        return self._give(end, end)

    @torch.no_grad()
    def _give(self, certain: int, ready: int) -> Tensor:
        """The samples of frames up to `ready`; the source is made up to `certain`."""
        if ready <= self._given:
            return torch.zeros(0, device=self._mel.device)
        frame, first = self._network.config.samples_per_frame, self._first
        self._excite(certain)
        window = self._mel[:, : certain - first]
        wave = self._network.decode(window[None], self._source[None, None, : window.shape[1] * frame])[0]
        given, self._given = self._given, ready
        self._first = max(0, ready - max(self._reach.before, PITCH_REACH))
        self._mel, self._source = self._mel[:, self._first - first :], self._source[(self._first - first) * frame :]
        return wave[(given - first) * frame : (ready - first) * frame]

    def _excite(self, certain: int) -> None:
        """Continue the source up to frame `certain`."""
        frame, network = self._network.config.samples_per_frame, self._network
        made = self._first + len(self._source) // frame
        seen = max(self._first, made - PITCH_REACH)
        pitch = network.f0_predictor(self._mel[None, :, seen - self._first :])[:, made - seen : certain - seen]
        noise = source_noise(made, certain - made, self._turns.shape[1]).to(pitch)
        source, self._turns = network.excite(
            F.interpolate(pitch[:, None], scale_factor=float(frame)), self._turns.to(pitch.device), noise[None]
        )
        self._source = torch.cat([self._source.to(source), source[0, 0]])
