"""HiFT from its settings to its weights: what stage.py calls once the flow is trained."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch

from components.shared.tracking import Tracker
from components.shared.training import fit, seeded
from components.speech_decoder.config import HiftShapeConfig, VocoderConfig, VocoderKind
from components.speech_decoder.data import Corpus, FromStep
from components.speech_decoder.discriminators import Discriminators
from components.speech_decoder.hift import PUBLISHED, Hift
from components.speech_decoder.mel import HOP
from components.speech_decoder.vocoder_data import CropBatches, Waves, WholeWaves, long_enough
from components.speech_decoder.vocoder_module import VocoderModule

_PITCH_SCALE_HZ = 100.0
"""A voice's pitch and its spread: where the predictor's last layer begins, instead of at 0 give or take 1 Hz."""

_LOUDNESS = -5.0
"""Mean log magnitude of speech at the last layer's resolution; a random network begins 100 times as loud."""


def train_vocoder(
    config: VocoderConfig, seed: int, corpus: Corpus, checkpoints: Path, tracker: Tracker, num_workers: int = 0
) -> tuple[Hift | None, dict[str, float]]:
    """The averaged HiFT and its validation figures: vocoder_mel, vocoder_cents, vocoder_voicing; None for Griffin-Lim.

    Utterances that are too short for a crop are counted in corpus.dropped. Raises ValueError for settings that fit
    neither the mel nor the data.
    """
    if config.kind is VocoderKind.griffin_lim:
        return None, {}
    module = make_module(config, seed)
    part, waves = corpus.of_speakers(config.num_speakers), Waves(config.keep_waves)
    pairs = long_enough(part.train, config.crop_frames, corpus.dropped)
    accumulated = config.trainer.accumulate_batches
    train = CropBatches(
        pairs,
        waves,
        crop_frames=config.crop_frames,
        rows=config.rows_per_batch,
        seed=seed,
        num_batches=config.trainer.num_steps * accumulated,
    )
    held = WholeWaves(part.validation[: config.num_validation], waves)
    validation = FromStep(held, lambda: 0, 0) if len(held) else None
    loader = FromStep(train, lambda: module.global_step * accumulated, num_workers)
    folder, what = checkpoints / "vocoder", "speech_decoder: vocoder"
    last = fit(module, loader, validation, config.trainer, tracker=tracker, checkpoints=folder, what=what)
    return module.average, {name.rsplit("/", 1)[-1]: value for name, value in last.items()}


def check_vocoder(config: VocoderConfig, corpus: Corpus) -> None:
    """Raise the ValueErrors of train_vocoder now, before the flow has trained for days."""
    if config.kind is VocoderKind.griffin_lim:
        return
    make_module(config, 0)
    pairs = long_enough(corpus.of_speakers(config.num_speakers).train, config.crop_frames, Counter())
    crops = {"crop_frames": config.crop_frames, "rows": config.rows_per_batch}
    CropBatches(pairs, Waves(False), **crops, seed=0, num_batches=1)


def make_module(config: VocoderConfig, seed: int) -> VocoderModule:
    """HiFT and its discriminators with random weights drawn from the seed. Raises ValueError for what does not fit."""
    resolutions = config.discriminators.resolutions
    if config.losses.spectral_weight and not resolutions:
        raise ValueError("vocoder.losses.spectral_weight: got no discriminators.resolutions, wanted at least one or 0")
    if any(config.crop_frames * HOP <= n_fft // 2 for n_fft, *_ in resolutions):
        raise ValueError(
            f"vocoder.crop_frames: got {config.crop_frames}, wanted more samples than half of {resolutions}"
        )
    with seeded(seed):
        return VocoderModule(make_network(config.shape), Discriminators(config.discriminators), config, seed=seed)


@torch.no_grad()
def make_network(shape: HiftShapeConfig) -> Hift:
    """HiFT as published but for this shape, random; its pitch predictor begins at the scale of a voice.

    Raises ValueError when the shape cannot be halved twice or a kernel is even.
    """
    if shape.base_channels % 4 or shape.base_channels < 4:
        raise ValueError(f"vocoder.shape.base_channels: got {shape.base_channels}, wanted a multiple of 4")
    if not shape.kernels or any(kernel % 2 == 0 for kernel in shape.kernels):
        raise ValueError(f"vocoder.shape.kernels: got {shape.kernels}, wanted odd numbers, at least one")
    config = replace(
        PUBLISHED,
        base_channels=shape.base_channels,
        resblock_kernel_sizes=list(shape.kernels),
        resblock_dilation_sizes=[[1, 3, 5]] * len(shape.kernels),
    )
    network = Hift(config, shape.pitch_channels)
    network.f0_predictor.classifier.weight.mul_(_PITCH_SCALE_HZ)
    network.f0_predictor.classifier.bias.fill_(_PITCH_SCALE_HZ)
    network.conv_post.bias[: config.istft_params["n_fft"] // 2 + 1] = _LOUDNESS
    return network
