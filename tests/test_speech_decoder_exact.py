"""The speech decoder equals the published one number by number, and reads and writes its files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from components.shared.manifest import read_json, write_json
from components.speech_decoder import model as door
from components.speech_decoder.flow import frames_of
from components.speech_decoder.layout import read, save
from components.speech_decoder.noise import frame_noise
from tests.tones import ROOT, small_decoder

GOLDEN = ROOT.parent / "shared" / "golden" / "decoder"


def golden_case(folder: Path) -> dict[str, Tensor]:
    """Inputs and outputs of the published code; without them the test is skipped, on CI it fails."""
    if not folder.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{folder}: not there, and CI=true wants it")
        pytest.skip(f"{folder}: the golden case is not on this machine")
    return load_file(folder / "io.safetensors")


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return golden_case(GOLDEN)


@pytest.fixture(scope="module")
def released(golden) -> door.SpeechDecoder:
    return door.load(GOLDEN)


def test_a_missing_golden_case_fails_on_ci_and_is_skipped_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="not there, and CI=true wants it"):
        golden_case(tmp_path / "golden")
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception):
        golden_case(tmp_path / "golden")


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


def test_vocoder_equals_the_published_one(golden, released):
    vocoder = released.saved.vocoder
    with torch.no_grad():
        assert close(vocoder.f0_predictor(golden["hift_mel"]), golden["hift_f0"])
        assert close(vocoder.decode(golden["hift_mel"], golden["hift_source"]), golden["hift_wav"])
        assert vocoder(golden["hift_mel"]).shape == golden["hift_wav"].shape  # with a source of its own


def test_a_decoder_of_our_own_masks_padding_which_the_published_one_does_not(golden):
    record = read_json(GOLDEN / "config.json")
    assert "compatible" not in record and door.load(GOLDEN).flow.velocity_network.compatible
    own = small_decoder()
    assert not own.flow.velocity_network.compatible
    network, frames = own.flow.velocity_network, 40
    torch.manual_seed(0)
    noisy, content, prompt = torch.randn(3, 1, 80, frames)
    time, speaker = torch.tensor([0.3]), torch.randn(1, 80)
    valid = (torch.arange(frames) < 30).float()[None, None]
    other = torch.where(valid[0] > 0, noisy, 9.0)  # other values in the padding
    with torch.no_grad():
        one, two = (network(given, valid, content, time, speaker, prompt) for given in (noisy, other))
    assert torch.equal(one, two)


def test_released_folder_comes_back_unchanged(golden, released, tmp_path):
    save(tmp_path, released.saved)
    kept, again = load_file(GOLDEN / "flow.safetensors"), load_file(tmp_path / "flow.safetensors")
    assert kept.keys() == again.keys()
    assert all(torch.equal(kept[name], again[name]) for name in kept)
    assert load_file(GOLDEN / "hift.safetensors").keys() == load_file(tmp_path / "hift.safetensors").keys()
    assert torch.equal(door.load(tmp_path).decode([1, 2, 3]), released.decode([1, 2, 3]))
    assert read(tmp_path).compatible and read(tmp_path).shape == released.saved.shape


def test_a_block_of_a_stream_is_the_published_pass_behind_a_prompt(golden, released):
    flow, codes = released.flow, golden["token"][0, :20]
    blocks = released.block_mel(codes)
    edge, last = frames_of(10, 12.5), frames_of(20, 12.5)
    with torch.no_grad():
        content = flow.content(codes[None], last)
        prompt = torch.zeros_like(content)
        prompt[0, :, :edge] = blocks[:, :edge]  # released decoders see mels as they are
        speaker = flow.speaker(torch.zeros(1, 192))
        mel = flow.sample(frame_noise(0, last)[None], content, speaker, prompt, released.saved.sampler)
    assert close(blocks[:, edge:], mel[0, :, edge:])


# Files


SCRIPT = """
__set_seed1: !apply:random.seed [1986]
sample_rate: 22050
spk_embed_dim: 192
flow: !new:cosyvoice.flow.flow.MaskedDiffWithXvec
    spk_embed_dim: !ref <spk_embed_dim>
{flow}
    encoder: !new:cosyvoice.transformer.encoder.BlockConformerEncoder
{encoder}
    length_regulator: !new:cosyvoice.flow.length_regulator.InterpolateRegulator
{length_regulator}
    decoder: !new:cosyvoice.flow.flow_matching.ConditionalCFM
        in_channels: 240
        cfm_params: !new:omegaconf.DictConfig
            content:
{cfm}
        estimator: !new:cosyvoice.flow.decoder.ConditionalDecoder
{estimator}
hift: !new:cosyvoice.hifigan.generator.HiFTGenerator
{hift}
    sampling_rate: !ref <sample_rate>
    f0_predictor: !new:cosyvoice.hifigan.f0_predictor.ConvRNNF0Predictor
{f0_predictor}
feat_extractor: !name:matcha.utils.audio.mel_spectrogram
    n_fft: 1024
data_pipeline: [!ref <feat_extractor>]
"""
"""A released config.yaml: values from the sections of config.json, tags as in CosyVoice's."""


def write_released(folder: Path) -> None:
    """The golden decoder as it would be released: config.yaml, flow.pt, hift.pt."""
    record = read_json(GOLDEN / "config.json")
    left_out = {"flow": "spk_embed_dim", "hift": "sampling_rate"}  # which stand as references

    def section(name: str, indent: int) -> str:
        values = {key: value for key, value in record[name].items() if key != left_out.get(name)}
        return "\n".join(" " * indent + line for line in yaml.safe_dump(values).splitlines())

    indents = {"flow": 4, "encoder": 8, "length_regulator": 8, "cfm": 16, "estimator": 12, "hift": 4, "f0_predictor": 8}
    script = SCRIPT.format(**{name: section(name, indent) for name, indent in indents.items()})
    (folder / "config.yaml").write_text(script.replace("1.0e-06", "1e-06"))  # as released, a word to YAML 1.1
    for name in ("flow", "hift"):
        torch.save(load_file(GOLDEN / f"{name}.safetensors"), folder / f"{name}.pt")


def test_a_released_folder_loads_from_its_own_files(golden, released, tmp_path):
    write_released(tmp_path)
    loaded = door.load(tmp_path)
    assert loaded.saved.sigma_min == 1e-6 and loaded.saved.compatible
    tokens = golden["token"][0, :12]
    assert torch.equal(loaded.decode_whole(tokens), released.decode_whole(tokens))
    (tmp_path / "ours").mkdir()
    save(tmp_path / "ours", loaded.saved)
    assert torch.equal(door.load(tmp_path / "ours").decode_whole(tokens), released.decode_whole(tokens))


def test_released_weights_load_with_a_configuration_given(golden, released, tmp_path):
    write_released(tmp_path)
    (tmp_path / "config.yaml").unlink()
    write_json(tmp_path / "config.json", read_json(GOLDEN / "config.json"))
    assert torch.equal(door.load(tmp_path).mel([1, 2, 3]), released.mel([1, 2, 3]))


class Harmful:
    """Runs code when a pickle of it is read."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_weights_that_are_more_than_tensors_are_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path, small_decoder().saved)
    (tmp_path / "flow.safetensors").unlink()
    for held, message in (
        ({"weight": Harmful()}, r"flow\.pt: not readable as tensors alone"),
        ([torch.zeros(1)], r"flow\.pt: got a list, wanted tensors by name"),
        ({"epoch": 3}, r"flow\.pt: got \['epoch'\], which are no tensors"),
    ):
        torch.save(held, tmp_path / "flow.pt")
        with pytest.raises(ValueError, match=message) as raised:
            door.load(tmp_path)
        assert "\n" not in str(raised.value)
    (tmp_path / "flow.pt").write_bytes(b"junk")
    with pytest.raises(ValueError, match="not readable as tensors alone") as raised:
        door.load(tmp_path)
    assert "\n" not in str(raised.value) and not (tmp_path / "harm").exists()


@pytest.mark.parametrize("script", ["flow: [1", "flow: {}", "just words", "flow: !new:x\nhift: {f0_predictor: 1}"])
def test_a_configuration_that_is_no_decoders_is_refused_in_one_line(tmp_path, script):
    (tmp_path / "config.yaml").write_text(script)
    with pytest.raises(ValueError, match=r"config\.yaml: not a released speech decoder's configuration") as raised:
        door.load(tmp_path)
    assert "\n" not in str(raised.value)


def test_weights_of_another_vocabulary_are_refused_in_one_line(tmp_path):
    save(tmp_path, small_decoder().saved)
    record = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", {**record, "flow": {**record["flow"], "vocab_size": 16384}})
    message = r"flow\.safetensors: got a vocabulary of 24 codes, wanted 16384 as flow\.vocab_size says"
    with pytest.raises(ValueError, match=message):
        door.load(tmp_path)


def test_our_own_folder_comes_back_unchanged(tmp_path):
    ours = small_decoder(causal_blocks=2, hift=True)
    save(tmp_path, ours.saved)
    again = door.load(tmp_path)
    assert read(tmp_path).shape == ours.saved.shape and again.speakers == ours.speakers
    assert torch.equal(again.decode([1, 2, 3], "speaker1"), ours.decode([1, 2, 3], "speaker1"))
    plain = small_decoder(hift=True).saved
    assert list(plain.flow.state_dict()) == list(ours.flow.state_dict())  # the causal variant keeps the layout
