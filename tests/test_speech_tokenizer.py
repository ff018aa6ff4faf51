"""The speech tokenizer: published numbers, the quantiser against plain references, the public door."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.shared.features import log_mel
from components.speech_tokenizer import checkpoint
from components.speech_tokenizer.model import SpeechTokenizer, load
from components.speech_tokenizer.quantizer import code_use, kmeans, nearest_codes, restart_dead_codes
from components.speech_tokenizer.transcripts import train_tokenizer
from components.speech_tokenizer.whisper_config import OPTIONAL, WhisperVQConfig
from components.speech_tokenizer.whisper_vq import WhisperVQ

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "speech_tokenizer"
CASES = ("12.5hz_block_causal", "12.5hz_bidirectional", "6.25hz_block_causal", "25hz_block_causal", "50hz_no_pooling")


@pytest.fixture(params=CASES)
def golden(request: pytest.FixtureRequest) -> tuple[Path, dict[str, Tensor]]:
    """One published case: its folder, its inputs and outputs."""
    folder = GOLDEN / request.param
    if not folder.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{folder}: not there, and CI=true wants it")
        pytest.skip(f"{folder}: the golden cases are not on this machine")
    return folder, load_file(folder / "io.safetensors")


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


def small_tokenizer(**changes: object) -> SpeechTokenizer:
    """Random weights, large enough that tokens differ along a clip."""
    network = WhisperVQ(small_config(**changes))
    checkpoint.randomise(network, seed=3)
    generator = torch.Generator().manual_seed(5)
    for name, value in network.state_dict().items():
        if "weight" in name and value.dim() > 1 and "embed" not in name:
            value.copy_(torch.empty_like(value).normal_(0.0, 0.2, generator=generator))
    return SpeechTokenizer(network, None, torch.device("cpu"), torch.float32)


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


# --- the published numbers


def test_encoding_and_logits_equal_the_published_code(golden: tuple[Path, dict[str, Tensor]]) -> None:
    folder, io = golden
    tokenizer = load(folder)
    ids, valid = tokenizer.encode_features(io["input_features"], io["attention_mask"])
    assert ids.shape == io["token_ids"].shape
    assert torch.equal(ids[valid], io["token_ids"][valid])
    with torch.no_grad():
        states, valid, _ = tokenizer.network.encoder(io["input_features"], io["attention_mask"])
        logits = tokenizer.network.logits(states, valid, io["decoder_input_ids"])
    torch.testing.assert_close(states[valid], io["encoder_last_hidden_state"][valid], atol=1e-4, rtol=0)
    torch.testing.assert_close(logits, io["decoder_logits"], atol=1e-4, rtol=0)


def test_training_passes_equal_the_published_code(golden: tuple[Path, dict[str, Tensor]]) -> None:
    folder, io = golden
    network = load(folder).network.train()
    config, encoder = network.config, network.encoder
    for number in range(3):
        _, valid, quantised = encoder(io[f"train{number}_input_features"], io["attention_mask"])
        loss = config.quantize_loss_scale * config.quantize_commit_coefficient * quantised.commitment
        assert torch.equal(quantised.token_ids[valid], io[f"train{number}_token_ids"][valid])
        torch.testing.assert_close(loss[None], io[f"train{number}_quantize_loss"], atol=1e-4, rtol=0)
        for name, value in (
            ("ema_count", encoder.ema_count),
            ("ema_weight", encoder.ema_weight),
            ("codebook", encoder.codebook.weight.detach()),
        ):
            torch.testing.assert_close(value, io[f"train{number}_{name}"], atol=1e-4, rtol=0)


def test_a_load_for_encoding_drops_what_lies_behind_the_quantiser(golden: tuple[Path, dict[str, Tensor]]) -> None:
    folder, io = golden
    tokenizer = load(folder, encoder_only=True)
    assert len(tokenizer.network.encoder.layers) == tokenizer.config.quantize_position
    ids, valid = tokenizer.encode_features(io["input_features"], io["attention_mask"])
    assert torch.equal(ids[valid], io["token_ids"][valid])
    with pytest.raises(ValueError, match="up to the quantiser"):
        tokenizer._transcribe([ids[0]], None) if tokenizer.folder is None else tokenizer.network.encoder.after(
            torch.zeros(1, 2, tokenizer.config.d_model), torch.ones(1, 2, dtype=torch.bool)
        )
