"""Settings of the speech_tokenizer stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from components.shared.identity import FREE
from components.shared.launcher import LauncherConfig
from components.shared.training_config import TrainerConfig


class FeatureNormalization(Enum):
    """Below which value log-mel frames are cut off."""

    clip = "clip"
    """8 decades below the clip's own maximum, as Whisper does; a frame then depends on the whole clip."""
    fixed = "fixed"
    """At a constant floor, so that features of a prefix equal those of the whole and streaming is exact."""


@dataclass(kw_only=True)
class RandomStartConfig:
    """Shape of the network when it does not start from a Whisper."""

    width: int
    """Width of the states, in numbers; a multiple of the heads."""
    heads: int
    """Attention heads of every layer."""
    inner: int
    """Width inside the perceptrons, in numbers."""
    encoder_layers: int
    """Layers of the encoder."""
    decoder_layers: int
    """Layers of the decoder."""
    vocab_size: int
    """Text tokens, 256 bytes and special tokens included."""


@dataclass(kw_only=True)
class AugmentConfig:
    """What is done to training clips; the same clip differs from batch to batch."""

    speeds: list[float]
    """Factors of speed, drawn equally often; [1.0] leaves clips alone. Pitch moves with it."""
    noise_share: float
    """Share of the clips that get noise, 0..1."""
    noise_snr_db: list[float]
    """Smallest and largest signal-to-noise ratio, in decibels."""
    time_masks: int
    """SpecAugment: stretches of frames set to the floor, in each clip."""
    time_mask_s: float
    """Longest such stretch, in seconds."""
    mel_masks: int
    """SpecAugment: bands set to the floor, in each clip."""
    mel_mask_bins: int
    """Widest such band, in mel bins."""


@dataclass(kw_only=True)
class SpeechTokenizerConfig:
    """Section speech_tokenizer of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness."""
    start_from: str
    """The Whisper to start from: a hub id, a folder, piece:whisper-base, or random."""
    random_start: RandomStartConfig
    languages: list[str]
    """Languages that are transcribed, ISO 639-1; transcripts in another one are not used."""
    tokens_per_s: float
    """Speech tokens a second: 50, 25, 12.5 or 6.25 (paper: 12.5; the others are its ablation)."""
    num_codes: int
    """Entries of the codebook (published: 16384); should grow as tokens_per_s falls."""
    pooling_position: int
    """Encoder layers before pooling (published: 16 of 32)."""
    quantize_position: int
    """Encoder layers before the quantiser, at least pooling_position (published: 16 of 32)."""
    causal_convolution: bool
    """Whether convolutions see the past only (published: true)."""
    block_s: float | None
    """Seconds of a block: a frame sees the past and its own block (published: 4 s); null: everything."""
    feature_normalization: FeatureNormalization
    """clip: as Whisper; fixed: a constant floor, which makes streaming exact (ours)."""
    feature_floor: float
    """The floor of fixed, in decades of mel power; a guess, not tuned."""
    ema_decay: float
    """Decay of the codebook's moving averages, a pass (published: 0.99)."""
    commit_coefficient: float
    """Weight of the distance of states to their codes (published: 0.25)."""
    commit_scale: float
    """Second factor of the same loss (published: 10)."""
    restart_interval: int
    """Passes between two restarts of dead codes; dead is a count under ema_decay**restart_interval (published: 100)."""
    quantize_from_step: int
    """Optimizer steps before the bottleneck is closed; until then pooling alone is learnt (0 in the paper)."""
    kmeans_frames: int
    """Hidden states of the last steps before that which k-means clusters; at least num_codes."""
    kmeans_iterations: int
    """Rounds of Lloyd's algorithm."""
    kmeans_directions: int
    """Directions of the states that k-means looks along, those that predict the un-quantised Whisper; 0: all."""
    distil_weight: float
    """Weight of the distance to the pooled states of the un-quantised Whisper, ours; 0: transcripts alone."""
    text_from_step: int
    """Optimizer steps before transcripts are learnt as well; until then the distance alone, which needs no decoder."""
    keep_in_memory: bool = field(metadata=FREE)
    """Whether features and the un-quantised Whisper's states are computed once and kept, for corpora of some hours."""
    frozen: list[str]
    """Prefixes of parameter names that do not move, such as encoder.conv1 or decoder.embed_tokens."""
    lr: float
    """Peak learning rate of AdamW (paper: 1e-5 on a batch of 4096)."""
    final_lr: float
    """Learning rate of the last step."""
    warmup_steps: int
    """Optimizer steps to the peak."""
    weight_decay: float
    """Decay of matrices, a step and a unit of learning rate."""
    batch_s: float
    """Seconds of speech in a batch of one process, padding not counted."""
    num_buckets: int
    """Groups of similar duration from which batches are drawn."""
    max_duration_s: float
    """Longest training clip, in seconds; longer ones are dropped and counted."""
    corpus_weights: dict[str, float]
    """Corpus -> how often an epoch shows each of its clips; 1 when not named."""
    pseudo_per_human: float | None
    """Seconds of pseudo-labelled speech for each second of human transcripts (paper: 3); null: all there is."""
    untranscribed: bool
    """Whether speech without a transcript is used as well, for the distance to the un-quantised Whisper."""
    augment: AugmentConfig
    num_loaders: int = field(metadata=FREE)
    """Processes that read audio ahead; 0: the training process itself."""
    checkpoint_activations: bool = field(metadata=FREE)
    """Whether layers are computed again in the backward pass to save memory."""
    num_validation: int
    """Validation clips whose word error rate is watched during training, spread over languages and origins."""
    trainer: TrainerConfig
    launcher: LauncherConfig = field(metadata=FREE)
