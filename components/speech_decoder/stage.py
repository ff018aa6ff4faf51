"""The story of the stage: pairs -> phases of training -> saved decoder -> how well its speech is understood."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from components.shared.manifest import seal
from components.shared.places import Inputs, Outputs
from components.shared.tracking import Tracker
from components.shared.training import seeded
from components.speech_decoder.config import SpeechDecoderConfig
from components.speech_decoder.data import Corpus, read_corpus
from components.speech_decoder.flow import MelFlow
from components.speech_decoder.layout import MelScale, save
from components.speech_decoder.mel import NUM_BINS
from components.speech_decoder.model import load
from components.speech_decoder.module import Weights
from components.speech_decoder.phases import saved_of, train_phase
from components.speech_decoder.speech import judge, speak
from components.speech_decoder.start import begin_alike, begin_straight
from components.speech_decoder.vocoder_training import check_vocoder, train_vocoder
from components.speech_decoder.voices import speaker_vectors
from components.speech_tokenizer.model import load as load_tokenizer

_NUM_MEASURED = 200
"""Utterances whose mels give the mean and deviation that the flow works in."""


def run(config: SpeechDecoderConfig, inputs: Inputs, outputs: Outputs, tracker: Tracker) -> dict[str, float]:
    """Train the flow in phases, save its averaged weights, decode validation speech.

    Reads   data/tokenize/tokens, data/collect/utterances, data/speech_tokenizer/model (its codes)
    Writes  data/speech_decoder/model
    Metrics loss_flow, loss_prior: mean squared error on validation, in deviations of the log mel; mel_distance: of
            decoded validation speech, natural log; mode_distance: between decoding block by block and in a single pass;
            wer_decoded (block by block), wer_whole (single pass), wer_vocoded, wer_original: what the judge does not
            understand; with HiFT vocoder_mel: L1 of the log mel of vocoded validation speech, vocoder_cents: median
            error of its pitch, mean over utterances, vocoder_voicing: share of frames wrongly called voiced or
            unvoiced; speakers_heard: 1 when the speaker vectors come from an extractor, 0 when they were learned
    Source  speech decoder of GLM-4-Voice, design of CosyVoice (Du et al. 2024)

    Raises ValueError when no training pair fits the settings, when tokenizer and tokens differ in their codes, and when
    what is heard of validation speech stays unintelligible (hearing.py).
    """
    tokens, utterances = inputs.folder("tokenize", "tokens"), inputs.folder("collect", "utterances")
    corpus = read_corpus(tokens, utterances, config.data)
    tracker.log_dataset(tokens, "tokens", "train")
    found = f"{len(corpus.train)} utterances, {corpus.hours:.2f} h, {len(corpus.speakers)} speakers"
    tracker.say(f"speech_decoder: {found}; left out: {dict(corpus.dropped)}")

    check_vocoder(config.vocoder, corpus)
    names = [phase.name for phase in config.phases]
    if len({*names, "vocoder"}) <= len(names):
        raise ValueError(f"speech_decoder.phases: got the names {names}, wanted different ones, none of them vocoder")
    scale = measure_scale(corpus, config.seed, tracker)
    vectors = speaker_vectors(corpus, config.voices, tracker)
    with seeded(config.seed):
        flow = MelFlow(config.shape, corpus.num_codes, config.compatible, corpus.tokens_per_s)
        weights = Weights(flow, len(corpus.speakers), vectors)
    if config.code_start:
        begin_alike(flow.input_embedding, codes_of(inputs.folder("speech_tokenizer", "model")))
    if config.straight_start:
        begin_straight(flow.velocity_network, NUM_BINS)
    metrics = {"speakers_heard": float(vectors is not None)}
    for number, phase in enumerate(config.phases):
        weights, losses = train_phase(phase, number, weights, scale, config, corpus, outputs.checkpoints, tracker)
        metrics |= losses
    vocoder, losses = train_vocoder(
        config.vocoder, config.seed, corpus, outputs.checkpoints, tracker, config.data.num_workers
    )
    metrics |= losses

    folder = outputs.folder("model")
    save(folder, saved_of(weights, scale, config, corpus, vocoder))
    seal(folder, extra={"num_codes": corpus.num_codes, "tokens_per_s": corpus.tokens_per_s})
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


def codes_of(tokenizer: Path) -> torch.Tensor:
    """(num_codes, width), float32: the vectors that the codes of a tokenizer's folder stand for."""
    return load_tokenizer(tokenizer).network.encoder.codebook.weight.detach().clone()


def measure_scale(corpus: Corpus, seed: int, tracker: Tracker) -> MelScale:
    """Mean and deviation over all frames and bins of some training mels."""
    order = np.random.default_rng(seed).permutation(len(corpus.train))[:_NUM_MEASURED]
    mels = tracker.progress(order, len(order), "speech_decoder: measuring mels")
    values = torch.cat([corpus.mels.of(corpus.train[index]).flatten() for index in mels])
    return MelScale(mean=float(values.mean()), std=float(values.std().clamp(min=1e-3)))
