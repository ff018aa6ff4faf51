"""The story of the stage: pairs -> phases of training -> saved decoder -> how well its speech is understood."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from components.shared.manifest import seal
from components.shared.places import Inputs, Outputs
from components.shared.tracking import Tracker
from components.shared.training import fit, seeded
from components.speech_decoder.config import PhaseConfig, SpeechDecoderConfig
from components.speech_decoder.data import Batches, BatchSize, Corpus, FromStep, read_corpus
from components.speech_decoder.flow import MelFlow
from components.speech_decoder.hift import Hift
from components.speech_decoder.layout import MelScale, Saved, save
from components.speech_decoder.mel import FRAMES_PER_S, NUM_BINS
from components.speech_decoder.model import load
from components.speech_decoder.module import DecoderModule, Weights
from components.speech_decoder.speech import judge, speak
from components.speech_decoder.start import begin_straight
from components.speech_decoder.vocoder_training import train_vocoder

_NUM_MEASURED = 200
"""Utterances whose mels give the mean and deviation that the flow works in."""


def run(config: SpeechDecoderConfig, inputs: Inputs, outputs: Outputs, tracker: Tracker) -> dict[str, float]:
    """Train the flow in phases, save its averaged weights, decode validation speech.

    Reads   data/tokenize/tokens, data/collect/utterances
    Writes  data/speech_decoder/model
    Metrics loss_flow, loss_prior: mean squared error on validation, in deviations of the log mel; mel_distance: of
            decoded validation speech, natural log; with HiFT vocoder_mel: L1 of the log mel of vocoded validation
            speech, vocoder_cents: median error of its pitch, vocoder_voicing: share of frames called voiced or unvoiced
            wrongly; mode_distance: between decoding block by block and in a single
            pass; wer_decoded, wer_vocoded, wer_original: what the judge understands
    Source  speech decoder of GLM-4-Voice, design of CosyVoice (Du et al. 2024)

    Raises ValueError when no training pair fits the settings.
    """
    tokens, utterances = inputs.folder("tokenize", "tokens"), inputs.folder("collect", "utterances")
    corpus = read_corpus(tokens, utterances, config.data)
    tracker.log_dataset(tokens, "tokens", "train")
    found = f"{len(corpus.train)} utterances, {corpus.hours:.2f} h, {len(corpus.speakers)} speakers"
    tracker.say(f"speech_decoder: {found}; left out: {dict(corpus.dropped)}")

    scale = measure_scale(corpus, config.seed, tracker)
    with seeded(config.seed):
        flow = MelFlow(config.shape, corpus.num_codes, config.compatible, corpus.tokens_per_s)
        weights = Weights(flow, len(corpus.speakers))
    if config.straight_start:
        begin_straight(flow.velocity_network, NUM_BINS)
    metrics: dict[str, float] = {}
    for number, phase in enumerate(config.phases):
        weights, losses = train_phase(phase, number, weights, scale, config, corpus, outputs.checkpoints, tracker)
        metrics |= losses
    vocoder, losses = train_vocoder(
        config.vocoder, config.seed, corpus, outputs.checkpoints, tracker, config.data.num_workers
    )
    metrics |= losses

    folder = outputs.folder("model")
    save_decoder(folder, weights, scale, config, corpus, vocoder)
    decoder = load(folder, "cuda" if torch.cuda.is_available() else "cpu")
    heard = corpus.of_speakers(config.phases[-1].num_speakers).validation[: config.data.num_spoken]
    spoken = speak(decoder, heard, tracker)
    metrics |= judge(spoken, config.judge)
    metrics |= {f"dropped_{reason}": float(count) for reason, count in corpus.dropped.items()}
    metrics["hours"], metrics["num_speakers"] = corpus.hours, float(len(corpus.speakers))
    metrics["num_parameters"] = float(sum(p.numel() for p in decoder.flow.parameters()))
    rows = [
        {
            "mel_distance": item.mel_distance,
            "mode_distance": item.mode_distance,
            "decoded_s": len(item.decoded) / decoder.sample_rate_hz,
        }
        for item in spoken
    ]
    if rows:
        metrics |= {name: float(np.mean([row[name] for row in rows])) for name in ("mel_distance", "mode_distance")}
    outputs.write_stats(shards=[metrics], rows=rows)
    tracker.log_model(folder, "speech_decoder")
    return metrics


def measure_scale(corpus: Corpus, seed: int, tracker: Tracker) -> MelScale:
    """Mean and deviation over all frames and bins of some training mels."""
    order = np.random.default_rng(seed).permutation(len(corpus.train))[:_NUM_MEASURED]
    mels = tracker.progress(order, len(order), "speech_decoder: measuring mels")
    values = torch.cat([corpus.mels.of(corpus.train[index]).flatten() for index in mels])
    return MelScale(mean=float(values.mean()), std=float(values.std().clamp(min=1e-3)))


def train_phase(
    phase: PhaseConfig,
    number: int,
    weights: Weights,
    scale: MelScale,
    config: SpeechDecoderConfig,
    corpus: Corpus,
    checkpoints: Path,
    tracker: Tracker,
) -> tuple[Weights, dict[str, float]]:
    """One phase: the averaged weights at its end, and its last validation losses."""
    seed = int(np.random.default_rng([config.seed, number]).integers(2**31))
    block = config.shape.encoder.block_size if phase.block_prompts else 0
    module = DecoderModule(
        weights,
        scale,
        config.objective,
        phase,
        weight_decay=config.weight_decay,
        betas=(config.betas[0], config.betas[1]),
        ema_decay=config.ema_decay,
        prompt_unit=block / corpus.tokens_per_s * FRAMES_PER_S if block else 1.0,
        seed=seed,
    )
    part = corpus.of_speakers(phase.num_speakers)
    num_batches = phase.trainer.num_steps * phase.trainer.accumulate_batches
    size = BatchSize(max_crop_s=config.data.max_crop_s, frames_per_batch=phase.frames_per_batch)
    train = Batches(corpus, part.train, size, seed=seed, num_batches=num_batches)
    held = part.validation[: config.data.num_validation]
    validation = FromStep(Batches(corpus, held, size, seed=seed, num_batches=None), lambda: 0, 0) if held else None
    loader = FromStep(train, lambda: module.global_step * phase.trainer.accumulate_batches, config.data.num_workers)
    folder, what = checkpoints / phase.name, f"speech_decoder: {phase.name}"
    last = fit(module, loader, validation, phase.trainer, tracker=tracker, checkpoints=folder, what=what)
    return module.average, {name.rsplit("/", 1)[-1]: value for name, value in last.items()}


def save_decoder(
    folder: Path,
    weights: Weights,
    scale: MelScale,
    config: SpeechDecoderConfig,
    corpus: Corpus,
    vocoder: Hift | None,
) -> None:
    """Write the model's folder; the speaker with most speech in the last phase speaks unless another is asked for."""
    table = weights.speakers.weight.detach().cpu()
    saved = Saved(
        flow=weights.flow,
        shape=config.shape,
        tokens_per_s=corpus.tokens_per_s,
        scale=scale,
        speakers=dict(zip(corpus.speakers, table, strict=True)),
        default_speaker=corpus.speakers[0],
        compatible=config.compatible,
        sampler=config.sampler,
        stream=config.stream,
        griffin_lim=config.griffin_lim,
        sigma_min=config.objective.sigma_min,
        drop_share=config.objective.drop_share,
        vocoder=vocoder,
    )
    save(folder, saved)
    seal(folder, extra={"num_codes": corpus.num_codes, "tokens_per_s": corpus.tokens_per_s})
