"""The discriminators that HiFT learns against: each hears a wave in its own way and judges every part of it.

Periods: the wave folded into columns of so many samples (HiFi-GAN, Kong et al. 2020, section 2.3). Resolutions: its
magnitudes at so many windows (UnivNet, Jang et al. 2021, section 2.2; also BigVGAN and CosyVoice). Both kinds together
are CosyVoice's choice.

Shapes: B batch, S samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from components.speech_decoder.config import DiscriminatorConfig

_SLOPE = 0.1
"""Of the leaky rectifiers; published."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What one discriminator makes of a batch of waves."""

    verdict: Tensor
    """(B, parts): near 1 for recorded speech, near 0 for made speech."""
    features: list[Tensor]
    """Outputs of its layers, the verdict last: (B, channels, ...)."""


class Discriminators(nn.Module):
    """One discriminator for each period and each resolution of the settings."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        """Raises ValueError for a period below 2, no channels, a window longer than its FFT, or nothing to judge by."""
        super().__init__()
        if not config.periods and not config.resolutions:
            raise ValueError("vocoder.discriminators: got neither periods nor resolutions, wanted at least one")
        if any(period < 2 for period in config.periods):
            raise ValueError(f"vocoder.discriminators.periods: got {config.periods}, wanted 2 or more")
        if not config.period_channels or min([*config.period_channels, config.resolution_channels]) < 1:
            got = f"period_channels {config.period_channels}, resolution_channels {config.resolution_channels}"
            raise ValueError(f"vocoder.discriminators: got {got}, wanted 1 or more of each")
        check_resolutions(config.resolutions)
        periods = [PeriodDiscriminator(period, config.period_channels) for period in config.periods]
        spectra = [ResolutionDiscriminator(sizes, config.resolution_channels) for sizes in config.resolutions]
        self.each = nn.ModuleList([*periods, *spectra])

    def forward(self, wave: Tensor) -> list[Judged]:
        """wave: (B, S), float32, -1..1 -> what each makes of it."""
        return [discriminator(wave) for discriminator in self.each]


def check_resolutions(resolutions: list[list[int]]) -> None:
    """Raise ValueError unless each is [FFT size, hop, window] with hop <= window <= FFT size."""
    for sizes in resolutions:
        if len(sizes) != 3 or not 0 < sizes[1] <= sizes[2] <= sizes[0]:
            raise ValueError(
                f"vocoder.discriminators.resolutions: got {sizes}, wanted [FFT size, hop, window], window <= FFT size"
            )


class PeriodDiscriminator(nn.Module):
    """Convolutions down the columns of a wave folded at one period."""

    def __init__(self, period: int, channels: list[int]) -> None:
        """channels: of each convolution; all but the last shorten the columns threefold."""
        super().__init__()
        self.period = period
        sizes, strides = [1, *channels], [3] * (len(channels) - 1) + [1]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(sizes[level], sizes[level + 1], (5, 1), (stride, 1), (2, 0)))
            for level, stride in enumerate(strides)
        )
        self.last = weight_norm(nn.Conv2d(sizes[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wave: Tensor) -> Judged:
        """wave: (B, S), float32."""
        missing = -wave.shape[-1] % self.period
        padded = F.pad(wave[:, None], (0, missing), mode="reflect")
        return _judge(padded.unflatten(2, (-1, self.period)), self.layers, self.last)  # (B, 1, S / period, period)


class ResolutionDiscriminator(nn.Module):
    """Convolutions over the magnitudes of a wave at one resolution, frequencies shortened."""

    def __init__(self, sizes: list[int], channels: int) -> None:
        """sizes: FFT size, hop and window in samples."""
        super().__init__()
        self.sizes = sizes
        wide = [weight_norm(nn.Conv2d(1, channels, (3, 9), padding=(1, 4)))]
        wide += [weight_norm(nn.Conv2d(channels, channels, (3, 9), (1, 2), (1, 4))) for _ in range(3)]
        self.layers = nn.ModuleList([*wide, weight_norm(nn.Conv2d(channels, channels, (3, 3), padding=1))])
        self.last = weight_norm(nn.Conv2d(channels, 1, (3, 3), padding=1))

    def forward(self, wave: Tensor) -> Judged:
        """wave: (B, S), float32."""
        seen = magnitudes(wave, *self.sizes).transpose(1, 2)[:, None]
        return _judge(seen, self.layers, self.last)  # (B, 1, frames, frequencies)


def magnitudes(wave: Tensor, n_fft: int, hop: int, window: int) -> Tensor:
    """wave: (B, S), float32 -> (B, n_fft // 2 + 1, frames), float32; Hann windows of `window` samples every `hop`."""
    shape = torch.hann_window(window, device=wave.device)
    spectrum = torch.stft(wave, n_fft, hop, window, shape, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()


def _judge(hidden: Tensor, layers: nn.ModuleList, last: nn.Module) -> Judged:
    features = []
    for layer in layers:
        hidden = F.leaky_relu(layer(hidden), _SLOPE)
        features.append(hidden)
    verdict = last(hidden)
    return Judged(verdict=verdict.flatten(1), features=[*features, verdict])
