"""Encoding while the sound arrives: a block's tokens leave as soon as the last frame of the block is known.

With the fixed floor and block-causal attention the ids are those of offline encoding. With Whisper's own clipping
(released weights) the floor follows the maximum so far, and ids may differ from offline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from components.shared.features import HOP, RANGE, WINDOW, log_power, num_frames, scale
from components.speech_tokenizer.windows import MEL_PER_HIDDEN, block_window

if TYPE_CHECKING:
    from components.speech_tokenizer.model import SpeechTokenizer


class EncodeStream:
    """One clip in pieces of any size. Made by `SpeechTokenizer.stream`."""

    def __init__(self, tokenizer: SpeechTokenizer) -> None:
        config = tokenizer.config
        block = config.quantize_causal_block_size
        if not config.streams or block is None or block > config.max_source_positions:
            raise ValueError(
                "stream: this configuration looks ahead of its block; wanted encoder_causal_convolution=true and a "
                "quantize_causal_block_size"
            )
        self.tokenizer, self.config = tokenizer, config
        self.block = block
        self.samples = torch.zeros(0)
        """Samples that frames yet to come need, -1..1, 16 kHz; the first belong to frame `next_frame`."""
        self.num_samples = 0
        self.next_frame = 0
        self.power = torch.zeros(config.num_mel_bins, 0)
        """Log power of the frames inside the next block's window, in decades."""
        self.first_frame = 0
        """Mel frame of the first column of `power`."""
        self.next_block = 0
        """Hidden frame at which the next block begins."""
        self.loudest = -torch.inf
        self.finished = False

    def push(self, samples: Tensor) -> Tensor:
        """Take samples (samples,) float32, -1..1, 16 kHz; returns the tokens that are now known, (tokens,) int64.

        Raises ValueError for samples that are not finite or not (samples,), or after `finish`.
        """
        from components.speech_tokenizer.model import check_wave

        if self.finished:
            raise ValueError("stream: got samples after finish; wanted a new stream")
        if samples.numel() == 0:
            return torch.empty(0, dtype=torch.int64)
        check_wave(samples, "stream")
        self.samples = torch.cat([self.samples, samples.detach().float().cpu()])
        self.num_samples += len(samples)
        # A frame is known when the half window behind its centre is; the first also needs its mirror image in front.
        self._analyse((self.num_samples - WINDOW // 2) // HOP + 1 if self.num_samples > WINDOW // 2 else 0)
        return self._encode_whole_blocks()

    def finish(self) -> Tensor:
        """The tokens of what is left, (tokens,) int64. Raises ValueError when nothing was ever pushed."""
        if self.num_samples == 0:
            raise ValueError("stream: no samples")
        if self.finished:
            raise ValueError("stream: finished twice")
        self.finished = True
        per_token = MEL_PER_HIDDEN * self.config.kernel
        frames = num_frames(self.num_samples)
        self.samples = functional.pad(self.samples, (0, (per_token + 2) * HOP + 2 * WINDOW))
        self._analyse(-(-frames // per_token) * per_token)
        tokens = [self._encode_whole_blocks(limit=frames)]
        num_hidden = -(-frames // MEL_PER_HIDDEN)
        if num_hidden > self.next_block:
            tokens.append(self._encode_block(num_hidden))
        return torch.cat(tokens)

    def _analyse(self, num_known: int) -> None:
        """Log power of all frames up to num_known from the samples at hand."""
        if num_known <= self.next_frame:
            return
        half = WINDOW // 2
        if self.next_frame == 0:
            self.samples = functional.pad(self.samples[None, None], (half, 0), mode="reflect")[0, 0]
        wanted = (num_known - self.next_frame - 1) * HOP + WINDOW
        power = log_power(self.samples[None, :wanted].to(self.tokenizer.device), self.config.num_mel_bins)[0].cpu()
        self.samples = self.samples[(num_known - self.next_frame) * HOP :]
        self.next_frame = num_known
        self.power = torch.cat([self.power, power], dim=1)
        self.loudest = max(self.loudest, float(power.max()))

    def _encode_whole_blocks(self, limit: int | None = None) -> Tensor:
        """Tokens of every block whose mel frames are all known (and real, when a limit in frames is given)."""
        known = self.next_frame if limit is None else min(limit, self.next_frame)
        tokens = [torch.empty(0, dtype=torch.int64)]
        while known >= MEL_PER_HIDDEN * (self.next_block + self.block):
            tokens.append(self._encode_block(self.next_block + self.block))
        return torch.cat(tokens)

    def _encode_block(self, stop: int) -> Tensor:
        """Tokens of the next block, whose real hidden frames end at stop."""
        window = block_window(self.next_block, stop, self.config)
        start = window.start * MEL_PER_HIDDEN - self.first_frame
        kernel = self.config.kernel
        width = -(-(window.stop - window.start) // kernel) * kernel * MEL_PER_HIDDEN
        floor = self.config.feature_floor if self.config.is_fixed else self.loudest - RANGE
        assert floor is not None
        features = scale(self.power[:, start : start + width], floor)
        mask = torch.arange(width) < (window.stop - window.start) * MEL_PER_HIDDEN
        ids, valid = self.tokenizer.encode_features(features[None], mask[None])
        self.next_block += self.block
        behind = block_window(self.next_block, self.next_block, self.config).start * MEL_PER_HIDDEN
        self.power = self.power[:, behind - self.first_frame :]
        self.first_frame = behind
        return ids[0, (window.keep - window.start) // kernel :][
            valid[0, (window.keep - window.start) // kernel :]
        ].cpu()
