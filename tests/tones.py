"""Tones as speech: pitch follows the token, which is what there is to learn; and small decoders with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from components.shared.audio import write_flac
from components.shared.contracts import SpeechTokens, Utterance
from components.shared.manifest import write_table
from components.speech_decoder.config import GriffinLimConfig, SpeechDecoderConfig
from components.speech_decoder.flow import MelFlow
from components.speech_decoder.hift import PUBLISHED, Hift
from components.speech_decoder.layout import MelScale, Saved
from components.speech_decoder.mel import SAMPLE_RATE_HZ
from components.speech_decoder.model import SpeechDecoder

ROOT = Path(__file__).parents[1]
NUM_CODES = 24
GRIFFIN_LIM = GriffinLimConfig(num_iterations=32, momentum=0.99)
SMALL_HIFT = replace(PUBLISHED, base_channels=16)
"""The published vocoder but for its width."""


def tone(seconds: float, hz: float = 220.0) -> np.ndarray:
    """A buzzing tone with a slow swell: (samples,), float32, 22.05 kHz."""
    time = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    buzz = sum(np.sin(2 * np.pi * hz * k * time) / k for k in range(1, 9))
    return (0.1 * buzz * (0.6 + 0.4 * np.sin(2 * np.pi * time))).astype(np.float32)


def section(scale: str) -> SpeechDecoderConfig:
    """The room's own section, so that its tests do not read the settings of other rooms; tones have no tokenizer."""
    method = OmegaConf.load(ROOT / "params.yaml")
    size = OmegaConf.load(ROOT / f"conf/scale/{scale}.yaml")
    schema = OmegaConf.structured(SpeechDecoderConfig)
    method.speech_decoder.seed, size.speech_decoder.code_start = method.seed, False
    return OmegaConf.to_object(OmegaConf.merge(schema, method.speech_decoder, size.speech_decoder))


def write_corpus(data: Path, splits: list[str], seconds: float = 2.2) -> None:
    """Tones whose pitch follows the token: (code, pitch) is what there is to learn."""
    utterances, rows = data / "collect/utterances", []
    tokens = []
    for number, split in enumerate(splits):
        rng = np.random.default_rng(number)
        duration_s = seconds + 0.3 * (number % 3)
        codes = np.repeat(rng.integers(0, NUM_CODES, 40), 4)[: int(np.ceil(duration_s * 12.5))]
        wave = np.concatenate([tone(0.08, 100.0 + 20 * code) for code in codes])[: round(duration_s * SAMPLE_RATE_HZ)]
        key, speaker = f"u{number}", f"speaker{number % 2}"
        write_flac(utterances / f"audio/{key}.flac", wave, SAMPLE_RATE_HZ)
        shared = {
            "id": key,
            "duration_s": len(wave) / SAMPLE_RATE_HZ,
            "text": "a tone",
            "text_source": "human",
            "language": "en",
            "speaker": speaker,
            "corpus": "tones",
            "license": "CC0-1.0",
            "split": split,
            "origin": "synthesized",
        }
        sound = {
            "audio": f"audio/{key}.flac",
            "sample_rate_hz": SAMPLE_RATE_HZ,
            "bandwidth_hz": 8000.0,
            "rms_dbfs": -20.0,
        }
        rows.append(Utterance(**shared, **sound))
        tokens.append(SpeechTokens(**shared, tokens=codes.tolist()))
    write_table(utterances, rows, Utterance)
    write_table(data / "tokenize/tokens", tokens, SpeechTokens, extra={"num_codes": NUM_CODES, "tokens_per_s": 12.5})


def small_vocoder() -> Hift:
    """Random weights; the pitch it hears is that of a voice, so that its source has sines and not noise alone."""
    torch.manual_seed(1)
    network = Hift(SMALL_HIFT, 16).eval()
    torch.nn.init.constant_(network.f0_predictor.classifier.bias, 150.0)
    torch.nn.init.constant_(network.f0_predictor.classifier.weight, 20.0)
    return network


def small_decoder(*, causal_blocks: int = 0, hift: bool = False, history_blocks: int = 2) -> SpeechDecoder:
    """A decoder of smoke's shape, two levels deep, with random weights."""
    config = section("smoke")
    unet = replace(config.shape.unet, channels=[32, 32])
    shape = replace(config.shape, unet=unet, causal_blocks=causal_blocks)
    torch.manual_seed(0)
    saved = Saved(
        flow=MelFlow(shape, NUM_CODES, False, 12.5).eval(),
        shape=shape,
        tokens_per_s=12.5,
        scale=MelScale(mean=-5.0, std=2.0),
        speakers={"speaker0": torch.ones(192), "speaker1": torch.arange(192.0)},
        default_speaker="speaker0",
        compatible=False,
        sampler=replace(config.sampler, num_steps=3),
        stream=replace(config.stream, history_blocks=history_blocks),
        griffin_lim=GRIFFIN_LIM,
        sigma_min=1e-6,
        drop_share=0.2,
        vocoder=small_vocoder() if hift else None,
    )
    return SpeechDecoder(saved, torch.device("cpu"))


def some_codes(count: int) -> Tensor:
    """(count,), int64."""
    return torch.randint(0, NUM_CODES, (count,), generator=torch.Generator().manual_seed(count))
