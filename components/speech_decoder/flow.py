"""Speech tokens -> mel by conditional flow matching: token encoder, length regulator, velocity network, sampler.

Parameter names are those of the published decoder (flow.pt of GLM-4-Voice, CosyVoice's design). Source: Lipman et al.
2023 for the straight path from noise to data, Du et al. 2024 (CosyVoice, section 2.3) for cosine time and guidance.

Shapes: B batch, T tokens, F mel frames, bins = 80 mel channels.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.speech_decoder.causal import Conv, Frames, Norm, Past
from components.speech_decoder.config import SamplerConfig, ShapeConfig
from components.speech_decoder.encoder import Encoder
from components.speech_decoder.mel import FRAMES_PER_S, NUM_BINS
from components.speech_decoder.unet import Mish, UNet

SPEAKER_SIZE = 192


class MelFlow(nn.Module):
    """The flow: content channels from tokens, and a velocity field over mel that they condition."""

    def __init__(self, shape: ShapeConfig, num_codes: int, compatible: bool, tokens_per_s: float | None = None) -> None:
        """tokens_per_s: the causal variant alone wants it, since its blocks are known frame by frame.

        Raises ValueError when the causal variant is asked for without blocks of tokens.
        """
        super().__init__()
        causal = shape.causal_blocks > 0
        if causal and not (shape.encoder.block_size and tokens_per_s):
            got = f"encoder.block_size {shape.encoder.block_size}, {tokens_per_s} tokens/s"
            raise ValueError(f"shape.causal_blocks: got {shape.causal_blocks} with {got}, wanted both above 0")
        self.causal_blocks, self.block_size = shape.causal_blocks, shape.encoder.block_size
        self.tokens_per_s = tokens_per_s
        self.input_embedding = nn.Embedding(num_codes, shape.token_size)
        self.spk_embed_affine_layer = nn.Linear(SPEAKER_SIZE, NUM_BINS)
        self.encoder = Encoder(shape.encoder, shape.token_size, shape.causal_blocks)
        self.encoder_proj = nn.Linear(shape.encoder.hidden_size, NUM_BINS)
        self.length_regulator = LengthRegulator(NUM_BINS, shape.num_regulator_layers, causal)
        network = UNet(shape.unet, NUM_BINS, compatible, shape.causal_blocks)
        self.decoder = nn.ModuleDict({"estimator": network})

    @property
    def velocity_network(self) -> UNet:
        """The U-Net, `decoder.estimator` in key names."""
        network = self.decoder["estimator"]
        assert isinstance(network, UNet)
        return network

    @property
    def num_codes(self) -> int:
        """Size of the token vocabulary."""
        return self.input_embedding.num_embeddings

    def content(self, tokens: Tensor, num_frames: int, *, first: int = 0, past: Past | None = None) -> Tensor:
        """tokens: (B, T), int64, none of them padding -> (B, bins, F) content channels of num_frames frames.

        past: of the causal variant, what came before these tokens, all of one block; the first is token `first`.
        """
        valid = torch.ones_like(tokens, dtype=torch.bool)
        hidden = self.encoder_proj(self.encoder(self.input_embedding(tokens), valid, first=first, past=past))
        if not self.causal_blocks:
            return self.length_regulator(hidden, num_frames)
        assert self.tokens_per_s is not None
        edges = torch.tensor([frames_of(first + n, self.tokens_per_s) for n in range(tokens.shape[1] + 1)])
        stretched = hidden.repeat_interleave(edges.diff().to(hidden.device), dim=1, output_size=num_frames)
        return self.length_regulator(stretched, num_frames, past)

    def speaker(self, vector: Tensor) -> Tensor:
        """vector: (B, 192) speaker embedding of any length -> (B, bins) speaker channels."""
        return self.spk_embed_affine_layer(F.normalize(vector, dim=1))

    def velocity(
        self,
        noisy: Tensor,
        time: Tensor,
        content: Tensor,
        speaker: Tensor,
        prompt: Tensor,
        *,
        first: int = 0,
        past: Past | None = None,
    ) -> Tensor:
        """Velocity of frames that are all valid: see UNet.forward; past only with the causal variant."""
        blocks = None
        if self.causal_blocks and past is None:
            blocks = self._blocks(noisy.shape[-1]).to(noisy.device)
        return self.velocity_network(noisy, None, content, time, speaker, prompt, blocks=blocks, first=first, past=past)

    def _blocks(self, num_frames: int) -> Tensor:
        """(frames,), int64: the block of tokens of each frame of a sequence."""
        assert self.tokens_per_s is not None
        edges: list[int] = []
        block = 0
        while not edges or edges[-1] < num_frames:
            block += 1
            edges.append(frames_of(block * self.block_size, self.tokens_per_s))
        return torch.searchsorted(torch.tensor(edges), torch.arange(num_frames), right=True)

    @torch.no_grad()
    def sample(
        self,
        noise: Tensor,
        content: Tensor,
        speaker: Tensor,
        prompt: Tensor,
        sampler: SamplerConfig,
        *,
        first: int = 0,
        pasts: list[Past] | None = None,
    ) -> Tensor:
        """Euler steps from noise, (B, bins, F), to mel, (B, bins, F), at times 1 - cos(pi/2 * k/n).

        content and prompt: (B, bins, F), the prompt zero where there is none; speaker: (B, bins). pasts: of the causal
        variant, what each step keeps of the blocks before this one, which begins at frame `first`.
        """
        num_rows = len(noise)
        if sampler.guidance > 0:  # one batch of both: with the conditions, and without any
            content, speaker, prompt = (torch.cat([c, torch.zeros_like(c)]) for c in (content, speaker, prompt))
        times = cosine_time(torch.linspace(0, 1, sampler.num_steps + 1, device=noise.device))
        mel = noise
        for step, (now, then) in enumerate(pairwise(times)):
            rows = mel if sampler.guidance == 0 else torch.cat([mel, mel])
            past = None if pasts is None else pasts[step]
            velocity = self.velocity(
                rows, now.expand(len(rows)), content, speaker, prompt, first=first, past=past
            ).float()
            if sampler.guidance > 0:
                guided, free = velocity[:num_rows], velocity[num_rows:]
                velocity = (1.0 + sampler.guidance) * guided - sampler.guidance * free
            mel = mel + (then - now) * velocity
        return mel


class LengthRegulator(nn.Module):
    """Stretches token channels to mel frames and smooths them; its norm runs over the whole sequence unless causal."""

    def __init__(self, num_channels: int, num_layers: int, causal: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(num_layers):
            layers += [
                Conv(num_channels, num_channels, 3, causal=causal),
                Norm(1, num_channels, causal=causal),
                Mish(),
            ]
        self.model = nn.Sequential(*layers, nn.Conv1d(num_channels, num_channels, 1))

    def forward(self, hidden: Tensor, num_frames: int, past: Past | None = None) -> Tensor:
        """hidden: (B, T, C) -> (B, C, num_frames); T = num_frames leaves the length as it is."""
        hidden = F.interpolate(hidden.transpose(1, 2), size=num_frames, mode="nearest")
        frames = Frames(first=0, length=num_frames, past=past)
        for layer in self.model:
            hidden = layer(hidden, frames) if isinstance(layer, Conv) else layer(hidden)
        return hidden


def cosine_time(uniform: Tensor) -> Tensor:
    """Times 0..1 that dwell near 0, where the path leaves the noise."""
    return 1.0 - torch.cos(uniform * 0.5 * math.pi)


def frames_of(num_tokens: int, tokens_per_s: float) -> int:
    """Mel frames of so many tokens, rounded down as the published code does."""
    return int(num_tokens / tokens_per_s * FRAMES_PER_S)
