"""What HiFT and its discriminators are trained on. All sums are float32, whatever the networks compute in.

Source: least squares (Mao et al. 2017), feature matching and mel as weighed by HiFi-GAN (Kong et al. 2020, section 2.4:
mel 45, features 2), pitch and the relativistic loss as in HiFTNet (Li et al. 2023) and CosyVoice, spectral loss of
Parallel WaveGAN (Yamamoto et al. 2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from components.speech_decoder.discriminators import Judged, magnitudes
from components.speech_decoder.mel import HOP, log_mel


def discriminator_loss(real: list[Judged], made: list[Judged]) -> Tensor:
    """Least squares: recorded waves are to be judged 1, made ones 0; summed over the discriminators."""
    pairs = zip(real, made, strict=True)
    return torch.stack(
        [(1 - r.verdict.float()).square().mean() + m.verdict.float().square().mean() for r, m in pairs]
    ).sum()


def adversarial_loss(made: list[Judged]) -> Tensor:
    """Least squares of the generator: made waves are to be judged 1; summed over the discriminators."""
    return torch.stack([(1 - judged.verdict.float()).square().mean() for judged in made]).sum()


def feature_loss(real: list[Judged], made: list[Judged]) -> Tensor:
    """Mean absolute difference of every layer's output, summed over layers and discriminators; `real` is the target."""
    layers = [
        F.l1_loss(ours.float(), theirs.detach().float())
        for r, m in zip(real, made, strict=True)
        for theirs, ours in zip(r.features, m.features, strict=True)
    ]
    return torch.stack(layers).sum()


def relativistic_loss(better: list[Judged], worse: list[Judged], limit: float) -> Tensor:
    """How far `better` is from being judged above `worse` by their median distance, cut at `limit`; summed.

    The discriminators take real as better, the generator made (TPRLS, HiFTNet section 2.5).
    """
    losses = []
    for b, w in zip(better, worse, strict=True):
        over = b.verdict.float() - w.verdict.float()
        short = over - over.median()
        missed = short[short < 0].square().mean() if bool((short < 0).any()) else short.new_zeros(())
        losses.append(limit - F.relu(limit - missed))
    return torch.stack(losses).sum()


def spectral_loss(made: Tensor, real: Tensor, resolutions: list[list[int]]) -> Tensor:
    """made, real: (B, S), float32 -> L1 of log magnitudes plus spectral convergence, mean over the resolutions."""
    losses = []
    for n_fft, hop, window in resolutions:
        ours, theirs = magnitudes(made, n_fft, hop, window), magnitudes(real, n_fft, hop, window)
        convergence = (theirs - ours).norm() / theirs.norm().clamp(min=1e-3)
        losses.append(F.l1_loss(ours.clamp(min=1e-4).log(), theirs.clamp(min=1e-4).log()) + convergence)
    return torch.stack(losses).mean()


def mel_loss(made: Tensor, real: Tensor) -> Tensor:
    """made, real: (B, S), float32 -> mean absolute difference of their log mels, natural log."""
    return F.l1_loss(log_mel(made), log_mel(real))


@dataclass(frozen=True, kw_only=True)
class PitchErrors:
    """How well a pitch was predicted."""

    cents: Tensor
    """Median absolute error where both are voiced, in hundredths of a semitone; NaN when no frame is."""
    voicing: Tensor
    """Share of frames called voiced or unvoiced wrongly."""


def pitch_errors(predicted: Tensor, reference: Tensor, threshold_hz: float) -> PitchErrors:
    """predicted, reference: (frames,), Hz; below threshold_hz a frame is unvoiced."""
    ours, theirs = predicted > threshold_hz, reference > threshold_hz
    both = ours & theirs
    cents = 1200 * (predicted[both] / reference[both]).log2().abs()
    nothing = predicted.new_tensor(float("nan"))
    return PitchErrors(cents=cents.median() if len(cents) else nothing, voicing=(ours != theirs).float().mean())


def upsampled(pitch: Tensor) -> Tensor:
    """pitch: (B, frames), Hz -> (B, 1, S): a frame's pitch for all of its samples."""
    return pitch[:, None].repeat_interleave(HOP, dim=2)
