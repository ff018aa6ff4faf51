"""The speech decoder: equal to the published one number by number, streams, trains, and says what is wrong with input."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from components.config import load_config
from components.shared.audio import write_flac
from components.shared.contracts import SpeechTokens, Utterance
from components.shared.manifest import read_json, write_table
from components.shared.places import Inputs, Outputs
from components.shared.tracking import TerminalTracker
from components.speech_decoder import model as door
from components.speech_decoder.config import GriffinLimConfig, SpeechDecoderConfig
from components.speech_decoder.data import BatchSize, Batches, FromStep, cut, limit_hours, plan_epoch, read_corpus
from components.speech_decoder.flow import frames_of
from components.speech_decoder.griffin_lim import StreamingGriffinLim, griffin_lim
from components.speech_decoder.hift import Hift, HiftConfig
from components.speech_decoder.layout import read, save
from components.speech_decoder.mel import FRAMES_PER_S, HOP, SAMPLE_RATE_HZ, SILENCE, WINDOW, filters, log_mel
from components.speech_decoder.stage import run

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT.parent / "shared" / "golden" / "decoder"
NUM_CODES = 24
GRIFFIN_LIM = GriffinLimConfig(num_iterations=32, momentum=0.99)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    if not GOLDEN.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"golden cases of the published decoder are not in {GOLDEN}")
        pytest.skip(f"golden cases of the published decoder are not in {GOLDEN}")
    return load_file(GOLDEN / "io.safetensors")


@pytest.fixture(scope="module")
def released() -> door.SpeechDecoder:
    return door.load(GOLDEN)


def close(got: Tensor, wanted: Tensor) -> bool:
    return got.shape == wanted.shape and bool(torch.allclose(got, wanted, atol=1e-3, rtol=0))


def test_encoder_equals_the_published_one(golden, released):
    flow, tokens = released.flow, golden["token"]
    with torch.no_grad():
        hidden = flow.encoder(flow.input_embedding(tokens), torch.ones_like(tokens, dtype=torch.bool))
    assert close(hidden, golden["encoder_out"])


def test_velocity_equals_the_published_one_with_its_mask_and_not_without(golden, released):
    given = [golden[f"est_{name}"] for name in ("x", "mask", "mu", "t", "spks", "cond")]
    network = released.flow.decoder["estimator"]
    with torch.no_grad():
        assert close(network(*given), golden["est_out"])
        network.compatible = False
        right = network(*given)
        network.compatible = True
    assert close(right[:1], golden["est_out"][:1])  # a row without padding is the same either way
    assert not close(right[1:], golden["est_out"][1:])


@pytest.mark.parametrize("prompted", [False, True])
def test_mel_equals_the_published_one(golden, released, prompted):
    flow, tokens = released.flow, golden["token"]
    if prompted:
        tokens = torch.cat([golden["prompt_token"], tokens], dim=1)
    noise = golden["noise_with_prompt" if prompted else "noise"]
    with torch.no_grad():
        content = flow.content(tokens, frames_of(tokens.shape[1], 12.5))
        prompt, shown = torch.zeros_like(content), 0
        if prompted:
            shown = golden["prompt_feat"].shape[1]
            prompt[:, :, :shown] = golden["prompt_feat"].transpose(1, 2)
        mel = flow.sample(noise, content, flow.speaker(golden["embedding"]), prompt, released.saved.sampler)
    assert close(mel[:, :, shown:], golden["mel_with_prompt" if prompted else "mel"])


def test_vocoder_equals_the_published_one(golden):
    record = read_json(GOLDEN / "config.json")
    vocoder = Hift(HiftConfig(**record["hift"]), record["f0_predictor"]["cond_channels"])
    vocoder.load_state_dict(load_file(GOLDEN / "hift.safetensors"))
    with torch.no_grad():
        assert close(vocoder.f0_predictor(golden["hift_mel"]), golden["hift_f0"])
        assert close(vocoder.decode(golden["hift_mel"], golden["hift_source"]), golden["hift_wav"])
        assert vocoder(golden["hift_mel"]).shape == golden["hift_wav"].shape  # with a source of its own


def test_released_folder_comes_back_unchanged(golden, released, tmp_path):
    save(tmp_path, released.saved)
    kept, again = load_file(GOLDEN / "flow.safetensors"), load_file(tmp_path / "flow.safetensors")
    assert kept.keys() == again.keys()
    assert all(torch.equal(kept[name], again[name]) for name in kept)
    assert read(tmp_path).compatible and read(tmp_path).shape == released.saved.shape


# Mel and Griffin-Lim


def tone(seconds: float, hz: float = 220.0) -> np.ndarray:
    """A buzzing tone with a slow swell: (samples,), float32, 22.05 kHz."""
    time = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    buzz = sum(np.sin(2 * np.pi * hz * k * time) / k for k in range(1, 9))
    return (0.1 * buzz * (0.6 + 0.4 * np.sin(2 * np.pi * time))).astype(np.float32)


def test_mel_filters_equal_slaneys():
    from transformers.audio_utils import mel_filter_bank

    wanted = mel_filter_bank(WINDOW // 2 + 1, 80, 0.0, 8000.0, SAMPLE_RATE_HZ, norm="slaney", mel_scale="slaney").T
    assert np.allclose(filters(torch.device("cpu")).numpy(), wanted, atol=1e-7)


def test_a_frame_stands_for_256_samples_and_a_short_wave_is_refused():
    assert log_mel(torch.zeros(2, 5 * HOP)).shape == (2, 80, 5)
    assert float(log_mel(torch.zeros(WINDOW)).max()) == pytest.approx(SILENCE, abs=0.5)
    with pytest.raises(ValueError, match="got 1023 samples, wanted at least one window"):
        log_mel(torch.zeros(WINDOW - 1))


def test_griffin_lim_gives_back_the_mel_it_was_given():
    mel = log_mel(torch.from_numpy(tone(1.0)))
    wave = griffin_lim(mel, GRIFFIN_LIM)
    assert wave.shape == (mel.shape[1] * HOP,)
    strong = mel > -6
    assert float((log_mel(wave) - mel)[strong].abs().mean()) < 0.25
    assert torch.equal(wave, griffin_lim(mel, GRIFFIN_LIM))


def test_streamed_griffin_lim_loses_nothing_and_joins_without_clicks():
    mel = log_mel(torch.from_numpy(tone(1.6)))
    stream = StreamingGriffinLim(GRIFFIN_LIM)
    cuts = [0, 1, 40, 41, 90, mel.shape[1]]
    pieces = [stream.push(mel[:, a:b]) for a, b in zip(cuts[:-1], cuts[1:], strict=True)] + [stream.finish()]
    wave = torch.cat(pieces)
    assert wave.shape == (mel.shape[1] * HOP,)
    jumps = wave.diff().abs()
    edges = np.cumsum([len(piece) for piece in pieces if len(piece)])[:-1] - 1
    assert float(jumps[torch.from_numpy(edges)].max()) <= float(jumps.quantile(0.999)) * 1.5
    strong = mel > -6
    assert float((log_mel(wave) - mel)[strong].abs().mean()) < 0.35


# A small decoder of our own


def section(scale: str, *overrides: str) -> SpeechDecoderConfig:
    return load_config([f"scale={scale}", *overrides], ROOT).speech_decoder


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
        sound = {"audio": f"audio/{key}.flac", "sample_rate_hz": SAMPLE_RATE_HZ, "bandwidth_hz": 8000.0, "rms_dbfs": -20.0}
        rows.append(Utterance(**shared, **sound))
        tokens.append(SpeechTokens(**shared, tokens=codes.tolist()))
    write_table(utterances, rows, Utterance)
    write_table(data / "tokenize/tokens", tokens, SpeechTokens, extra={"num_codes": NUM_CODES, "tokens_per_s": 12.5})


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The stage at smoke scale on tones: its output folder."""
    root = tmp_path_factory.mktemp("decoder")
    write_corpus(root / "data", ["train"] * 10 + ["validation"] * 4 + ["test"])
    outputs = Outputs(root=root / "data/speech_decoder", work=root / ".work/speech_decoder")
    metrics = run(section("smoke"), Inputs(root / "data"), outputs, TerminalTracker())
    outputs.publish(metrics)
    return root / "data/speech_decoder"


def test_stage_writes_a_model_its_stats_and_its_metrics(trained):
    metrics = read_json(trained / "metrics.json")
    assert metrics["dropped_test_split"] == 1
    assert metrics["num_speakers"] == 2
    assert np.isfinite([metrics["loss_flow"], metrics["loss_prior"], metrics["mel_distance"]]).all()
    assert (trained / "stats.parquet").is_file()
    assert set(read_json(trained / "model/config.json")["speakers"]) == {"speaker0", "speaker1"}
