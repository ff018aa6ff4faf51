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

from components.speech_decoder.config import SamplerConfig, ShapeConfig
from components.speech_decoder.encoder import Encoder
from components.speech_decoder.mel import FRAMES_PER_S, NUM_BINS
from components.speech_decoder.unet import Mish, UNet

SPEAKER_SIZE = 192


class MelFlow(nn.Module):
    """The flow: content channels from tokens, and a velocity field over mel that they condition."""

    def __init__(self, shape: ShapeConfig, num_codes: int, compatible: bool) -> None:
        super().__init__()
        self.input_embedding = nn.Embedding(num_codes, shape.token_size)
        self.spk_embed_affine_layer = nn.Linear(SPEAKER_SIZE, NUM_BINS)
        self.encoder = Encoder(shape.encoder, shape.token_size)
        self.encoder_proj = nn.Linear(shape.encoder.hidden_size, NUM_BINS)
        self.length_regulator = LengthRegulator(NUM_BINS, shape.num_regulator_layers)
        self.decoder = nn.ModuleDict({"estimator": UNet(shape.unet, NUM_BINS, compatible)})

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

    def content(self, tokens: Tensor, num_frames: int) -> Tensor:
        """tokens: (B, T), int64, none of them padding -> (B, bins, F) content channels of num_frames frames."""
        valid = torch.ones_like(tokens, dtype=torch.bool)
        hidden = self.encoder_proj(self.encoder(self.input_embedding(tokens), valid))
        return self.length_regulator(hidden, num_frames)

    def speaker(self, vector: Tensor) -> Tensor:
        """vector: (B, 192) speaker embedding of any length -> (B, bins) speaker channels."""
        return self.spk_embed_affine_layer(F.normalize(vector, dim=1))

    def velocity(self, noisy: Tensor, time: Tensor, content: Tensor, speaker: Tensor, prompt: Tensor) -> Tensor:
        """Velocity of frames that are all valid: see UNet.forward."""
        return self.velocity_network(noisy, None, content, time, speaker, prompt)

    @torch.no_grad()
    def sample(self, noise: Tensor, content: Tensor, speaker: Tensor, prompt: Tensor, sampler: SamplerConfig) -> Tensor:
        """Euler steps from noise, (B, bins, F), to mel, (B, bins, F), at times 1 - cos(pi/2 * k/n).

        content and prompt: (B, bins, F), the prompt zero where there is none; speaker: (B, bins).
        """
        num_rows = len(noise)
        if sampler.guidance > 0:  # one batch of both: with the conditions, and without any
            content, speaker, prompt = (torch.cat([c, torch.zeros_like(c)]) for c in (content, speaker, prompt))
        times = cosine_time(torch.linspace(0, 1, sampler.num_steps + 1, device=noise.device))
        mel = noise
        for now, then in pairwise(times):
            rows = mel if sampler.guidance == 0 else torch.cat([mel, mel])
            velocity = self.velocity(rows, now.expand(len(rows)), content, speaker, prompt).float()
            if sampler.guidance > 0:
                guided, free = velocity[:num_rows], velocity[num_rows:]
                velocity = (1.0 + sampler.guidance) * guided - sampler.guidance * free
            mel = mel + (then - now) * velocity
        return mel


class LengthRegulator(nn.Module):
    """Stretches token channels to mel frames and smooths them; its norm runs over the whole sequence."""

    def __init__(self, num_channels: int, num_layers: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(num_layers):
            layers += [
                nn.Conv1d(num_channels, num_channels, 3, padding=1),
                nn.GroupNorm(1, num_channels),
                Mish(),
            ]
        self.model = nn.Sequential(*layers, nn.Conv1d(num_channels, num_channels, 1))

    def forward(self, hidden: Tensor, num_frames: int) -> Tensor:
        """hidden: (B, T, C) -> (B, C, num_frames)."""
        return self.model(F.interpolate(hidden.transpose(1, 2), size=num_frames, mode="nearest"))


def cosine_time(uniform: Tensor) -> Tensor:
    """Times 0..1 that dwell near 0, where the path leaves the noise."""
    return 1.0 - torch.cos(uniform * 0.5 * math.pi)


def frames_of(num_tokens: int, tokens_per_s: float) -> int:
    """Mel frames of so many tokens, rounded down as the published code does."""
    return int(num_tokens / tokens_per_s * FRAMES_PER_S)
