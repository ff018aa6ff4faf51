"""What training starts from: a Whisper (hub id, folder or pinned piece), or random weights, said loudly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from tokenizers import Tokenizer

from components.shared.assets import load_whisper
from components.shared.contracts import Utterance
from components.shared.tracking import Tracker
from components.speech_tokenizer import checkpoint
from components.speech_tokenizer.config import SpeechTokenizerConfig
from components.speech_tokenizer.transcripts import END, START, train_tokenizer
from components.speech_tokenizer.whisper_config import HIDDEN_PER_S, OPTIONAL, WhisperVQConfig
from components.speech_tokenizer.whisper_vq import Encoder, WhisperVQ

RANDOM = "random"
MEL_BINS, SOURCE_POSITIONS, TARGET_POSITIONS = 80, 1500, 448
"""Of a random start: those of Whisper up to large-v2 (30 s of sound)."""

KEPT = (
    "num_mel_bins",
    "d_model",
    "encoder_layers",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "decoder_layers",
    "decoder_attention_heads",
    "decoder_ffn_dim",
    "vocab_size",
    "max_source_positions",
    "max_target_positions",
    "decoder_start_token_id",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "dropout",
    "attention_dropout",
    "activation_dropout",
)
"""Fields that a WhisperVQ takes from the Whisper it starts from."""


@dataclass
class Start:
    """A WhisperVQ before its first step."""

    network: WhisperVQ
    teacher: Encoder | None
    """The encoder of the Whisper it came from, un-quantised; None at a random start."""
    tokenizer: Tokenizer
    """Of text."""
    is_random: bool
    is_fallback: bool
    """Random because the Whisper asked for could not be had."""


def make_start(config: SpeechTokenizerConfig, rows: Iterable[Utterance], tracker: Tracker) -> Start:
    """Weights, text tokenizer and teacher as config.start_from says.

    A Whisper that cannot be had now is replaced by random weights; a wrong name or a broken folder is a ValueError.
    """
    if config.start_from != RANDOM:
        try:
            return _from_whisper(config, *load_whisper(config.start_from))
        except ConnectionError as error:
            tracker.say(f"speech_tokenizer: WARNING: {error}")
    tracker.say(
        "speech_tokenizer: WARNING: RANDOM START, no Whisper. It learns to transcribe only with thousands of hours; "
        "word error rates of a small run say nothing about the method"
    )
    return _from_nothing(config, rows, is_fallback=config.start_from != RANDOM)


def _from_whisper(config: SpeechTokenizerConfig, whisper: Any, processor: Any) -> Start:
    shape, generation = whisper.config, whisper.generation_config
    own = {name: getattr(shape, name) for name in KEPT}
    own["suppress_tokens"] = list(generation.suppress_tokens or []) or None
    own["begin_suppress_tokens"] = list(generation.begin_suppress_tokens or []) or None
    vq = _with_bottleneck(own, config)
    teacher = WhisperVQ(_without_bottleneck(vq))
    checkpoint.fill(teacher, whisper.state_dict(), config.start_from)
    network = checkpoint.from_whisper(whisper, vq)
    return Start(network, teacher.encoder, processor.tokenizer.backend_tokenizer, False, False)


def _from_nothing(config: SpeechTokenizerConfig, rows: Iterable[Utterance], is_fallback: bool) -> Start:
    shape = config.random_start
    texts = [row.text for row in rows if row.text and row.split == "train"]
    tokenizer = train_tokenizer(texts, config.languages, shape.vocab_size)
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    own = {
        "num_mel_bins": MEL_BINS,
        "d_model": shape.width,
        "encoder_layers": shape.encoder_layers,
        "encoder_attention_heads": shape.heads,
        "encoder_ffn_dim": shape.inner,
        "decoder_layers": shape.decoder_layers,
        "decoder_attention_heads": shape.heads,
        "decoder_ffn_dim": shape.inner,
        "vocab_size": tokenizer.get_vocab_size(),
        "max_source_positions": SOURCE_POSITIONS,
        "max_target_positions": TARGET_POSITIONS,
        "decoder_start_token_id": start,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    network = WhisperVQ(_with_bottleneck(own, config))
    checkpoint.randomise(network, config.seed)
    return Start(network, None, tokenizer, True, is_fallback)


def _with_bottleneck(own: dict[str, Any], config: SpeechTokenizerConfig) -> WhisperVQConfig:
    """The published fields for a Whisper's shape and our settings. Raises ValueError when they cannot work."""
    kernel = round(HIDDEN_PER_S / config.tokens_per_s)
    if kernel < 1 or abs(HIDDEN_PER_S / kernel - config.tokens_per_s) > 1e-6:
        raise ValueError(f"speech_tokenizer.tokens_per_s: got {config.tokens_per_s}, wanted 50, 25, 12.5 or 6.25")
    if config.kmeans_frames < config.num_codes:
        raise ValueError(
            f"speech_tokenizer.kmeans_frames: got {config.kmeans_frames}, wanted at least num_codes={config.num_codes}"
        )
    block = None if config.block_s is None else round(config.block_s * HIDDEN_PER_S / kernel) * kernel
    bottleneck = {
        "encoder_causal_convolution": config.causal_convolution,
        "quantize_causal_block_size": block,
        "pooling_kernel_size": kernel if kernel > 1 else None,
        "pooling_type": "avg",
        "pooling_position": config.pooling_position,
        "quantize_position": config.quantize_position,
        "quantize_vocab_size": config.num_codes,
        "quantize_ema_decay": config.ema_decay,
        "quantize_commit_coefficient": config.commit_coefficient,
        "quantize_loss_scale": config.commit_scale,
        "quantize_restart_interval": config.restart_interval,
        "feature_normalization": config.feature_normalization.value,
        "feature_floor": config.feature_floor,
        "languages": list(config.languages),
    }
    try:
        return WhisperVQConfig(**(OPTIONAL | own | bottleneck))
    except ValueError as error:
        raise ValueError(f"speech_tokenizer: {error}") from error


def _without_bottleneck(config: WhisperVQConfig) -> WhisperVQConfig:
    """The plain Whisper of the same size."""
    return replace(
        config,
        encoder_causal_convolution=False,
        quantize_causal_block_size=None,
        pooling_kernel_size=None,
        quantize_vocab_size=None,
    )
