"""Does a stream give the tokens of offline encoding, what does it cost a block, and how soon are they there?

    python -m benchmarks.stream [--model data/speech_tokenizer/model] [--utterances data/collect/utterances]
                                [--split validation] [--clips 12] [--out stream.json]

Clips of several lengths are joined from utterances of one split, as they were recorded and with the last second four
times as loud. `fixed` and `clip` are the two ways to cut features off: with `clip` (released weights) a stream knows
only the maximum so far, so that its tokens may differ from offline ones; how many do, and what it costs in word error
rate, is what the table tells. `block_ms`: time of the push that completes a block of the longest clip, early and late.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.shared.audio import WHISPER_RATE_HZ, read_wave
from components.shared.contracts import Utterance
from components.shared.manifest import inside, read_table
from components.shared.recognizer import word_error_rate
from components.speech_tokenizer.model import SpeechTokenizer, load

LENGTHS_S = (3.0, 8.0, 20.0, 60.0)
CHUNK = WHISPER_RATE_HZ // 10
"""Samples of one push: 0.1 s."""
LOUDER = 4.0
NORMALIZATIONS = ("fixed", "clip")


def join(utterances: Path, split: str, length_s: float, clips: int) -> list[tuple[Tensor, str]]:
    """(wave, text) of clips of about the length, each of consecutive English utterances of one corpus."""
    rows = [
        row for row in read_table(utterances, Utterance) if row.split == split and row.language == "en" and row.text
    ]
    rows.sort(key=lambda row: (row.origin, row.corpus, row.speaker, row.id))
    joined: list[tuple[Tensor, str]] = []
    for _, group in itertools.groupby(rows, key=lambda row: (row.origin, row.corpus, row.speaker)):
        waves: list[np.ndarray] = []
        texts: list[str] = []
        for row in group:
            waves.append(read_wave(inside(utterances, row.audio), WHISPER_RATE_HZ)[0])
            texts.append(row.text or "")
            if sum(map(len, waves)) >= length_s * WHISPER_RATE_HZ:
                joined.append((torch.from_numpy(np.concatenate(waves)), " ".join(texts)))
                waves, texts = [], []
    if not joined:
        raise ValueError(f"{utterances}: no corpus of split {split} holds {length_s} s of one English speaker")
    return joined[:: max(1, len(joined) // clips)][:clips]


def stream(tokenizer: SpeechTokenizer, wave: Tensor) -> tuple[Tensor, list[float]]:
    """All tokens of a stream, and the seconds of each push that gave some."""
    encoder, tokens, seconds = tokenizer.stream(), [], []
    for chunk in wave.split(CHUNK):
        started = time.perf_counter()
        tokens.append(encoder.push(chunk))
        if len(tokens[-1]):
            seconds.append(time.perf_counter() - started)
    return torch.cat([*tokens, encoder.finish()]), seconds


def loud_at_the_end(wave: Tensor) -> Tensor:
    """The wave with its last second louder, nothing clipped."""
    wave = wave / (LOUDER * wave.abs().max())
    return torch.cat([wave[:-WHISPER_RATE_HZ], LOUDER * wave[-WHISPER_RATE_HZ:]])


def measure(tokenizer: SpeechTokenizer, clips: list[tuple[Tensor, str]], is_loud: bool) -> dict[str, Any]:
    """Agreement of stream and offline, and the word error rate of both."""
    waves = [loud_at_the_end(wave) if is_loud else wave for wave, _ in clips]
    streamed = [stream(tokenizer, wave) for wave in waves]
    offline = tokenizer.encode(waves)
    same = sum(int((a == b).sum()) for (a, _), b in zip(streamed, offline, strict=True))
    texts, languages = [text for _, text in clips], ["en"] * len(clips)
    heard = tokenizer.transcribe([tokens for tokens, _ in streamed], languages)
    beside = tokenizer.transcribe(offline, languages)
    seconds = streamed[-1][1]
    return {
        "clips": len(waves),
        "seconds": sum(map(len, waves)) / WHISPER_RATE_HZ / len(waves),
        "tokens": sum(map(len, offline)),
        "agreement": same / sum(map(len, offline)),
        "wer_stream": word_error_rate(texts, heard, "en").rate,
        "wer_offline": word_error_rate(texts, beside, "en").rate,
        "block_ms": [1000 * statistics.median(part) for part in (seconds[:2], seconds[-2:]) if part],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("data/speech_tokenizer/model"))
    parser.add_argument("--utterances", type=Path, default=Path("data/collect/utterances"))
    parser.add_argument("--split", choices=("train", "validation", "test"), default="validation")
    parser.add_argument("--clips", type=int, default=12, help="clips of each length")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = load(options.model, "cuda" if torch.cuda.is_available() else "cpu")
    columns = f"{'features':9s}{'clips':>6s}{'clip s':>7s}{'loudest':>9s}{'tokens':>8s}{'equal':>8s}"
    print(f"{columns}{'WER stream':>12s}{'offline':>9s}  ms a block")
    rows = []
    for normalization, length_s, is_loud in itertools.product(NORMALIZATIONS, LENGTHS_S, (False, True)):
        config = replace(tokenizer.config, feature_normalization=normalization)
        tokenizer.config = tokenizer.network.config = config
        found = measure(tokenizer, join(options.utterances, options.split, length_s, options.clips), is_loud)
        where = "last" if is_loud else "anywhere"
        rows.append({"features": normalization, "loudest": where, **found})
        blocks = ", ".join(f"{milliseconds:.0f}" for milliseconds in found["block_ms"])
        print(
            f"{normalization:9s}{found['clips']:6d}{found['seconds']:7.1f}{where:>9s}{found['tokens']:8d}{found['agreement']:8.1%}"
            f"{found['wer_stream']:12.3f}{found['wer_offline']:9.3f}  {blocks}"
        )
    if options.out:
        options.out.write_text(json.dumps({"model": str(options.model), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
