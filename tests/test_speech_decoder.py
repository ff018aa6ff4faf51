"""The speech decoder's stage: its data, its mel and Griffin-Lim, its training, and what it says of wrong input."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from components.shared.manifest import read_json, write_json
from components.shared.places import Inputs, Outputs
from components.shared.tracking import TerminalTracker
from components.speech_decoder import model as door
from components.speech_decoder.data import Batches, BatchSize, FromStep, cut, limit_hours, plan_epoch, read_corpus
from components.speech_decoder.flow import frames_of
from components.speech_decoder.griffin_lim import griffin_lim
from components.speech_decoder.mel import HOP, SAMPLE_RATE_HZ, SILENCE, WINDOW, filters, log_mel
from components.speech_decoder.stage import run
from components.speech_decoder.start import begin_straight
from components.speech_decoder.unet import UNet
from tests.tones import GRIFFIN_LIM, NUM_CODES, section, tone, write_corpus

# Mel and Griffin-Lim


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


# A small decoder of our own


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
    with pytest.raises(ValueError, match=r"got a vocabulary of 24 codes, wanted 25"):
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
    size = BatchSize(max_crop_s=3.2, frames_per_batch=2000)
    plans = plan_epoch(lengths, size, 12.5, np.random.default_rng(seed))
    assert sorted(pair for plan in plans for pair, _ in plan.rows) == list(range(300))
    for plan in plans:
        assert len(plan.rows) == 1 or len(plan.rows) * frames_of(plan.num_tokens, 12.5) <= 2000
        assert all(0 <= start <= lengths[pair] - plan.num_tokens for pair, start in plan.rows)


def test_with_blocks_rows_are_what_a_stream_decodes_at_once():
    size = BatchSize(max_crop_s=3.2, frames_per_batch=2000, block_tokens=10, max_blocks=3)
    plans = plan_epoch([7, *range(10, 200)], size, 12.5, np.random.default_rng(0))
    assert {plan.num_tokens for plan in plans if plan.num_tokens != 7} == {10, 20, 30}
    assert sorted(pair for plan in plans for pair, _ in plan.rows) == list(range(191))


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
