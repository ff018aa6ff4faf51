"""How soon does a decoder speak, and how fast: block by block or the whole utterance at once, with 2 to 10 Euler steps?

    python -m benchmarks.decode [--model FOLDER | --scale tiny] [--tokens 62] [--threads 2] [--out decode.json]

Without a folder the weights are random in the shape of a scale: speed does not care. First audio is the time from the
first token (all tokens of the first block at hand) to the first sample; the real-time factor is time over audio made.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from components.config import load_config
from components.speech_decoder.config import SamplerConfig
from components.speech_decoder.flow import MelFlow
from components.speech_decoder.layout import MelScale, Saved, read
from components.speech_decoder.model import SpeechDecoder

STEPS = (2, 4, 6, 10)
REPEATS = 5
TOKENS_PER_S = 12.5


def random_decoder(scale: str) -> Saved:
    """Random weights in the shape of a scale, 1024 codes."""
    config = load_config([f"scale={scale}"]).speech_decoder
    torch.manual_seed(0)
    return Saved(
        flow=MelFlow(config.shape, 1024, config.compatible).eval(),
        shape=config.shape,
        tokens_per_s=TOKENS_PER_S,
        scale=MelScale(mean=-5.0, std=2.0),
        speakers={},
        default_speaker="",
        compatible=config.compatible,
        sampler=config.sampler,
        stream=config.stream,
        griffin_lim=config.griffin_lim,
        sigma_min=config.objective.sigma_min,
        drop_share=config.objective.drop_share,
    )


def timed(work: Callable[[], float]) -> tuple[float, float]:
    """Medians over repeats, after one to warm up, of (what work returns, its seconds)."""
    work()
    returned, seconds = [], []
    for _ in range(REPEATS):
        started = time.perf_counter()
        returned.append(work())
        seconds.append(time.perf_counter() - started)
    return statistics.median(returned), statistics.median(seconds)


def measure(saved: Saved, tokens: torch.Tensor, device: torch.device) -> list[dict[str, float | str]]:
    """One row for each way of decoding and number of steps."""
    rows: list[dict[str, float | str]] = []
    audio_s = len(tokens) / saved.tokens_per_s
    for steps in STEPS:
        sampler = SamplerConfig(num_steps=steps, guidance=saved.sampler.guidance)
        decoder = SpeechDecoder(replace(saved, sampler=sampler), device)

        def whole(decoder: SpeechDecoder = decoder) -> float:
            started = time.perf_counter()
            decoder.decode(tokens)
            return time.perf_counter() - started

        def blocks(decoder: SpeechDecoder = decoder) -> float:
            started = time.perf_counter()
            stream, first = decoder.stream(), 0.0
            for token in tokens:  # as a language model hands them over
                if len(stream.push(token[None])) and not first:
                    first = time.perf_counter() - started
            stream.finish()
            return first or time.perf_counter() - started

        for way, work in (("whole", whole), ("blocks", blocks)):
            first_s, seconds = timed(work)
            rows.append({"way": way, "steps": steps, "first_audio_s": first_s, "real_time_factor": seconds / audio_s})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="a decoder's folder")
    parser.add_argument("--scale", default="tiny", help="shape of random weights when no folder is given")
    parser.add_argument("--tokens", type=int, default=62, help="length of the utterance; 62 are 5 s")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    saved = read(Path(options.model)) if options.model else random_decoder(options.scale)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokens = torch.randint(0, saved.flow.num_codes, (options.tokens,), generator=torch.Generator().manual_seed(0))
    rows = measure(saved, tokens, device)
    audio_s = options.tokens / saved.tokens_per_s
    print(f"{options.tokens} tokens, {audio_s:.1f} s of audio, {device}, {options.threads} threads")
    print(f"{'way':8s}{'steps':>6s}{'first audio (s)':>17s}{'real-time factor':>18s}")
    for row in rows:
        print(f"{row['way']:8s}{row['steps']:6d}{row['first_audio_s']:17.3f}{row['real_time_factor']:18.3f}")
    if options.out:
        what = {"model": options.model or f"random, {options.scale}", "tokens": options.tokens, "device": str(device)}
        options.out.write_text(json.dumps({**what, "threads": options.threads, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
