"""Decoding block by block: tokens -> mel, at a cost a block that does not grow, for a vocoder that goes on likewise.

A block of tokens is decoded as soon as it is full; what it becomes depends on the blocks before it, on its place (noise
is a function of the frame) and never on how the tokens arrived. Published networks normalise and attend over all the
frames they are given, so a block is decoded behind its history, whose mel is the prompt. The causal variant keeps what
its layers computed for earlier blocks and decodes new frames alone.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from components.speech_decoder.causal import Past
from components.speech_decoder.flow import frames_of
from components.speech_decoder.layout import Saved
from components.speech_decoder.mel import NUM_BINS
from components.speech_decoder.noise import frame_noise

RELEASED_BLOCK = 10
"""Tokens of a block where the encoder has none of its own."""


class Vocoder(Protocol):
    """Mel pieces in, wave pieces out; no sample is lost or given twice."""

    @property
    def latency(self) -> int:
        """Frames held back until more is known."""

    def push(self, log_mel: Tensor) -> Tensor:
        """log_mel: (80, F), natural log -> (samples,), float32."""

    def finish(self) -> Tensor:
        """The rest: (samples,), float32."""


class MelStream:
    """Checked tokens in, mel out, block by block."""

    def __init__(self, saved: Saved, speaker: Tensor) -> None:
        """speaker: (1, 80), channels of the flow, on its device."""
        self._blocks: _Prompted | _Remembered
        self._blocks = (_Remembered if saved.shape.causal_blocks else _Prompted)(saved, speaker)
        self._scale = saved.scale
        self._block = saved.shape.encoder.block_size or RELEASED_BLOCK
        self._waiting = torch.zeros(0, dtype=torch.int64, device=speaker.device)
        self._started = self._finished = False

    def push(self, codes: Tensor) -> list[Tensor]:
        """codes: (tokens,), int64 -> the mel of each block that is full now: (80, frames), natural log.

        Raises ValueError after finish.
        """
        if self._finished:
            raise ValueError("stream: tokens after finish; wanted a new stream")
        self._waiting = torch.cat([self._waiting, codes])
        full = len(self._waiting) // self._block * self._block
        blocks, self._waiting = self._waiting[:full].split(self._block), self._waiting[full:]
        return [self._decode(block) for block in blocks if len(block)]

    def finish(self) -> list[Tensor]:
        """The mel of a last block that is not full, if any. Raises ValueError when nothing was ever pushed."""
        if not self._started and len(self._waiting) == 0:
            raise ValueError("stream: finished without a token; wanted at least one")
        self._finished = True
        return [self._decode(self._waiting)] if len(self._waiting) else []

    @torch.no_grad()
    def _decode(self, codes: Tensor) -> Tensor:
        self._started = True
        return self._scale.restore(self._blocks.decode(codes))


class _Prompted:
    """The published network: each block behind at most history_blocks earlier ones, whose mel is its prompt."""

    def __init__(self, saved: Saved, speaker: Tensor) -> None:
        self._flow, self._saved, self._speaker = saved.flow, saved, speaker
        self._history = saved.stream.history_blocks * (saved.shape.encoder.block_size or RELEASED_BLOCK)
        self._known = torch.zeros(0, dtype=torch.int64, device=speaker.device)  # the last tokens already decoded
        self._mel = torch.zeros(NUM_BINS, 0, device=speaker.device)  # theirs, as the flow sees it
        self._num_done = 0

    def decode(self, codes: Tensor) -> Tensor:
        """codes: (tokens,) of the next block -> (80, frames), as the flow sees it."""
        saved, rate = self._saved, self._saved.tokens_per_s
        tokens = torch.cat([self._known, codes])
        stop = self._num_done + len(codes)
        first, edge, last = (frames_of(n, rate) for n in (stop - len(tokens), self._num_done, stop))
        content = self._flow.content(tokens[None], last - first)
        prompt = torch.zeros_like(content)
        prompt[0, :, : edge - first] = self._mel
        noise = frame_noise(first, last - first).to(content.device)
        mel = self._flow.sample(noise[None], content, self._speaker, prompt, saved.sampler)[0]
        mel[:, : edge - first] = self._mel
        self._known = tokens[-self._history :] if self._history else tokens[:0]
        self._num_done = stop
        kept = last - frames_of(stop - len(self._known), rate)
        self._mel = mel[:, mel.shape[1] - kept :]
        return mel[:, edge - first :]


class _Remembered:
    """The causal variant: each block by itself, behind what every layer remembers of the last causal_blocks - 1."""

    def __init__(self, saved: Saved, speaker: Tensor) -> None:
        self._flow, self._saved, self._speaker = saved.flow, saved, speaker
        num_blocks = saved.shape.causal_blocks
        self._content = Past(num_blocks)
        self._steps = [Past(num_blocks) for _ in range(saved.sampler.num_steps)]
        self._num_done = 0

    def decode(self, codes: Tensor) -> Tensor:
        """codes: (tokens,) of the next block -> (80, frames), as the flow sees it."""
        rate, start = self._saved.tokens_per_s, self._num_done
        self._num_done = start + len(codes)
        first, last = frames_of(start, rate), frames_of(self._num_done, rate)
        content = self._flow.content(codes[None], last - first, first=start, past=self._content)
        noise = frame_noise(first, last - first).to(content.device)
        mel = self._flow.sample(
            noise[None],
            content,
            self._speaker,
            torch.zeros_like(content),
            self._saved.sampler,
            first=first,
            pasts=self._steps,
        )
        return mel[0]
