"""The decoder behind its door: speech tokens in, wave out, at once or block by block.

decoder = load(Path("data/speech_decoder/model"))
wave = decoder.decode(tokens)                    # (samples,) at decoder.sample_rate_hz
stream = decoder.stream()
for piece in pieces: play(stream.push(piece))
play(stream.finish())
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from components.speech_decoder.flow import SPEAKER_SIZE, frames_of
from components.speech_decoder.griffin_lim import StreamingGriffinLim, griffin_lim
from components.speech_decoder.layout import Saved, read
from components.speech_decoder.mel import NUM_BINS, SAMPLE_RATE_HZ, log_mel

_NOISE_FRAMES = 64
"""Frames that share one seed of the noise."""


def load(path: Path, device: str = "cpu") -> SpeechDecoder:
    """The decoder of a folder. Raises ValueError when the folder does not hold one."""
    return SpeechDecoder(read(Path(path)), torch.device(device))


class SpeechDecoder:
    """Speech tokens -> wave."""

    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, saved: Saved, device: torch.device) -> None:
        self.saved, self.device = saved, device
        self.flow = saved.flow.to(device).eval()
        if saved.vocoder is not None:
            saved.vocoder.to(device).eval()

    @property
    def speakers(self) -> list[str]:
        """Names that decode and stream know."""
        return list(self.saved.speakers)

    def decode(self, tokens: Tensor | Sequence[int], speaker: str | Tensor | None = None) -> Tensor:
        """tokens: (tokens,), code numbers -> (samples,), float32, -1..1, 22.05 kHz, all frames in one pass.

        speaker: a name of the folder's table, a (192,) vector, or None for the folder's own choice. Raises ValueError
        when tokens are empty or out of range, or when the speaker is unknown or of another size.
        """
        return self.to_wave(self.mel(tokens, speaker))

    @torch.no_grad()
    def to_wave(self, mel: Tensor) -> Tensor:
        """mel: (80, frames), natural log -> (256 frames,), float32, on the CPU: HiFT where the folder has one."""
        if self.saved.vocoder is None:
            return griffin_lim(mel.to(self.device), self.saved.griffin_lim).cpu()
        generator = torch.Generator().manual_seed(0)
        return self.saved.vocoder(mel[None].to(self.device), generator)[0].cpu()

    @torch.no_grad()
    def mel(self, tokens: Tensor | Sequence[int], speaker: str | Tensor | None = None) -> Tensor:
        """tokens as in decode -> (80, frames), float32, natural log, on the decoder's device."""
        codes, channels = self.codes(tokens), self._speaker(speaker)
        num_frames = frames_of(len(codes), self.saved.tokens_per_s)
        content = self.flow.content(codes[None], num_frames)
        noise = frame_noise(0, num_frames).to(self.device)
        mel = self.flow.sample(noise[None], content, channels, torch.zeros_like(content), self.saved.sampler)
        return self.saved.scale.restore(mel[0])

    @torch.no_grad()
    def vocode(self, wave: Tensor) -> Tensor:
        """wave: (samples,), float32, 22.05 kHz -> its own mel through the vocoder: what no decoder can be better than.

        Raises ValueError when the wave is shorter than one window.
        """
        return self.to_wave(log_mel(wave.to(self.device)))

    def stream(self, speaker: str | Tensor | None = None) -> DecoderStream:
        """A new stream; what any pushes give, put together, does not depend on how tokens were split between them.

        Waves come from Griffin-Lim, which can continue a wave; HiFT cannot yet.
        """
        return DecoderStream(self, self._speaker(speaker))

    def codes(self, tokens: Tensor | Sequence[int]) -> Tensor:
        """Checked tokens: (tokens,), int64, on the decoder's device."""
        given = tokens if isinstance(tokens, Tensor) else torch.from_numpy(np.asarray(tokens, dtype=np.int64))
        if given.ndim != 1 or given.numel() == 0 or given.is_floating_point():
            raise ValueError(
                f"tokens: got {tuple(given.shape)} of {given.dtype}, wanted (tokens,) whole numbers, not empty"
            )
        lowest, highest = int(given.min()), int(given.max())
        if lowest < 0 or highest >= self.flow.num_codes:
            wrong = lowest if lowest < 0 else highest
            raise ValueError(f"tokens: got {wrong}, wanted 0..{self.flow.num_codes - 1}, the decoder's vocabulary")
        return given.to(self.device, torch.int64)

    @torch.no_grad()
    def _speaker(self, speaker: str | Tensor | None) -> Tensor:
        """(1, 80) speaker channels."""
        name = self.saved.default_speaker if speaker is None else speaker
        if isinstance(name, Tensor):
            if name.shape != (SPEAKER_SIZE,):
                raise ValueError(f"speaker: got a vector of {tuple(name.shape)}, wanted ({SPEAKER_SIZE},)")
            vector = name
        elif name == "":
            vector = torch.zeros(SPEAKER_SIZE)
        elif name in self.saved.speakers:
            vector = self.saved.speakers[name]
        else:
            raise ValueError(f"speaker: got {name!r}, wanted one of {', '.join(self.speakers) or 'none, or a vector'}")
        return self.flow.speaker(vector[None].to(self.device, torch.float32))


class DecoderStream:
    """Decodes a block of tokens as soon as it is full, conditioned on the mel of the last blocks as prompt.

    The cost of a block does not grow with the stream. A block knows nothing of what follows, so the wave differs from
    decode's, which sees the whole sequence.
    """

    def __init__(self, decoder: SpeechDecoder, speaker: Tensor) -> None:
        self._decoder, self._speaker = decoder, speaker
        saved = decoder.saved
        self._block = saved.shape.encoder.block_size or 10
        self._history = saved.stream.history_blocks * self._block
        self._vocoder = StreamingGriffinLim(saved.griffin_lim)
        self._waiting = torch.zeros(0, dtype=torch.int64, device=decoder.device)
        self._known = torch.zeros(0, dtype=torch.int64, device=decoder.device)  # the last tokens already decoded
        self._mel = torch.zeros(NUM_BINS, 0, device=decoder.device)  # theirs, as the flow sees it
        self._num_done = 0
        self._finished = False

    def push(self, tokens: Tensor | Sequence[int]) -> Tensor:
        """tokens: (tokens,) -> the wave that is ready by now: (samples,), float32, often empty.

        Raises ValueError as decode does, or after finish.
        """
        if self._finished:
            raise ValueError("stream: tokens after finish; wanted a new stream")
        if len(tokens) == 0:
            return torch.zeros(0)
        self._waiting = torch.cat([self._waiting, self._decoder.codes(tokens)])
        pieces = [torch.zeros(0)]
        while len(self._waiting) >= self._block:
            pieces.append(self._vocoder.push(self._decode(self._block)).cpu())
        return torch.cat(pieces)

    def finish(self) -> Tensor:
        """The rest of the wave: (samples,), float32. Raises ValueError when nothing was ever pushed."""
        if self._num_done == 0 and len(self._waiting) == 0:
            raise ValueError("stream: finished without a token; wanted at least one")
        self._finished = True
        pieces = []
        if len(self._waiting):
            pieces.append(self._vocoder.push(self._decode(len(self._waiting))).cpu())
        return torch.cat([*pieces, self._vocoder.finish().cpu()])

    @torch.no_grad()
    def _decode(self, count: int) -> Tensor:
        """The next `count` tokens: (80, frames), natural log."""
        flow, saved = self._decoder.flow, self._decoder.saved
        tokens = torch.cat([self._known, self._waiting[:count]])
        start, stop = self._num_done - len(self._known), self._num_done + count
        first, edge, last = (frames_of(n, saved.tokens_per_s) for n in (start, self._num_done, stop))
        content = flow.content(tokens[None], last - first)
        prompt = torch.zeros_like(content)
        prompt[0, :, : edge - first] = self._mel
        noise = frame_noise(first, last - first).to(self._decoder.device)
        mel = flow.sample(noise[None], content, self._speaker, prompt, saved.sampler)[0]
        mel[:, : edge - first] = self._mel
        self._waiting, self._known = self._waiting[count:], tokens[-self._history :] if self._history else tokens[:0]
        self._num_done = stop
        kept = last - frames_of(stop - len(self._known), saved.tokens_per_s)
        self._mel = mel[:, mel.shape[1] - kept :]
        return saved.scale.restore(mel[:, edge - first :])


def frame_noise(first: int, num_frames: int) -> Tensor:
    """Normal noise of frames first .. first + num_frames - 1: (80, num_frames), float32, a function of the frame."""
    start = first // _NOISE_FRAMES
    stop = -(-(first + num_frames) // _NOISE_FRAMES)
    pieces = [
        torch.randn(NUM_BINS, _NOISE_FRAMES, generator=torch.Generator().manual_seed(seed))
        for seed in range(start, stop)
    ]
    offset = first - start * _NOISE_FRAMES
    return torch.cat(pieces, dim=1)[:, offset : offset + num_frames]
