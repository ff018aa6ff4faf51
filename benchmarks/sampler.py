"""How many Euler steps, and how much guidance, does decoded speech want?

    python -m benchmarks.sampler [--data data] [--steps 2,4,6,10] [--guidance 0,0.3,0.7,1] [--out FILE]

Validation utterances of the decoder's own speakers are decoded from their tokens, block by block as a stream does, with
every number of steps and every guidance (Ho and Salimans 2022, as CosyVoice scales it; 0: half the work). Each way is
heard by a recogniser and by DistillMOS and set against the recording's mel. Settings are chosen by this table, so it
reads validation speech only. Published: 10 steps, guidance 0.7.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from components.config import load_config
from components.shared.audio import read_wave
from components.shared.distillmos import DistillMos
from components.speech_decoder.config import SamplerConfig
from components.speech_decoder.data import Pair, read_corpus
from components.speech_decoder.layout import read
from components.speech_decoder.mel import log_mel
from components.speech_decoder.model import SpeechDecoder
from components.speech_decoder.speech import Judge


class Row(TypedDict):
    """One way of sampling."""

    num_steps: int
    guidance: float
    wer: float
    mos: float
    mel_distance: float
    """Mean absolute difference to the recording's log mel, natural log."""
    cpu_s_per_s: float
    """CPU seconds of the flow and the vocoder a second of speech."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="the stages' folder")
    parser.add_argument("--model", type=Path, help="default: the data folder's speech_decoder/model")
    parser.add_argument("--scale", default="tiny", help="whose settings choose the utterances and the judge")
    parser.add_argument("--steps", default="2,4,6,10")
    parser.add_argument("--guidance", default="0,0.3,0.7,1")
    parser.add_argument("--utterances", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/sampler.json"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config = load_config([f"scale={given.scale}"]).speech_decoder
    saved = read(given.model or given.data / "speech_decoder/model")
    corpus = read_corpus(given.data / "tokenize/tokens", given.data / "collect/utterances", config.data)
    judge, mos = Judge(config.judge), DistillMos()
    pairs = judge.known(corpus.of_speakers(config.phases[-1].num_speakers).validation)[: given.utterances]
    mels = [log_mel(torch.from_numpy(read_wave(pair.audio, SpeechDecoder.sample_rate_hz)[0])) for pair in pairs]
    samplers = [
        SamplerConfig(num_steps=int(steps), guidance=float(guidance))
        for steps in given.steps.split(",")
        for guidance in given.guidance.split(",")
    ]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    print(f"{len(pairs)} utterances, {given.threads} threads")
    print(f"{'steps':>5} {'guidance':>8} {'WER':>6} {'MOS':>5} {'mel distance':>12} {'CPU s a second':>14}")
    for sampler in samplers:
        rows.append(
            measure(SpeechDecoder(replace(saved, sampler=sampler), torch.device("cpu")), pairs, mels, judge, mos)
        )
        row = rows[-1]
        print(
            f"{row['num_steps']:>5} {row['guidance']:>8} {row['wer']:>6.3f} {row['mos']:>5.2f} "
            f"{row['mel_distance']:>12.3f} {row['cpu_s_per_s']:>14.3f}",
            flush=True,
        )
        given.out.write_text(json.dumps({"utterances": len(pairs), "rows": rows}, indent=1), encoding="utf-8")


def measure(decoder: SpeechDecoder, pairs: list[Pair], mels: list[Tensor], judge: Judge, mos: DistillMos) -> Row:
    """Decode every pair in its speaker's voice, block by block, and judge what comes out."""
    waves: list[np.ndarray] = []
    distances: list[float] = []
    began, made_s = time.process_time(), 0.0
    for pair, mel in zip(pairs, mels, strict=True):
        wave, made = decoder.decode_with_mel(pair.tokens, pair.speaker)
        shared = min(mel.shape[1], made.shape[1])
        distances.append(float((mel[:, :shared] - made[:, :shared]).abs().mean()))
        waves.append(wave.numpy())
        made_s += len(wave) / decoder.sample_rate_hz
    spent_s = time.process_time() - began
    return Row(
        num_steps=decoder.saved.sampler.num_steps,
        guidance=decoder.saved.sampler.guidance,
        wer=judge.rate(waves, pairs),
        mos=float(np.mean(mos.score(waves, decoder.sample_rate_hz))),
        mel_distance=float(np.mean(distances)),
        cpu_s_per_s=spent_s / made_s,
    )


if __name__ == "__main__":
    main()
