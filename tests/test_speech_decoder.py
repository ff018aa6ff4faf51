"""The speech decoder: equal to the published one number by number, streams, trains, says what is wrong with input."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from components.shared.audio import write_flac
from components.shared.contracts import SpeechTokens, Utterance
from components.shared.manifest import read_json, write_json, write_table
from components.shared.places import Inputs, Outputs
from components.shared.tracking import TerminalTracker
from components.speech_decoder import model as door
from components.speech_decoder.config import GriffinLimConfig, SpeechDecoderConfig
from components.speech_decoder.data import Batches, BatchSize, FromStep, cut, limit_hours, plan_epoch, read_corpus
from components.speech_decoder.flow import frames_of
from components.speech_decoder.griffin_lim import StreamingGriffinLim, griffin_lim
from components.speech_decoder.hift import Hift, HiftConfig
from components.speech_decoder.layout import read, save
from components.speech_decoder.mel import HOP, SAMPLE_RATE_HZ, SILENCE, WINDOW, filters, log_mel
from components.speech_decoder.stage import run
from components.speech_decoder.start import begin_straight
from components.speech_decoder.unet import UNet

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
    assert load_file(GOLDEN / "hift.safetensors").keys() == load_file(tmp_path / "hift.safetensors").keys()
    assert torch.equal(door.load(tmp_path).decode([1, 2, 3]), released.decode([1, 2, 3]))
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
    pieces = [stream.push(mel[:, a:b]) for a, b in pairwise(cuts)] + [stream.finish()]
    wave = torch.cat(pieces)
    assert wave.shape == (mel.shape[1] * HOP,)
    jumps = wave.diff().abs()
    edges = np.cumsum([len(piece) for piece in pieces if len(piece)])[:-1] - 1
    assert float(jumps[torch.from_numpy(edges)].max()) <= float(jumps.quantile(0.999)) * 1.5
    strong = mel > -6
    assert float((log_mel(wave) - mel)[strong].abs().mean()) < 0.35


# A small decoder of our own


def section(scale: str) -> SpeechDecoderConfig:
    """The room's own section, so that its tests do not read the settings of other rooms."""
    method = OmegaConf.load(ROOT / "params.yaml")
    size = OmegaConf.load(ROOT / f"conf/scale/{scale}.yaml")
    schema = OmegaConf.structured(SpeechDecoderConfig)
    method.speech_decoder.seed = method.seed
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


def test_decoding_is_repeatable_and_as_long_as_its_tokens(trained):
    decoder = door.load(trained / "model")
    tokens = list(range(NUM_CODES)) * 2
    wave = decoder.decode(tokens)
    assert decoder.sample_rate_hz == SAMPLE_RATE_HZ
    assert wave.shape == (frames_of(len(tokens), 12.5) * HOP,)
    assert wave.dtype == torch.float32 and bool(wave.isfinite().all()) and float(wave.abs().max()) <= 1
    assert torch.equal(wave, decoder.decode(torch.tensor(tokens, dtype=torch.int32)))
    assert not torch.allclose(wave, decoder.decode(tokens, "speaker1"))
    assert decoder.decode(tokens, torch.ones(192)).shape == wave.shape
    assert decoder.decode([3]).shape == (frames_of(1, 12.5) * HOP,)


def test_a_stream_gives_the_same_wave_however_its_tokens_arrive(trained):
    decoder = door.load(trained / "model")
    tokens = list(range(NUM_CODES)) * 2

    def streamed(*cuts: int) -> Tensor:
        stream, edges = decoder.stream("speaker0"), [0, *cuts, len(tokens)]
        pieces = [stream.push(tokens[a:b]) for a, b in pairwise(edges)]
        return torch.cat([*pieces, stream.finish()])

    whole = streamed()
    assert whole.shape == (frames_of(len(tokens), 12.5) * HOP,)
    for cuts in ((1, 2, 3, 30), (10, 20, 30, 40), (9, 10, 11, 47)):
        assert torch.allclose(streamed(*cuts), whole, atol=1e-4)


def test_a_stream_speaks_after_its_first_block_and_remembers_only_its_history(trained):
    decoder = door.load(trained / "model")
    stream = decoder.stream()
    assert len(stream.push([1] * 9)) == 0
    assert len(stream.push([1])) > 0
    for _ in range(6):
        stream.push([2] * 10)
    assert len(stream._known) == 10 * decoder.saved.stream.history_blocks
    stream.finish()
    with pytest.raises(ValueError, match="tokens after finish"):
        stream.push([1])
    with pytest.raises(ValueError, match="finished without a token"):
        decoder.stream().finish()


@pytest.mark.parametrize(
    ("tokens", "speaker", "message"),
    [
        ([], None, "wanted .tokens,. whole numbers, not empty"),
        ([0, NUM_CODES], None, f"got {NUM_CODES}, wanted 0..{NUM_CODES - 1}, the decoder's vocabulary"),
        ([-1, 2], None, "tokens: got -1"),
        ([[1, 2]], None, "wanted .tokens,. whole numbers"),
        ([1, 2], torch.zeros(191), "speaker: got a vector of .191,., wanted .192,."),
        ([1, 2], "nobody", "speaker: got 'nobody', wanted one of speaker"),
    ],
)
def test_bad_input_is_one_clear_line(trained, tokens, speaker, message):
    with pytest.raises(ValueError, match=message) as raised:
        door.load(trained / "model").decode(tokens, speaker)
    assert "\n" not in str(raised.value)


def test_a_broken_folder_is_one_clear_line(trained, tmp_path):
    with pytest.raises(ValueError, match=r"config\.json: not there"):
        door.load(tmp_path)
    record = read_json(trained / "model/config.json")
    shutil.copytree(trained / "model", tmp_path / "other")
    write_json(tmp_path / "other/config.json", {**record, "flow": {**record["flow"], "vocab_size": NUM_CODES + 1}})
    with pytest.raises(ValueError, match=r"input_embedding\.weight: got .24, 32., wanted .25, 32."):
        door.load(tmp_path / "other")
    write_json(tmp_path / "other/config.json", {**record, "encoder": {**record["encoder"], "macaron_style": True}})
    with pytest.raises(ValueError, match=r"encoder\.macaron_style: got True, wanted False"):
        door.load(tmp_path / "other")
    (tmp_path / "other/flow.safetensors").write_bytes(b"junk")
    write_json(tmp_path / "other/config.json", record)
    with pytest.raises(ValueError, match=r"flow\.safetensors: not readable"):
        door.load(tmp_path / "other")


def test_a_straight_start_leads_from_the_noisy_mel_to_the_content():
    torch.manual_seed(0)
    network = UNet(replace(section("tiny").shape.unet, channels=[96, 64], num_mid_blocks=1), 80, compatible=False)
    noisy, content, prompt = torch.randn(2, 80, 50), torch.randn(2, 80, 50), torch.zeros(2, 80, 50)
    begin_straight(network, 80)
    with torch.no_grad():
        velocity = network(noisy, None, content, torch.tensor([0.1, 0.8]), torch.randn(2, 80), prompt)
    straight = content - noisy
    assert float((velocity - straight).square().mean()) < 0.15 * float(straight.square().mean())


# Data


def test_unfit_rows_are_counted_and_nothing_left_is_an_error(tmp_path):
    write_corpus(tmp_path, ["train", "train", "validation", "test"])
    config = section("smoke").data
    corpus = read_corpus(tmp_path / "tokenize/tokens", tmp_path / "collect/utterances", config)
    assert corpus.dropped == {"test_split": 1}
    assert [pair.id for pair in corpus.train] == ["u0", "u1"]
    too_long = replace(config, min_crop_s=2.4)
    dropped = read_corpus(tmp_path / "tokenize/tokens", tmp_path / "collect/utterances", too_long).dropped
    assert dropped == {"test_split": 1, "too_short": 1}
    with pytest.raises(ValueError, match=r"no training pair left, left out: \{'language': 4\}"):
        read_corpus(tmp_path / "tokenize/tokens", tmp_path / "collect/utterances", replace(config, languages=["zh"]))


def test_hours_are_taken_evenly_from_the_speakers(tmp_path):
    write_corpus(tmp_path, ["train"] * 8)
    config = replace(section("smoke").data, max_hours=8 / 3600)
    corpus = read_corpus(tmp_path / "tokenize/tokens", tmp_path / "collect/utterances", config)
    assert [pair.id for pair in corpus.train] == ["u0", "u1", "u2", "u3"]
    assert len(limit_hours(corpus.train, 0)) == 4


def test_a_cut_holds_the_frames_of_its_tokens():
    mel = torch.arange(100.0).expand(80, 100)
    assert cut(mel, 2, 5, 12.5)[0].tolist() == list(range(13, 47))
    tail = cut(mel, 10, 10, 12.5)
    assert tail.shape == (80, 68)
    assert tail[0, :32].tolist() == list(range(68, 100)) and bool((tail[:, 32:] == SILENCE).all())


@pytest.mark.parametrize("seed", range(3))
def test_an_epoch_meets_every_pair_once_within_the_batch_size(seed):
    lengths = np.random.default_rng(seed).integers(5, 200, 300).tolist()
    plans = plan_epoch(
        lengths, max_tokens=40, frames_per_batch=2000, tokens_per_s=12.5, rng=np.random.default_rng(seed)
    )
    assert sorted(pair for plan in plans for pair, _ in plan.rows) == list(range(300))
    for plan in plans:
        assert len(plan.rows) == 1 or len(plan.rows) * frames_of(plan.num_tokens, 12.5) <= 2000
        assert all(0 <= start <= lengths[pair] - plan.num_tokens for pair, start in plan.rows)


def test_a_resumed_loader_meets_the_batches_it_missed(tmp_path):
    write_corpus(tmp_path, ["train"] * 9)
    corpus = read_corpus(tmp_path / "tokenize/tokens", tmp_path / "collect/utterances", section("smoke").data)
    size = BatchSize(max_crop_s=1.0, frames_per_batch=300)

    def batches() -> Batches:
        return Batches(corpus, corpus.train, size, seed=3, num_batches=20)

    whole = list(FromStep(batches(), lambda: 0, 0))
    rest = list(FromStep(batches(), lambda: 13, 0))
    assert [batch.index for batch in rest] == list(range(13, 20))
    assert all(
        torch.equal(a.mel, b.mel) and torch.equal(a.tokens, b.tokens) for a, b in zip(whole[13:], rest, strict=True)
    )
