"""Settings of the speech_decoder stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from components.shared.identity import FREE
from components.shared.lm_config import OptimizerKind
from components.shared.training_config import TrainerConfig


@dataclass(kw_only=True)
class EncoderConfig:
    """Shape of the token encoder."""

    hidden_size: int
    """Channels between its blocks; published: 512."""
    num_heads: int
    """Attention heads; published: 8."""
    feed_forward_size: int
    """Channels inside a feed-forward part; published: 2048."""
    num_blocks: int
    """Attention blocks; published: 6."""
    block_size: int
    """Tokens that see each other and all before them; published: 10, which is 0.8 s; 0: everything."""
    dropout: float
    """Share of hidden values dropped in training; published: 0.1."""
    attention_dropout: float
    """Share of attention weights dropped in training; published: 0.1."""


@dataclass(kw_only=True)
class UNetConfig:
    """Shape of the velocity network."""

    channels: list[int]
    """Channels of each level, each half as long as the one before; multiples of 8; published: [256, 256]."""
    num_blocks: int
    """Transformer blocks after each ResNet block; published: 4."""
    num_mid_blocks: int
    """Blocks at the lowest level; published: 12."""
    num_heads: int
    """Attention heads; published: 8."""
    head_size: int
    """Channels of a head; published: 64."""
    dropout: float
    """Share of transformer outputs dropped in training; published: 0."""


@dataclass(kw_only=True)
class ShapeConfig:
    """Shape of the flow: what config.json of a saved decoder keeps, with the number of codes."""

    token_size: int
    """Channels of a token's embedding; published: 512."""
    num_regulator_layers: int
    """Convolutions of the length regulator after stretching tokens to frames; published: 4."""
    causal_blocks: int
    """Causal variant: blocks of tokens that attention sees, a token's own and those before; convolutions then look back
    alone and norms at one frame. 0: as published, all frames see each other. Ours, for training from scratch."""
    encoder: EncoderConfig
    unet: UNetConfig


@dataclass(kw_only=True)
class SamplerConfig:
    """How a mel is drawn from the flow."""

    num_steps: int
    """Euler steps from noise to mel; published: 10."""
    guidance: float
    """Classifier-free guidance: velocity = (1 + g) with content - g without; published: 0.7."""


@dataclass(kw_only=True)
class GriffinLimConfig:
    """The tiny scale's vocoder: phases that agree with the magnitudes (Perraudin et al. 2013)."""

    num_iterations: int
    """Rounds of inverse and forward short-time Fourier transform."""
    momentum: float
    """How far a round runs ahead of the last one, 0..1; 0.99 in the paper of the fast variant."""


@dataclass(kw_only=True)
class StreamConfig:
    """Decoding block by block."""

    history_blocks: int
    """Blocks already decoded that condition the next one as its prompt; bounds the cost of a block."""


@dataclass(kw_only=True)
class ObjectiveConfig:
    """What the flow is trained on."""

    sigma_min: float
    """Noise left at the end of the path; published: 1e-6."""
    drop_share: float
    """Share of samples that lose content, speaker and prompt together, for guidance; published: 0.2."""
    prompt_share: float
    """Share of samples that see a prefix of their own mel as prompt; published: 0.5."""
    max_prompt: float
    """Longest prompt as a share of the sample's frames; published: 0.8."""
    prior_weight: float
    """Weight of (content - mel) squared, which ties the content channels to the mean mel; ours, after the prior loss
    of Matcha-TTS; 0 trains as published."""


@dataclass(kw_only=True)
class PhaseConfig:
    """One phase of the training; later phases go on from the weights of earlier ones."""

    name: str
    """Name of its curves."""
    num_speakers: int
    """Speakers with the most speech to train on; 0: all; the paper's second phase has 1."""
    flow: bool
    """Train the velocity network; without it the prior loss alone trains the token side, ten times cheaper a step."""
    block_prompts: bool
    """Train on what a stream decodes at once: rows of whole blocks of the encoder, at most its history and one, with
    prompts that end where a block does (the paper's second phase)."""
    peak_lr: float
    """Learning rate after warm-up."""
    final_lr: float
    """Learning rate of the last step; linear in between."""
    warmup_steps: int
    """Steps of linear warm-up."""
    frames_per_batch: int
    """Mel frames in a batch; shorter crops make larger batches."""
    trainer: TrainerConfig


class Origin(Enum):
    """Which utterances are trained on; the names are those of the contract."""

    recorded = "recorded"
    synthesized = "synthesized"


@dataclass(kw_only=True)
class DataConfig:
    """Which pairs of tokens and audio are trained on."""

    languages: list[str]
    """ISO 639-1 codes."""
    origins: list[Origin]
    """Recorded speech is noisy; a decoder of synthesised voices alone sounds clean sooner."""
    max_hours: float
    """Audio used, evenly over the speakers; 0: all."""
    max_crop_s: float
    """Longest piece of an utterance in a batch, seconds; 0: whole utterances."""
    min_crop_s: float
    """Utterances shorter than this are dropped, seconds."""
    keep_mels: bool
    """Keep every mel in memory after the first use; wants 100 MB an hour of audio."""
    num_workers: int = field(metadata=FREE)
    """Processes that read audio; 0: the stage's own."""
    num_validation: int
    """Utterances of the validation split that the losses are measured on."""
    num_spoken: int
    """Validation utterances that are decoded to waves for the tracker and, when judged, for the word error rate."""


class VocoderKind(Enum):
    """What turns mel into wave."""

    griffin_lim = "griffin_lim"
    """No training: phases that agree with the magnitudes."""
    hift = "hift"
    """The published network, trained here as a GAN."""


@dataclass(kw_only=True)
class HiftShapeConfig:
    """Shape of HiFT where it may differ from the published one."""

    base_channels: int
    """Channels after its first convolution, a multiple of 4, halved at each of two levels; published: 512."""
    pitch_channels: int
    """Channels of the pitch predictor; published: 512."""
    kernels: list[int]
    """Widths of the parallel residual blocks of each level, odd; published: [3, 7, 11]."""


@dataclass(kw_only=True)
class DiscriminatorConfig:
    """The networks that tell recorded waves from made ones."""

    periods: list[int]
    """Samples between neighbours of a column, one discriminator each; published: [2, 3, 5, 7, 11] (HiFi-GAN)."""
    resolutions: list[list[int]]
    """FFT size, hop and window in samples, one discriminator each; published: three (UnivNet, CosyVoice)."""
    period_channels: list[int]
    """Channels of the convolutions over a period's columns; published: [32, 128, 512, 1024, 1024]."""
    resolution_channels: int
    """Channels over a spectrogram; published: 32."""


@dataclass(kw_only=True)
class VocoderLossConfig:
    """What the generator's losses weigh."""

    mel_weight: float
    """L1 of the log mel, natural log; HiFi-GAN and CosyVoice: 45."""
    feature_weight: float
    """L1 of what the discriminators' layers make of both waves; HiFi-GAN and CosyVoice: 2."""
    adversarial_weight: float
    """Least squares of the discriminators' verdicts; published: 1."""
    pitch_weight: float
    """L1 of the predicted pitch in Hz; CosyVoice: 1."""
    spectral_weight: float
    """Log magnitudes and convergence at the discriminators' resolutions (Parallel WaveGAN); ours, published: 0."""
    relativistic_weight: float
    """Truncated pointwise relativistic loss of both sides (TPRLS of HiFTNet); CosyVoice: 1."""
    relativistic_limit: float
    """Where it is cut, in verdicts squared; HiFTNet and CosyVoice: 0.04."""


@dataclass(kw_only=True)
class VocoderConfig:
    """The vocoder and, for HiFT, its training: crops of recorded waves from their own mel."""

    kind: VocoderKind
    """griffin_lim trains nothing and leaves the rest unread."""
    shape: HiftShapeConfig
    discriminators: DiscriminatorConfig
    losses: VocoderLossConfig
    num_speakers: int
    """Speakers with the most speech to train on; 0: all."""
    crop_frames: int
    """Mel frames of a row, 256 samples each; HiFi-GAN: 32; CosyVoice: 96."""
    rows_per_batch: int
    """Crops in a batch; HiFi-GAN: 16."""
    discriminators_from_step: int
    """Until then the mel, spectral and pitch losses train alone, which costs a third a step; published: 0."""
    reference_pitch_until_step: int
    """Until then the source sings the recording's pitch, while the predictor learns; published: 0."""
    optimizer: OptimizerKind
    """Of HiFT: adamw, as published, or muon for its kernels; discriminators have AdamW."""
    generator_lr: float
    """Learning rate of HiFT after warm-up; HiFi-GAN and CosyVoice: 2e-4."""
    discriminator_lr: float
    """The same of the discriminators; 2e-4."""
    final_lr_share: float
    """Learning rates of the last step over those after warm-up; linear in between."""
    warmup_steps: int
    """Steps of linear warm-up."""
    betas: list[float]
    """AdamW's two decay rates; HiFi-GAN: [0.8, 0.99]."""
    weight_decay: float
    """AdamW's decoupled weight decay; 0.01 as PyTorch's default in HiFi-GAN."""
    ema_decay: float
    """Decay of the average of HiFT's weights that is saved, warmed up over the first steps; 0: the weights themselves,
    as published."""
    keep_waves: bool
    """Keep every wave and its pitch in memory after the first use; wants 170 MB an hour of audio."""
    num_validation: int
    """Utterances of the validation split that are vocoded whole for the losses."""
    trainer: TrainerConfig


@dataclass(kw_only=True)
class VoicesConfig:
    """Where the speaker vectors that the flow is conditioned on come from."""

    source: str
    """CAM++ that hears them in recordings (piece:campplus or a file); empty: a vector a speaker is learned instead,
    which knows no other voice. The fallback, too, where the piece cannot be had."""
    num_utterances: int
    """Utterances of a speaker whose vectors' mean is the speaker's."""


@dataclass(kw_only=True)
class HearingConfig:
    """When decoded validation speech is heard during training, and what ends a run that stays unintelligible."""

    every_steps: int = field(metadata=FREE)
    """Optimizer steps between two hearings; 0: none."""
    num_sentences: int = field(metadata=FREE)
    """Validation utterances a hearing."""
    patience: int = field(metadata=FREE)
    """Hearings in a row without a fall of the word error rate after which the run ends."""
    least_fall: float = field(metadata=FREE)
    """Share of the best rate so far by which a rate must be lower to count as a fall."""
    enough: float = field(metadata=FREE)
    """Word error rate from which on it need not fall any more."""


@dataclass(kw_only=True)
class SpeechDecoderConfig:
    """Section speech_decoder of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness."""
    compatible: bool
    """Add the attention mask to the scores as released weights expect; false masks padding for real."""
    code_start: bool
    """Begin token embeddings as the vectors of the tokenizer's codes (start.py); ours; false: random."""
    straight_start: bool
    """Begin with the velocity that leads straight from the noisy mel to the content (start.py); ours."""
    objective: ObjectiveConfig
    sampler: SamplerConfig
    griffin_lim: GriffinLimConfig
    stream: StreamConfig
    optimizer: OptimizerKind
    """adamw, as published, or muon for matrices and kernels of convolutions, which needs a fraction of the steps."""
    weight_decay: float
    """Decoupled weight decay."""
    betas: list[float]
    """AdamW's two decay rates."""
    ema_decay: float
    """Decay of the average of the weights that is saved; warmed up over the first steps."""
    voices: VoicesConfig
    judge: str
    """Whisper that transcribes decoded validation speech (hub id, folder or piece:name); empty: no word error rate."""
    hearing: HearingConfig
    shape: ShapeConfig
    data: DataConfig
    phases: list[PhaseConfig]
    vocoder: VocoderConfig
