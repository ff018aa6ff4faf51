"""How soon does a decoder speak, and at what cost: block by block, in a single pass, or all over again at every block?

    python -m benchmarks.decode [--model FOLDER | --scale tiny] [--tokens 62] [--steps 2,10] [--threads 2] [--out FILE]

blocks: `stream()`, each block behind its history; causal: the same with the causal variant of the shape (only with
random weights); whole: one pass when all tokens are there; again: at every full block one pass over all tokens so far,
of which the new samples are kept, as code without a stream does. Without a folder the weights are random in the shape
of a scale: speed does not care. Tokens come one by one and cost no time. First audio: compute until the first sample;
longest push: the most that any push or the end computes; real-time factor: all compute over audio made; held: audio
that the vocoder keeps back until more is known.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from components.config import load_config
from components.speech_decoder.config import SamplerConfig
from components.speech_decoder.flow import MelFlow
from components.speech_decoder.hift import PUBLISHED, Hift
from components.speech_decoder.layout import MelScale, Saved, read
from components.speech_decoder.mel import FRAMES_PER_S
from components.speech_decoder.model import SpeechDecoder

REPEATS = 3
TOKENS_PER_S = 12.5
CAUSAL_BLOCKS = 3
"""What a block of the causal rows sees: as much as two blocks of history show to the others."""


class Row(TypedDict):
    """One way of decoding; times are medians over repeats, in seconds."""

    way: str
    vocoder: str
    steps: int
    first_audio_s: float
    longest_push_s: float
    real_time_factor: float
    held_s: float


def random_decoder(scale: str, causal_blocks: int) -> Saved:
    """Random weights in the shape of a scale, 1024 codes."""
    config = load_config([f"scale={scale}"]).speech_decoder
    shape = replace(config.shape, causal_blocks=causal_blocks)
    torch.manual_seed(0)
    return Saved(
        flow=MelFlow(shape, 1024, config.compatible, TOKENS_PER_S).eval(),
        shape=shape,
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


def random_hift(channels: int) -> Hift:
    """The published vocoder with random weights; published: 512 channels."""
    torch.manual_seed(0)
    return Hift(replace(PUBLISHED, base_channels=channels), channels).eval()


def in_blocks(decoder: SpeechDecoder, tokens: Tensor) -> Iterator[Tensor]:
    """What each push of one token gives, then the end."""
    stream = decoder.stream()
    for token in tokens:
        yield stream.push(token[None])
    yield stream.finish()


def in_one(decoder: SpeechDecoder, tokens: Tensor) -> Iterator[Tensor]:
    """Everything at the end."""
    yield decoder.decode_whole(tokens)


def again(decoder: SpeechDecoder, tokens: Tensor) -> Iterator[Tensor]:
    """At every full block, and at the end, the samples that a new pass over all tokens adds."""
    given, block = 0, decoder.saved.shape.encoder.block_size or 10
    for stop in [*range(block, len(tokens), block), len(tokens)]:
        wave = decoder.decode_whole(tokens[:stop])
        yield wave[given:]
        given = len(wave)


def timed(work: Callable[[], Iterator[Tensor]]) -> tuple[float, float, float]:
    """Medians over repeats, after one to warm up, of (first audio, longest piece of work, all of it), seconds."""
    runs = []
    for _ in range(REPEATS + 1):
        begun = last = time.perf_counter()
        first, longest = 0.0, 0.0
        for piece in work():
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
            if len(piece) and not first:
                first = now - begun
        runs.append((first, longest, time.perf_counter() - begun))
    return tuple(statistics.median(column) for column in zip(*runs[1:], strict=True))  # type: ignore[return-value]


def measure(
    decoders: dict[str, Saved], vocoders: dict[str, Hift | None], tokens: Tensor, steps: list[int]
) -> list[Row]:
    """One row for each vocoder, number of steps and way of decoding.

    decoders: published, and causal where that is measured too; vocoders: by name, None for Griffin-Lim.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ways = [("blocks", "published", in_blocks), ("whole", "published", in_one), ("again", "published", again)]
    if "causal" in decoders:
        ways.insert(1, ("causal", "causal", in_blocks))
    rows: list[Row] = []
    for name, vocoder in vocoders.items():
        for count in steps:
            for way, kind, pieces in ways:
                saved = decoders[kind]
                sampler = SamplerConfig(num_steps=count, guidance=saved.sampler.guidance)
                decoder = SpeechDecoder(replace(saved, sampler=sampler, vocoder=vocoder), device)
                first_s, longest_s, seconds = timed(partial(pieces, decoder, tokens))
                held = 0 if way in ("whole", "again") else decoder.stream().latency
                rows.append(
                    Row(
                        way=way,
                        vocoder=name,
                        steps=count,
                        first_audio_s=first_s,
                        longest_push_s=longest_s,
                        real_time_factor=seconds / (len(tokens) / saved.tokens_per_s),
                        held_s=held / FRAMES_PER_S,
                    )
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="a decoder's folder")
    parser.add_argument("--scale", default="tiny", help="shape of random weights when no folder is given")
    parser.add_argument("--hift-channels", type=int, default=128, help="width of a random HiFT; published: 512")
    parser.add_argument("--tokens", type=int, default=62, help="length of the utterance; 62 are 5 s")
    parser.add_argument("--steps", default="2,10", help="numbers of Euler steps, with commas between")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.model:
        decoders = {"published": read(Path(options.model))}
    else:
        decoders = {
            "published": random_decoder(options.scale, 0),
            "causal": random_decoder(options.scale, CAUSAL_BLOCKS),
        }
    own = decoders["published"].vocoder
    vocoders = {"griffin_lim": None, "hift": own if own is not None else random_hift(options.hift_channels)}
    num_codes = decoders["published"].flow.num_codes
    tokens = torch.randint(0, num_codes, (options.tokens,), generator=torch.Generator().manual_seed(0))
    rows = measure(decoders, vocoders, tokens, [int(count) for count in options.steps.split(",")])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    audio_s = options.tokens / decoders["published"].tokens_per_s
    print(f"{options.tokens} tokens, {audio_s:.1f} s of audio, {device}, {options.threads} threads")
    titles = f"{'first audio':>13s}{'longest push':>14s}{'real-time factor':>18s}{'held':>8s}"
    print(f"{'way':8s}{'vocoder':13s}{'steps':>6s}{titles}")
    for row in rows:
        times = f"{row['first_audio_s']:11.3f} s{row['longest_push_s']:12.3f} s{row['real_time_factor']:18.3f}"
        print(f"{row['way']:8s}{row['vocoder']:13s}{row['steps']:6d}{times}{row['held_s']:6.3f} s")
    if options.out:
        what = {
            "model": options.model or f"random, {options.scale}",
            "hift": "the model's" if own is not None else f"random, {options.hift_channels} channels",
            "tokens": options.tokens,
            "device": device,
            "threads": options.threads,
        }
        options.out.write_text(json.dumps({**what, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
