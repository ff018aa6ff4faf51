"""How fast do waves become tokens, beside the straightforward way with the same weights, and what is the model's part?

    python -m benchmarks.encode [--size base | large-v3] [--utterances 200] [--dtype float32] [--out encode.json]

Utterances of 1 to 30 s in shuffled order. `plain, N a batch`: Whisper's feature extractor, N utterances a batch in the
order given, padded to the longest, the whole encoder as torch runs it; the public inference code takes 128. `encode`:
the public door, which sorts by length, computes log-mel in torch on the device and runs the layers up to the quantiser.
`model`: those layers alone, features at hand. `same`: share of the tokens that equal those of the first way. Weights
are random, which speed does not feel. Each way runs --repeats times in turn; the table shows medians. From FLAC files:
benchmarks/tokenize.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.shared.audio import WHISPER_RATE_HZ
from components.speech_tokenizer import checkpoint
from components.speech_tokenizer.model import SpeechTokenizer, batches
from components.speech_tokenizer.whisper_config import FRAMES_PER_S, OPTIONAL, WhisperVQConfig
from components.speech_tokenizer.whisper_vq import WhisperVQ

Tokens = list[torch.Tensor]
Rows = list[dict[str, Any]]

SHAPES = {
    "base": {"num_mel_bins": 80, "d_model": 512, "encoder_layers": 6, "heads": 8, "depth": 3},
    "large-v3": {"num_mel_bins": 128, "d_model": 1280, "encoder_layers": 32, "heads": 20, "depth": 16},
}
"""Encoders of Whisper; pooling and quantiser stand in the middle, as in the published configuration."""


def random_network(size: str) -> WhisperVQ:
    """A WhisperVQ in the shape of a Whisper, block-causal, 12.5 tokens a second, with a small decoder."""
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
        }
    )
    network = WhisperVQ(config)
    checkpoint.randomise(network, seed=0)
    return network


def random_tokenizer(size: str, device: torch.device, dtype: torch.dtype) -> SpeechTokenizer:
    """The public door to such a network."""
    return SpeechTokenizer(random_network(size), None, device, dtype)


def make_waves(count: int, seed: int = 0) -> list[torch.Tensor]:
    """Noise of 1 to 30 s: (samples,) float32 each, in shuffled order."""
    rng = np.random.default_rng(seed)
    durations = rng.permutation(np.linspace(1.0, 30.0, count))
    return [
        torch.from_numpy(rng.normal(0, 0.1, int(seconds * WHISPER_RATE_HZ)).astype(np.float32)) for seconds in durations
    ]


def plain(network: WhisperVQ, like: SpeechTokenizer, extractor: Any, waves: list[torch.Tensor], size: int) -> Tokens:
    """The straightforward way with so many utterances a batch, on the device and in the dtype of `like`."""
    kernel, found = 2 * network.config.kernel, []
    for start in range(0, len(waves), size):
        batch = extractor(
            [wave.numpy() for wave in waves[start : start + size]],
            sampling_rate=WHISPER_RATE_HZ,
            padding="longest",
            pad_to_multiple_of=kernel * extractor.hop_length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        features = batch.input_features.to(like.device, like.dtype)
        mask = batch.attention_mask[:, : features.shape[-1]].to(like.device).bool()
        with torch.no_grad():
            _, valid, quantised = network.encoder(features, mask)
        found += [ids[own].cpu() for ids, own in zip(quantised.token_ids, valid, strict=True)]
    return found


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


def measure(
    size: str, like: SpeechTokenizer, waves: list[torch.Tensor], plain_batches: list[int], repeats: int
) -> Rows:
    """One row for each way: median seconds, times real time, tokens a second, tokens equal to the first way's."""
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=like.config.num_mel_bins)
    network = random_network(size).eval().to(device=like.device, dtype=like.dtype)
    ready = prepared(like, waves)
    ways: dict[str, Callable[[], Tokens]] = {
        f"plain, {many} a batch": partial(plain, network, like, extractor, waves, many) for many in plain_batches
    }
    ways["encode"] = lambda: like.encode(waves)
    ways["model"] = lambda: [ids[valid].cpu() for ids, valid in (like.encode_features(*batch) for batch in ready)]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    tokens: dict[str, Tokens] = {}
    like.encode(waves[:4])
    for _ in range(repeats):
        for name, work in ways.items():
            started = time.perf_counter()
            tokens[name] = work()
            seconds[name].append(time.perf_counter() - started)
    audio_s = sum(len(wave) for wave in waves) / WHISPER_RATE_HZ
    rows, first = [], torch.cat(next(iter(tokens.values())))
    for name in ways:
        median, made = statistics.median(seconds[name]), torch.cat(tokens[name])
        row = {"way": name, "seconds": median, "real_time": audio_s / median, "tokens_per_s": len(made) / median}
        rows.append(row | {"same": float((made == first).float().mean()) if name != "model" else None})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SHAPES, default="base")
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--plain-batches", type=int, nargs="+", default=[16, 128], metavar="N")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = random_tokenizer(options.size, device, getattr(torch, options.dtype))
    waves = make_waves(options.utterances)
    rows = measure(options.size, tokenizer, waves, options.plain_batches, options.repeats)
    audio_s = sum(len(wave) for wave in waves) / WHISPER_RATE_HZ
    print(f"whisper-{options.size}, {len(waves)} utterances, {audio_s / 60:.1f} minutes, {options.dtype}, {device}")
    print(f"{'way':20s}{'seconds':>10s}{'times real time':>18s}{'tokens/s':>12s}{'beside first':>14s}{'same':>9s}")
    for row in rows:
        ratio, same = rows[0]["seconds"] / row["seconds"], row["same"]
        print(
            f"{row['way']:20s}{row['seconds']:10.2f}{row['real_time']:18.0f}{row['tokens_per_s']:12.0f}{ratio:13.2f}x"
            + (f"{same:9.2%}" if same is not None else "")
        )
    if options.out:
        what = {"size": options.size, "dtype": options.dtype, "device": str(device), "threads": options.threads}
        options.out.write_text(json.dumps({**what, "audio_s": audio_s, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
