"""A block-causal speech tokenizer that runs in milliseconds, and sound for it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from components.speech_tokenizer import checkpoint
from components.speech_tokenizer.model import SpeechTokenizer
from components.speech_tokenizer.whisper_config import OPTIONAL, WhisperVQConfig
from components.speech_tokenizer.whisper_vq import WhisperVQ


def small_config(**changes: object) -> WhisperVQConfig:
    """A block-causal tokenizer with blocks of 0.4 s and a position table of 2 s that runs in milliseconds."""
    values = OPTIONAL | {
        "num_mel_bins": 16,
        "d_model": 32,
        "encoder_layers": 3,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 48,
        "decoder_layers": 1,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 48,
        "vocab_size": 300,
        "max_source_positions": 100,
        "max_target_positions": 40,
        "decoder_start_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "encoder_causal_convolution": True,
        "quantize_causal_block_size": 20,
        "pooling_kernel_size": 4,
        "pooling_type": "avg",
        "pooling_position": 1,
        "quantize_position": 2,
        "quantize_vocab_size": 24,
        "quantize_ema_decay": 0.9,
        "quantize_commit_coefficient": 0.25,
        "quantize_loss_scale": 10.0,
        "quantize_restart_interval": 5,
        "feature_normalization": "fixed",
        "feature_floor": -6.0,
    }
    return WhisperVQConfig(**(values | changes))


def small_tokenizer(device: str = "cpu", dtype: torch.dtype = torch.float32, **changes: object) -> SpeechTokenizer:
    """Random weights, large enough that tokens differ along a clip."""
    network = WhisperVQ(small_config(**changes))
    checkpoint.randomise(network, seed=3)
    generator = torch.Generator().manual_seed(5)
    for name, value in network.state_dict().items():
        if "weight" in name and value.dim() > 1 and "embed" not in name:
            value.copy_(torch.empty_like(value).normal_(0.0, 0.2, generator=generator))
    return SpeechTokenizer(network, None, torch.device(device), dtype)


def noise(duration_s: float, seed: int, loud_at_the_end: bool = False) -> Tensor:
    """Noise whose loudness and colour change along the clip."""
    rng = np.random.default_rng(seed)
    samples = max(1, int(duration_s * 16_000))
    time_s = np.arange(samples) / 16_000
    wave = rng.normal(0, 0.05, samples) * (0.3 + np.abs(np.sin(2 * time_s + seed)))
    wave += 0.1 * np.sin(2 * np.pi * (200 + 150 * np.sin(time_s)) * time_s)
    if loud_at_the_end:
        wave[-16_000:] *= 8
    return torch.from_numpy(np.clip(wave, -1, 1).astype(np.float32))
