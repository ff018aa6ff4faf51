"""DistillMOS: how natural speech sounds, 1 to 5, without a recording to compare it with.

A convolutional front end and a small transformer that were taught by a large self-supervised model of speech quality.
It is named as what it is: a stand-in for UTMOS and MOSNet, whose weights no package carries. The network is written
here anew with the key names of the published checkpoint; no code of its package is used. Both give the same scores
within 1e-6 (128 clips of 1 to 25 s).

Source  Stahl and Gamper 2025, Distillation and Pruning for Scalable Self-Supervised Representation-Based Speech Quality
        Assessment (arXiv 2502.05356), variant 7
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from components.shared.assets import fetch
from components.shared.audio import require_sound, resample

SAMPLE_RATE_HZ = 16_000
"""What the network hears; other waves are resampled."""
MIN_DURATION_S = 0.1
WINDOW, MAX_HOP = 122_880, 16_000
"""Samples that are judged at once, 7.68 s, and at most so many from one such window to the next."""
FFT, HOP = 320, 160
FRAMES, WIDTH = 384, 200
"""Frames of 20 ms that reach the transformer, and its width."""
PIECE = "piece:distillmos"
FILE = "distillmos/weights/distill_mos_v7.pt"
"""Where in the piece the checkpoint lies."""


class DistillMos:
    """The judge; a wave's score does not depend on the waves beside it."""

    def __init__(self, source: str = PIECE, device: str = "cpu") -> None:
        """source: piece:distillmos, or the path of a checkpoint with its key names.

        Raises ValueError when the source is no such checkpoint, ConnectionError when the piece cannot be had now.
        """
        path = fetch(PIECE.removeprefix("piece:")) / FILE if source == PIECE else Path(source)
        if not path.is_file():
            raise ValueError(f"DistillMOS: got {source!r}, wanted {PIECE} or the path of its checkpoint")
        network = Network()
        try:
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["model"])
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"{path}: not the tensors of DistillMOS: {reason}") from error
        self.device, self.network = device, network.to(device).eval()

    @torch.inference_mode()
    def score(self, waves: Sequence[np.ndarray], sample_rate_hz: int) -> list[float]:
        """waves: each (samples,), float32, at sample_rate_hz -> 1 (bad) .. 5 (excellent) each, however loud.

        Long waves are judged in overlapping windows and the mean is given. Raises ValueError for a wave that is shorter
        than 0.1 s, not of one channel, or not finite.
        """
        for number, wave in enumerate(waves):
            require_sound(wave, sample_rate_hz, f"DistillMOS: wave {number}", MIN_DURATION_S)
        return [self._score(resample(wave, sample_rate_hz, SAMPLE_RATE_HZ)) for wave in waves]

    def _score(self, wave: np.ndarray) -> float:
        samples = torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32)).to(self.device)
        samples = functional.pad(samples, (0, max(0, WINDOW - len(samples))))
        last = len(samples) - WINDOW
        starts = (np.linspace(0, 1, math.ceil(last / MAX_HOP) + 1) * last).astype(int)
        scores = [self.network(samples[None, start : start + WINDOW]) for start in starts]
        return float(torch.stack(scores).mean())


# The network. Shapes: B batch, L frames of 20 ms, C channels.


class Network(nn.Module):
    """(B, 122880) -> (B,), 1..5."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = FrontEnd()
        self.transformer_pool_attn = Assessor()

    def forward(self, waves: Tensor) -> Tensor:
        """waves: (B, 122880) -> (B,)."""
        waves = waves / (waves.abs().amax(1, keepdim=True) + 1e-8)
        return 1 + 4 * self.transformer_pool_attn(self.cnn(waves))


class FrontEnd(nn.Module):
    """Six convolutions over the complex spectrogram, magnitudes to the power of 0.3: (B, samples) -> (B, L, 1024)."""

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = (2, 64, 64, 128, 256, 256, 256)
        for number, (narrow, wide) in enumerate(pairwise(channels)):
            stride = (1 if number == 0 else 2, 2 if number == 5 else 1)  # over frequency, over time
            layers += [nn.Conv2d(narrow, wide, kernel_size=3, stride=stride, padding=(0, 1)), nn.LeakyReLU(0.1)]
        self.cnn = nn.Sequential(*layers)
        self.register_buffer("window", torch.hann_window(FFT), persistent=False)

    def forward(self, waves: Tensor) -> Tensor:
        """(B, 122880) -> (B, 384, 1024)."""
        padded = functional.pad(waves, ((FFT - HOP) // 2, (FFT - HOP) // 2), mode="reflect")
        spectra = torch.stft(padded, FFT, HOP, FFT, self.window, center=False, return_complex=True)  # (B, 161, 768)
        parts = torch.view_as_real(spectra)
        size = parts.square().sum(-1, keepdim=True).sqrt().clip(1e-12)
        maps = self.cnn((size**0.3 * parts / size).permute(0, 3, 1, 2))  # (B, 256, 4, 384)
        return maps.flatten(1, 2).transpose(1, 2)


class Assessor(nn.Module):
    """(B, L, 1024) -> (B,), 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_input = nn.BatchNorm1d(1024)
        self.transformer = Transformer(1024)
        self.norm_trans = nn.BatchNorm1d(WIDTH)
        self.pool = Pool()

    def forward(self, features: Tensor) -> Tensor:
        """(B, L, 1024) -> (B,)."""
        hidden = self.transformer(_normalised(self.norm_input, features))
        return torch.sigmoid(self.pool(_normalised(self.norm_trans, hidden)))


class Transformer(nn.Module):
    """Seven layers over the frames, whose places are added: (B, L, C) -> (B, L, 200)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        self.linear_proj = nn.Linear(channels, WIDTH)
        self.position_encoding = Positions()
        layer = nn.TransformerEncoderLayer(WIDTH, nhead=8, dim_feedforward=2 * WIDTH, dropout=0.0, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, num_layers=7, enable_nested_tensor=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, 200)."""
        projected = self.linear_proj(_normalised(self.norm, features))
        return self.transformer_encoder(projected + self.position_encoding.pe)


class Positions(nn.Module):
    """Holds the sines of the places, which travel in the checkpoint."""

    pe: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pe", torch.zeros(1, FRAMES, WIDTH))


class Pool(nn.Module):
    """A mean over the frames whose weights are learnt, and the score of it: (B, L, 200) -> (B,)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, 1)
        self.linear3 = nn.Linear(WIDTH, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, L, 200) -> (B,)."""
        weights = self.linear2(functional.relu(self.linear1(hidden))).softmax(1)
        return self.linear3((weights * hidden).sum(1)).squeeze(-1)


def _normalised(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """(B, L, C) -> the same, normalised by channel."""
    return norm(x.transpose(1, 2)).transpose(1, 2)
