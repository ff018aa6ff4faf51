"""HiFT, the published vocoder: mel -> pitch -> harmonic source -> wave, by a network that ends in an inverse STFT.

Parameter names are those of the published hift.pt. Source: HiFTNet (Li et al. 2023): a neural source filter (Wang et
al. 2019) on iSTFTNet (Kaneko et al. 2022) with Snake activations (Ziyin et al. 2020), as CosyVoice arranges them.

Shapes: B batch, F mel frames, S samples = 256 F.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.speech_decoder.mel import NUM_BINS, SAMPLE_RATE_HZ

_MAX_MAGNITUDE = 100.0


@dataclass(frozen=True, kw_only=True)
class HiftConfig:
    """Shape of the vocoder: section hift of config.json, fields named as published."""

    in_channels: int
    base_channels: int
    nb_harmonics: int
    """Overtones of the source beside the pitch itself."""
    sampling_rate: int
    nsf_alpha: float
    """Amplitude of the source's sines."""
    nsf_sigma: float
    """Deviation of the noise on voiced samples."""
    nsf_voiced_threshold: float
    """Hz; a lower pitch counts as unvoiced."""
    upsample_rates: list[int]
    upsample_kernel_sizes: list[int]
    istft_params: dict[str, int]
    """n_fft and hop_len of the inverse STFT at the end."""
    resblock_kernel_sizes: list[int]
    resblock_dilation_sizes: list[list[int]]
    source_resblock_kernel_sizes: list[int]
    source_resblock_dilation_sizes: list[list[int]]
    lrelu_slope: float
    audio_limit: float
    """Largest sample."""

    @property
    def samples_per_frame(self) -> int:
        """Samples that one mel frame becomes."""
        product = self.istft_params["hop_len"]
        for rate in self.upsample_rates:
            product *= rate
        return product


PUBLISHED = HiftConfig(
    in_channels=NUM_BINS,
    base_channels=512,
    nb_harmonics=8,
    sampling_rate=SAMPLE_RATE_HZ,
    nsf_alpha=0.1,
    nsf_sigma=0.003,
    nsf_voiced_threshold=10,
    upsample_rates=[8, 8],
    upsample_kernel_sizes=[16, 16],
    istft_params={"n_fft": 16, "hop_len": 4},
    resblock_kernel_sizes=[3, 7, 11],
    resblock_dilation_sizes=[[1, 3, 5]] * 3,
    source_resblock_kernel_sizes=[7, 11],
    source_resblock_dilation_sizes=[[1, 3, 5]] * 2,
    lrelu_slope=0.1,
    audio_limit=0.99,
)
"""Settings of the published hift.pt."""


class Hift(nn.Module):
    """Mel to wave; the pitch predictor is a part of it."""

    def __init__(self, config: HiftConfig, pitch_channels: int) -> None:
        super().__init__()
        self.config, self.pitch_channels = config, pitch_channels
        n_fft, rates = config.istft_params["n_fft"], config.upsample_rates
        self.f0_predictor = PitchPredictor(config.in_channels, pitch_channels)
        self.m_source = nn.ModuleDict({"l_linear": nn.Linear(config.nb_harmonics + 1, 1)})
        self.conv_pre = _NormConv(config.in_channels, config.base_channels, 7, padding=3)
        self.ups, self.source_downs = nn.ModuleList(), nn.ModuleList()
        self.source_resblocks, self.resblocks = nn.ModuleList(), nn.ModuleList()
        size = config.base_channels
        for level, (rate, kernel) in enumerate(zip(rates, config.upsample_kernel_sizes, strict=True)):
            self.ups.append(_NormConvTranspose(size, size // 2, kernel, rate, (kernel - rate) // 2))
            size //= 2
            step = 1
            for later in rates[level + 1 :]:
                step *= later
            if step == 1:
                self.source_downs.append(nn.Conv1d(n_fft + 2, size, 1))
            else:
                self.source_downs.append(nn.Conv1d(n_fft + 2, size, 2 * step, step, padding=step // 2))
            kernel = config.source_resblock_kernel_sizes[level]
            self.source_resblocks.append(_ResBlock(size, kernel, config.source_resblock_dilation_sizes[level]))
            for kernel, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True):
                self.resblocks.append(_ResBlock(size, kernel, dilations))
        self.conv_post = _NormConv(size, n_fft + 2, 7, padding=3)

    def forward(self, mel: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """mel: (B, 80, F), natural log -> (B, S), float32; the generator draws the source's phases and noise."""
        pitch = F.interpolate(self.f0_predictor(mel)[:, None], scale_factor=float(self.config.samples_per_frame))
        return self.decode(mel, self.source(pitch, generator))

    def source(self, pitch: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """pitch: (B, 1, S), Hz -> (B, 1, S): sines of the pitch and its overtones where voiced, noise elsewhere."""
        start = self.first_turns(len(pitch), generator).to(pitch.device)
        shape = (len(pitch), start.shape[1], pitch.shape[-1])
        return self.excite(pitch, start, torch.randn(shape, generator=generator).to(pitch))[0]

    def first_turns(self, num_rows: int, generator: torch.Generator | None = None) -> Tensor:
        """Where the sines begin, as shares of a turn: (rows, 1 + overtones, 1), float64; the pitch itself at 0."""
        start = torch.rand(num_rows, self.config.nb_harmonics + 1, 1, generator=generator).double() - 0.5
        start[:, 0] = 0.0
        return start

    def excite(self, pitch: Tensor, start: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The source that goes on from `start`, and where its sines stand at its end: (B, 1, S) and as first_turns.

        pitch: (B, 1, S), Hz; start: as first_turns; noise: (B, 1 + overtones, S), normal.
        """
        config = self.config
        orders = torch.arange(1, config.nb_harmonics + 2, device=pitch.device)[None, :, None]
        turns = (start + torch.cumsum(pitch.double() * orders / config.sampling_rate, dim=-1)) % 1.0
        sines = config.nsf_alpha * torch.sin(2 * torch.pi * turns.float())
        voiced = (pitch > config.nsf_voiced_threshold).float()
        level = voiced * config.nsf_sigma + (1.0 - voiced) * config.nsf_alpha / 3
        mixed = self.m_source["l_linear"]((sines * voiced + level * noise).transpose(1, 2))
        return torch.tanh(mixed).transpose(1, 2), turns[:, :, -1:]

    def decode(self, mel: Tensor, source: Tensor) -> Tensor:
        """mel: (B, 80, F); source: (B, 1, S) -> (B, S), float32, within the audio limit."""
        config, num_blocks = self.config, len(self.config.resblock_kernel_sizes)
        spectrum = self._stft(source[:, 0])
        hidden = self.conv_pre(mel)
        for level, up in enumerate(self.ups):
            hidden = up(F.leaky_relu(hidden, config.lrelu_slope))
            if level == len(self.ups) - 1:
                hidden = F.pad(hidden, (1, 0), mode="reflect")
            hidden = hidden + self.source_resblocks[level](self.source_downs[level](spectrum))
            blocks = list(self.resblocks)[level * num_blocks : (level + 1) * num_blocks]
            hidden = torch.stack([block(hidden) for block in blocks]).mean(dim=0)
        made = self.conv_post(F.leaky_relu(hidden)).float()  # whatever the layers computed in
        half = config.istft_params["n_fft"] // 2 + 1
        magnitude = made[:, :half].exp().clamp(max=_MAX_MAGNITUDE)
        phase = torch.sin(made[:, half:])  # squashed to -1..1, as released weights expect
        return self._istft(torch.polar(magnitude, phase)).clamp(-config.audio_limit, config.audio_limit)

    def _stft(self, wave: Tensor) -> Tensor:
        n_fft, hop = self.config.istft_params["n_fft"], self.config.istft_params["hop_len"]
        window = torch.hann_window(n_fft, device=wave.device)
        spectrum = torch.stft(wave, n_fft, hop, window=window, return_complex=True)
        return torch.cat([spectrum.real, spectrum.imag], dim=1)

    def _istft(self, spectrum: Tensor) -> Tensor:
        n_fft, hop = self.config.istft_params["n_fft"], self.config.istft_params["hop_len"]
        return torch.istft(spectrum, n_fft, hop, window=torch.hann_window(n_fft, device=spectrum.device))


class PitchPredictor(nn.Module):
    """Mel -> pitch in Hz, 0 or little where unvoiced."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size in (in_channels, channels, channels, channels, channels):
            layers += [_NormConv(size, channels, 3, padding=1), nn.ELU()]
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 1)

    def forward(self, mel: Tensor) -> Tensor:
        """mel: (B, 80, F) -> (B, F), Hz."""
        return self.classifier(self.condnet(mel).transpose(1, 2)).abs()[:, :, 0]


class _ResBlock(nn.Module):
    """Pairs of dilated and plain convolutions behind Snake activations, each pair added to its input."""

    def __init__(self, size: int, kernel: int, dilations: list[int]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            _NormConv(size, size, kernel, padding=dilation * (kernel - 1) // 2, dilation=dilation)
            for dilation in dilations
        )
        self.convs2 = nn.ModuleList(_NormConv(size, size, kernel, padding=(kernel - 1) // 2) for _ in dilations)
        self.activations1 = nn.ModuleList(_Snake(size) for _ in dilations)
        self.activations2 = nn.ModuleList(_Snake(size) for _ in dilations)

    def forward(self, hidden: Tensor) -> Tensor:
        for first, wide, second, plain in zip(
            self.activations1, self.convs1, self.activations2, self.convs2, strict=True
        ):
            hidden = hidden + plain(second(wide(first(hidden))))
        return hidden


class _Snake(nn.Module):
    """x + sin^2(alpha x) / alpha, alpha learned for each channel: periodic, as waves are."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(size))

    def forward(self, hidden: Tensor) -> Tensor:
        alpha = self.alpha[:, None]
        return hidden + torch.sin(alpha * hidden).square() / (alpha + 1e-9)


class _Norm(nn.Module):
    """A convolution's weight as direction and length (weight_v, weight_g), the names of published checkpoints."""

    def __init__(self, like: nn.Conv1d | nn.ConvTranspose1d) -> None:
        super().__init__()
        weight = like.weight.detach()
        self.weight_v = nn.Parameter(weight.clone())
        self.weight_g = nn.Parameter(weight.norm(dim=(1, 2), keepdim=True))
        assert like.bias is not None
        self.bias = nn.Parameter(like.bias.detach().clone())

    @property
    def weight(self) -> Tensor:
        """The weight itself."""
        return self.weight_g * self.weight_v / self.weight_v.norm(dim=(1, 2), keepdim=True)


class _NormConv(_Norm):
    def __init__(self, in_size: int, out_size: int, kernel: int, *, padding: int, dilation: int = 1) -> None:
        super().__init__(nn.Conv1d(in_size, out_size, kernel))
        self.padding, self.dilation = padding, dilation

    def forward(self, hidden: Tensor) -> Tensor:
        return F.conv1d(hidden, self.weight, self.bias, padding=self.padding, dilation=self.dilation)


class _NormConvTranspose(_Norm):
    def __init__(self, in_size: int, out_size: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__(nn.ConvTranspose1d(in_size, out_size, kernel))
        self.stride, self.padding = stride, padding

    def forward(self, hidden: Tensor) -> Tensor:
        return F.conv_transpose1d(hidden, self.weight, self.bias, stride=self.stride, padding=self.padding)
