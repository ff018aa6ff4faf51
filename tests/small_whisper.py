"""The settings of a speech tokenizer that trains in a second, and an utterance for it."""

from __future__ import annotations

from dataclasses import replace

from components.shared.contracts import Utterance
from components.shared.training_config import StrategyKind, TrainerConfig
from components.speech_tokenizer.config import (
    AugmentConfig,
    FeatureNormalization,
    RandomStartConfig,
    SpeechTokenizerConfig,
)
from tests.launchers import IN_PROCESS

QUIET = AugmentConfig(
    speeds=[1.0],
    noise_share=0.0,
    noise_snr_db=[10.0, 30.0],
    time_masks=0,
    time_mask_s=0.3,
    mel_masks=0,
    mel_mask_bins=8,
)
SMALL = SpeechTokenizerConfig(
    seed=3,
    start_from="random",
    random_start=RandomStartConfig(width=32, heads=2, inner=48, encoder_layers=3, decoder_layers=1, vocab_size=270),
    languages=["en", "zh"],
    tokens_per_s=12.5,
    num_codes=12,
    pooling_position=1,
    quantize_position=2,
    causal_convolution=True,
    block_s=0.8,
    feature_normalization=FeatureNormalization.fixed,
    feature_floor=-6.0,
    ema_decay=0.9,
    commit_coefficient=0.25,
    commit_scale=10.0,
    restart_interval=5,
    quantize_from_step=2,
    kmeans_frames=200,
    kmeans_iterations=4,
    kmeans_directions=8,
    distil_weight=1.0,
    text_from_step=0,
    keep_in_memory=False,
    frozen=[],
    lr=1e-3,
    final_lr=1e-4,
    warmup_steps=2,
    weight_decay=0.01,
    batch_s=4.0,
    num_buckets=2,
    max_duration_s=5.0,
    corpus_weights={},
    pseudo_per_human=None,
    untranscribed=True,
    augment=QUIET,
    num_loaders=0,
    checkpoint_activations=False,
    num_validation=4,
    trainer=TrainerConfig(
        num_steps=10,
        precision="32-true",
        gradient_clip=1.0,
        accumulate_batches=1,
        log_every_steps=1,
        validate_every_steps=5,
        checkpoint_every_steps=4,
        keep_last=1,
        keep_every_steps=0,
        resume_from="",
        strategy=StrategyKind.auto,
    ),
    launcher=IN_PROCESS,
)


def utterance(name: str, duration_s: float, **changes: object) -> Utterance:
    row = Utterance(
        id=name,
        audio=f"audio/{name}.flac",
        duration_s=duration_s,
        sample_rate_hz=16_000,
        bandwidth_hz=8_000.0,
        text=f"the cat sat on mat {name}",
        text_source="human",
        language="en",
        speaker="a",
        corpus="c",
        license="CC0-1.0",
        split="train",
        origin="synthesized",
        rms_dbfs=-20.0,
    )
    return replace(row, **changes)
