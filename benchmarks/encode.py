"""How fast do waves become tokens, beside the straightforward way with the same weights, and what is the model's part?

    python -m benchmarks.encode [--size base | large-v3] [--utterances 200] [--dtype float32] [--out encode.json]

Utterances of 1 to 30 s in shuffled order. `plain`: Whisper's feature extractor, batches in the order given, padded to
the longest, the whole encoder. `encode`: the public door, which sorts by length, computes log-mel in torch on the
device and runs the layers up to the quantiser. `model`: those layers alone, features at hand. Weights are random, which
speed does not feel. Each way runs --repeats times in turn; the table shows medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.shared.audio import WHISPER_RATE_HZ
from components.speech_tokenizer import checkpoint
from components.speech_tokenizer.model import BATCH_S, SpeechTokenizer, batches
from components.speech_tokenizer.whisper_config import FRAMES_PER_S, OPTIONAL, WhisperVQConfig
from components.speech_tokenizer.whisper_vq import WhisperVQ

SHAPES = {
    "base": {"num_mel_bins": 80, "d_model": 512, "encoder_layers": 6, "heads": 8, "depth": 3},
    "large-v3": {"num_mel_bins": 128, "d_model": 1280, "encoder_layers": 32, "heads": 20, "depth": 16},
}
"""Encoders of Whisper; pooling and quantiser stand in the middle, as in the published configuration."""


def random_tokenizer(size: str, device: torch.device, dtype: torch.dtype) -> SpeechTokenizer:
    """A speech tokenizer in the shape of a Whisper, block-causal, 12.5 tokens a second, with a small decoder."""
    shape = SHAPES[size]
    config = WhisperVQConfig(
        **OPTIONAL
        | {
            "num_mel_bins": shape["num_mel_bins"],
            "d_model": shape["d_model"],
            "encoder_layers": shape["encoder_layers"],
            "encoder_attention_heads": shape["heads"],
            "encoder_ffn_dim": 4 * shape["d_model"],
            "decoder_layers": 1,
            "decoder_attention_heads": shape["heads"],
            "decoder_ffn_dim": 64,
            "vocab_size": 300,
            "max_source_positions": 1500,
            "max_target_positions": 40,
            "decoder_start_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "pad_token_id": 0,
            "encoder_causal_convolution": True,
            "quantize_causal_block_size": 200,
            "pooling_kernel_size": 4,
            "pooling_type": "avg",
            "pooling_position": shape["depth"],
            "quantize_position": shape["depth"],
            "quantize_vocab_size": 16384,
            "quantize_ema_decay": 0.99,
            "quantize_commit_coefficient": 0.25,
            "quantize_loss_scale": 10.0,
            "quantize_restart_interval": 100,
            "feature_normalization": "fixed",
            "feature_floor": -6.5,
        }
    )
    network = WhisperVQ(config)
    checkpoint.randomise(network, seed=0)
    return SpeechTokenizer(network, None, device, dtype)


def make_waves(count: int, seed: int = 0) -> list[torch.Tensor]:
    """Noise of 1 to 30 s: (samples,) float32 each, in shuffled order."""
    rng = np.random.default_rng(seed)
    durations = rng.permutation(np.linspace(1.0, 30.0, count))
    return [
        torch.from_numpy(rng.normal(0, 0.1, int(seconds * WHISPER_RATE_HZ)).astype(np.float32)) for seconds in durations
    ]


def plain(tokenizer: SpeechTokenizer, extractor: Any, waves: list[torch.Tensor]) -> int:
    """The straightforward way, as many seconds a batch as `encode` takes; returns the number of tokens."""
    mean_s = sum(len(wave) for wave in waves) / len(waves) / WHISPER_RATE_HZ
    size, kernel, made = max(1, int(BATCH_S / mean_s)), 2 * tokenizer.config.kernel, 0
    for start in range(0, len(waves), size):
        batch = [wave.numpy() for wave in waves[start : start + size]]
        found = extractor(
            batch,
            sampling_rate=WHISPER_RATE_HZ,
            padding="longest",
            pad_to_multiple_of=kernel * extractor.hop_length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        features = found.input_features.to(tokenizer.device, tokenizer.dtype)
        mask = found.attention_mask[:, : features.shape[-1]].to(tokenizer.device).bool()
        with torch.no_grad():
            _, valid, _ = tokenizer.network.encoder(features, mask)
        made += int(valid.sum())
    return made


def prepared(tokenizer: SpeechTokenizer, waves: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Random features and masks in the batches of `encode`, on the device."""
    found = []
    for places in batches([len(wave) / WHISPER_RATE_HZ for wave in waves]):
        frames = torch.tensor([len(waves[place]) * FRAMES_PER_S // WHISPER_RATE_HZ for place in places])
        length = -(-int(frames.max()) // (2 * tokenizer.config.kernel)) * 2 * tokenizer.config.kernel
        features = torch.randn(len(places), tokenizer.config.num_mel_bins, min(length, 3000))
        mask = torch.arange(features.shape[-1])[None, :] < frames[:, None]
        found.append((features.to(tokenizer.device, tokenizer.dtype), mask.to(tokenizer.device)))
    return found


def measure(tokenizer: SpeechTokenizer, waves: list[torch.Tensor], repeats: int) -> list[dict[str, Any]]:
    """One row for each way: median seconds, times real time, tokens a second."""
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=tokenizer.config.num_mel_bins)
    ready = prepared(tokenizer, waves)
    ways: dict[str, Callable[[], int]] = {
        "plain": lambda: plain(tokenizer, extractor, waves),
        "encode": lambda: sum(len(tokens) for tokens in tokenizer.encode(waves)),
        "model": lambda: sum(int(tokenizer.encode_features(*batch)[1].sum()) for batch in ready),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    tokens: dict[str, int] = {}
    tokenizer.encode(waves[:4])
    for _ in range(repeats):
        for name, work in ways.items():
            started = time.perf_counter()
            tokens[name] = work()
            if tokenizer.device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    audio_s = sum(len(wave) for wave in waves) / WHISPER_RATE_HZ
    rows = []
    for name in ways:
        median = statistics.median(seconds[name])
        rows.append(
            {"way": name, "seconds": median, "real_time": audio_s / median, "tokens_per_s": tokens[name] / median}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SHAPES, default="base")
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = random_tokenizer(options.size, device, getattr(torch, options.dtype))
    waves = make_waves(options.utterances)
    rows = measure(tokenizer, waves, options.repeats)
    audio_s = sum(len(wave) for wave in waves) / WHISPER_RATE_HZ
    print(f"whisper-{options.size}, {len(waves)} utterances, {audio_s / 60:.1f} minutes, {options.dtype}, {device}")
    print(f"{'way':8s}{'seconds':>10s}{'times real time':>18s}{'tokens/s':>12s}{'beside plain':>15s}")
    for row in rows:
        ratio = rows[0]["seconds"] / row["seconds"]
        print(f"{row['way']:8s}{row['seconds']:10.2f}{row['real_time']:18.0f}{row['tokens_per_s']:12.0f}{ratio:14.2f}x")
    if options.out:
        what = {"size": options.size, "dtype": options.dtype, "device": str(device), "threads": options.threads}
        options.out.write_text(json.dumps({**what, "audio_s": audio_s, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
