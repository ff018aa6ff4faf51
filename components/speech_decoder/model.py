"""The decoder behind its door: speech tokens in, wave out, at once or block by block.

decoder = load(Path("data/speech_decoder/model"))
wave = decoder.decode(tokens)                    # (samples,) at decoder.sample_rate_hz
stream = decoder.stream()
for piece in pieces: play(stream.push(piece))    # put together: the same wave
play(stream.finish())

decode goes block by block, as a stream must: what is evaluated is then what a listener of a chat hears. The published
code's single pass over a finished utterance is there under its own names, mel and decode_whole.
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
from components.speech_decoder.mel import SAMPLE_RATE_HZ, log_mel
from components.speech_decoder.noise import frame_noise
from components.speech_decoder.stream import MelStream, Vocoder
from components.speech_decoder.vocoder import StreamingHift, whole_wave

Codes = Tensor | np.ndarray | Sequence[int]
"""(tokens,), whole numbers."""


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

    def decode(self, tokens: Codes, speaker: str | Tensor | None = None) -> Tensor:
        """tokens: (tokens,), code numbers -> (samples,), float32, -1..1, 22.05 kHz, on the CPU: what a stream gives.

        speaker: a name of the folder's table, a (192,) vector, or None for the folder's own choice. Raises ValueError
        when tokens are empty or out of range, or when the speaker is unknown or of another size.
        """
        return self.decode_with_mel(tokens, speaker)[0]

    def decode_with_mel(self, tokens: Codes, speaker: str | Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As decode, and the mel of that wave: (80, frames), float32, natural log, on the decoder's device."""
        mels, vocoder = self._mels(tokens, speaker), self._vocoder()
        pieces = [*(vocoder.push(mel).cpu() for mel in mels), vocoder.finish().cpu()]
        return torch.cat(pieces), torch.cat(mels, dim=1)

    def block_mel(self, tokens: Codes, speaker: str | Tensor | None = None) -> Tensor:
        """tokens as in decode -> (80, frames), the mel that decode makes, float32, natural log."""
        return torch.cat(self._mels(tokens, speaker), dim=1)

    @torch.no_grad()
    def mel(self, tokens: Codes, speaker: str | Tensor | None = None) -> Tensor:
        """The single pass, as the published code decodes a finished utterance: all frames together, no prompt.

        tokens as in decode -> (80, frames), float32, natural log, on the decoder's device. Every frame sees all tokens,
        which a stream cannot know: see mode_distance. With the causal variant it is block_mel but for rounding.
        """
        codes, channels = self.codes(tokens), self._speaker(speaker)
        num_frames = frames_of(len(codes), self.saved.tokens_per_s)
        content = self.flow.content(codes[None], num_frames)
        noise = frame_noise(0, num_frames).to(self.device)
        mel = self.flow.sample(noise[None], content, channels, torch.zeros_like(content), self.saved.sampler)
        return self.saved.scale.restore(mel[0])

    @torch.no_grad()
    def content_mel(self, tokens: Codes) -> Tensor:
        """tokens as in decode -> (80, frames), natural log: what conditions the flow; a prior loss makes it a mel."""
        codes = self.codes(tokens)
        content = self.flow.content(codes[None], frames_of(len(codes), self.saved.tokens_per_s))
        return self.saved.scale.restore(content[0])

    def decode_whole(self, tokens: Codes, speaker: str | Tensor | None = None) -> Tensor:
        """As decode, in a single pass instead of block by block: for finished utterances and for comparison."""
        return self.to_wave(self.mel(tokens, speaker))

    def mode_distance(self, tokens: Codes, speaker: str | Tensor | None = None) -> float:
        """How far block mode is from the single pass: mean absolute difference of their log mels, natural log."""
        return float((self.block_mel(tokens, speaker) - self.mel(tokens, speaker)).abs().mean())

    @torch.no_grad()
    def to_wave(self, mel: Tensor) -> Tensor:
        """mel: (80, frames), natural log -> (256 frames,), float32, on the CPU: HiFT where the folder has one."""
        if self.saved.vocoder is None:
            return griffin_lim(mel.to(self.device), self.saved.griffin_lim).cpu()
        return whole_wave(self.saved.vocoder, mel.to(self.device)).cpu()

    @torch.no_grad()
    def vocode(self, wave: Tensor) -> Tensor:
        """wave: (samples,), float32, 22.05 kHz -> its own mel through the vocoder: what no decoder can be better than.

        Raises ValueError when the wave is shorter than one window.
        """
        return self.to_wave(log_mel(wave.to(self.device)))

    def stream(self, speaker: str | Tensor | None = None) -> DecoderStream:
        """A new stream; its pieces put together are decode's wave, however the tokens were split between pushes."""
        return DecoderStream(self, MelStream(self.saved, self._speaker(speaker)), self._vocoder())

    def _mels(self, tokens: Codes, speaker: str | Tensor | None) -> list[Tensor]:
        """The mel of each block: (80, frames), natural log."""
        stream = MelStream(self.saved, self._speaker(speaker))
        return [*stream.push(self.codes(tokens)), *stream.finish()]

    def _vocoder(self) -> Vocoder:
        if self.saved.vocoder is None:
            return StreamingGriffinLim(self.saved.griffin_lim)
        return StreamingHift(self.saved.vocoder)

    def codes(self, tokens: Codes) -> Tensor:
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
    """Decodes a block of tokens as soon as it is full; the cost of a block does not grow with the stream.

    The vocoder holds back the frames whose samples still depend on what follows.
    """

    def __init__(self, decoder: SpeechDecoder, mels: MelStream, vocoder: Vocoder) -> None:
        self._decoder, self._mels, self._vocoder = decoder, mels, vocoder

    @property
    def latency(self) -> int:
        """Frames of decoded mel whose wave is held back."""
        return self._vocoder.latency

    def push(self, tokens: Codes) -> Tensor:
        """tokens: (tokens,) -> the wave that is ready by now: (samples,), float32, on the CPU, often empty.

        Raises ValueError as decode does, but takes an empty push as nothing, or after finish.
        """
        none = torch.zeros(0, dtype=torch.int64, device=self._decoder.device)
        mels = self._mels.push(self._decoder.codes(tokens) if len(tokens) else none)
        return torch.cat([torch.zeros(0), *(self._vocoder.push(mel).cpu() for mel in mels)])

    def finish(self) -> Tensor:
        """The rest of the wave: (samples,), float32, on the CPU. Raises ValueError when nothing was ever pushed."""
        mels = self._mels.finish()
        return torch.cat([*(self._vocoder.push(mel).cpu() for mel in mels), self._vocoder.finish().cpu()])
