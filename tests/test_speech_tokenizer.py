"""The speech tokenizer: published numbers, the quantiser against plain references, the public door."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_tokenizer import noise, small_config, small_tokenizer
from torch import Tensor

from components.shared.features import log_mel
from components.speech_tokenizer import checkpoint
from components.speech_tokenizer.codebook_start import kmeans
from components.speech_tokenizer.model import load
from components.speech_tokenizer.quantizer import code_use, nearest_codes, restart_dead_codes
from components.speech_tokenizer.transcripts import train_tokenizer
from components.speech_tokenizer.whisper_vq import WhisperVQ

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "speech_tokenizer"
CASES = ("12.5hz_block_causal", "12.5hz_bidirectional", "6.25hz_block_causal", "25hz_block_causal", "50hz_no_pooling")


@pytest.fixture(params=CASES)
def golden(request: pytest.FixtureRequest) -> tuple[Path, dict[str, Tensor]]:
    """One published case: its folder, its inputs and outputs."""
    folder = GOLDEN / request.param
    if not folder.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{folder}: not there, and CI=true wants it")
        pytest.skip(f"{folder}: the golden cases are not on this machine")
    return folder, load_file(folder / "io.safetensors")


# --- the published numbers


def test_encoding_and_logits_equal_the_published_code(golden: tuple[Path, dict[str, Tensor]]) -> None:
    folder, io = golden
    tokenizer = load(folder)
    ids, valid = tokenizer.encode_features(io["input_features"], io["attention_mask"])
    assert ids.shape == io["token_ids"].shape
    assert torch.equal(ids[valid], io["token_ids"][valid])
    with torch.no_grad():
        states, valid, _ = tokenizer.network.encoder(io["input_features"], io["attention_mask"])
        logits = tokenizer.network.logits(states, valid, io["decoder_input_ids"])
    torch.testing.assert_close(states[valid], io["encoder_last_hidden_state"][valid], atol=1e-4, rtol=0)
    torch.testing.assert_close(logits, io["decoder_logits"], atol=1e-4, rtol=0)


def test_training_passes_equal_the_published_code(golden: tuple[Path, dict[str, Tensor]]) -> None:
    folder, io = golden
    network = load(folder).network.train()
    config, encoder = network.config, network.encoder
    for number in range(3):
        _, valid, quantised = encoder(io[f"train{number}_input_features"], io["attention_mask"])
        loss = config.quantize_loss_scale * config.quantize_commit_coefficient * quantised.commitment
        assert torch.equal(quantised.token_ids[valid], io[f"train{number}_token_ids"][valid])
        torch.testing.assert_close(loss[None], io[f"train{number}_quantize_loss"], atol=1e-4, rtol=0)
        for name, value in (
            ("ema_count", encoder.ema_count),
            ("ema_weight", encoder.ema_weight),
            ("codebook", encoder.codebook.weight.detach()),
        ):
            torch.testing.assert_close(value, io[f"train{number}_{name}"], atol=1e-4, rtol=0)


def test_a_load_for_encoding_drops_what_lies_behind_the_quantiser(golden: tuple[Path, dict[str, Tensor]]) -> None:
    folder, io = golden
    tokenizer = load(folder, encoder_only=True)
    assert len(tokenizer.network.encoder.layers) == tokenizer.config.quantize_position
    ids, valid = tokenizer.encode_features(io["input_features"], io["attention_mask"])
    assert torch.equal(ids[valid], io["token_ids"][valid])
    with pytest.raises(ValueError, match="up to the quantiser"):
        tokenizer._transcribe([ids[0]], None) if tokenizer.folder is None else tokenizer.network.encoder.after(
            torch.zeros(1, 2, tokenizer.config.d_model), torch.ones(1, 2, dtype=torch.bool)
        )


# --- features


@pytest.mark.parametrize("num_mels", [80, 128])
def test_log_mel_equals_the_whisper_feature_extractor(num_mels: int) -> None:
    from transformers import WhisperFeatureExtractor

    waves = [noise(seconds, seed) for seed, seconds in enumerate((0.01, 0.5, 3.217, 7.0))]
    wanted = WhisperFeatureExtractor(feature_size=num_mels)(
        [wave.numpy() for wave in waves], sampling_rate=16_000, return_attention_mask=True, return_tensors="pt"
    )
    got, mask = log_mel(waves, num_mels, floor=None, multiple=8)
    frames = got.shape[2]
    torch.testing.assert_close(got, wanted.input_features[:, :, :frames], atol=1e-4, rtol=0)
    assert torch.equal(mask, wanted.attention_mask[:, :frames].bool())


def test_the_features_of_a_long_clip_are_those_of_its_parts() -> None:
    wave = noise(150.0, 3)
    whole, _ = log_mel([wave], 80, floor=-6.0)
    part, _ = log_mel([wave[2_000_000:]], 80, floor=-6.0)
    assert whole.shape[2] == 15_000
    torch.testing.assert_close(whole[:, :, 12_510:], part[:, :, 10:], atol=1e-5, rtol=0)


# --- the quantiser against plain references


def test_restart_and_averages_equal_a_plain_reference_over_300_passes() -> None:
    """37 codes, up to 12 vectors a pass: at most restarts more codes are dead than there are vectors."""
    network = WhisperVQ(small_config(quantize_vocab_size=37, quantize_restart_interval=5, quantize_ema_decay=0.8))
    checkpoint.randomise(network, seed=1)
    encoder = network.encoder.train()
    encoder.restart_seed = 7
    decay, interval = 0.8, 5
    codebook = encoder.codebook.weight.detach().numpy().astype(np.float64).copy()
    count, weight = np.ones(37), encoder.ema_weight.numpy().astype(np.float64).copy()
    rng = np.random.default_rng(0)
    most_dead = 0
    for step in range(1, 301):
        lengths = rng.integers(1, 7, size=2)
        valid = torch.arange(6)[None, :] < torch.from_numpy(lengths)[:, None]
        hidden = torch.from_numpy(rng.normal(0, 0.05, (2, 6, 32)).astype(np.float32))
        vectors = hidden[valid].numpy().astype(np.float64)
        ids = ((vectors[:, None] - codebook[None]) ** 2).sum(2).argmin(1)
        quantised = encoder.quantise(hidden, valid)
        assert quantised.token_ids[valid].tolist() == ids.tolist()
        won = np.eye(37)[ids]
        count = decay * count + (1 - decay) * won.sum(0)
        count = (count + 1e-5) / (count.sum() + 37e-5) * count.sum()
        weight = decay * weight + (1 - decay) * won.T @ vectors
        codebook = weight / count[:, None]
        if step % interval == 0:
            dead = np.flatnonzero(count < decay**interval)
            most_dead = max(most_dead, len(dead) - len(vectors))
            fresh = encoder.codebook.weight.detach().numpy()[dead]
            for vector in fresh:
                assert (np.abs(vectors - vector).max(1) < 1e-6).any()
            times = np.unique(fresh, axis=0, return_counts=True)[1]
            assert len(times) == min(len(dead), len(vectors)) and np.ptp([*times] or [0]) <= 1
            codebook[dead], weight[dead], count[dead] = fresh, fresh, 1.0
            assert quantised.restarted == len(dead)
        np.testing.assert_allclose(encoder.ema_count.numpy(), count, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(encoder.codebook.weight.detach().numpy(), codebook, rtol=1e-3, atol=1e-5)
    assert most_dead > 0


def test_restart_draws_are_repeated_by_their_seed_and_changed_by_another() -> None:
    def drawn(seed: int) -> Tensor:
        codebook, count, weight = torch.zeros(6, 3), torch.zeros(6), torch.zeros(6, 3)
        vectors = torch.arange(30.0).view(10, 3)
        assert restart_dead_codes(codebook, count, weight, vectors, 0.5, seed) == 6
        assert torch.equal(count, torch.ones(6)) and torch.equal(weight, codebook)
        return codebook

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_gradient_passes_straight_through_the_bottleneck() -> None:
    network = small_tokenizer().network.train()
    hidden = torch.randn(1, 5, 32, requires_grad=True)
    quantised = network.encoder.quantise(hidden, torch.ones(1, 5, dtype=torch.bool))
    quantised.hidden.sum().backward()
    assert torch.equal(hidden.grad, torch.ones_like(hidden))


def test_nearest_code_of_a_tie_is_the_lowest() -> None:
    codebook = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    assert nearest_codes(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), codebook).tolist() == [1, 0]


def test_kmeans_finds_separate_clusters_and_leaves_no_code_empty() -> None:
    generator = torch.Generator().manual_seed(0)
    middles = 10 * torch.randn(8, 4, generator=generator)
    vectors = (middles[:, None] + 0.1 * torch.randn(8, 50, 4, generator=generator)).flatten(0, 1)
    centres, counts = kmeans(vectors, 24, 20, seed=1)
    assert counts.sum() == 400 and (counts > 0).float().mean() > 0.9
    assert (torch.cdist(vectors, centres).min(1).values < 1).all()
    assert torch.equal(kmeans(vectors, 24, 20, seed=1)[0], centres)
    with pytest.raises(ValueError, match="no hidden states"):
        kmeans(torch.empty(0, 4), 4, 3, seed=1)


def test_code_use_counts_shares_and_perplexity() -> None:
    used, perplexity = code_use(torch.tensor([5.0, 5.0, 0.0, 0.0]))
    assert used == 0.5 and abs(perplexity - 2.0) < 1e-9


# --- the door


def test_tokens_do_not_depend_on_what_else_is_in_the_batch() -> None:
    for changes in ({}, {"encoder_causal_convolution": False, "quantize_causal_block_size": None}):
        tokenizer = small_tokenizer(**changes)
        waves = [noise(seconds, seed) for seed, seconds in enumerate((0.4, 1.31, 1.9, 0.07))]
        alone = [tokenizer.encode([wave])[0] for wave in waves]
        together = tokenizer.encode(waves)
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
        assert [len(tokens) for tokens in together] == [5, 17, 24, 1]


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 0.99), (torch.bfloat16, 0.7)])
def test_a_gpu_gives_the_tokens_of_the_cpu(dtype: torch.dtype, least: float) -> None:
    on_cpu, on_gpu = small_tokenizer(), small_tokenizer("cuda", dtype)
    waves = [noise(seconds, seed) for seed, seconds in enumerate((0.07, 1.3, 1.9, 5.0, 30.0))]
    wanted, got = torch.cat(on_cpu.encode(waves)), torch.cat(on_gpu.encode(waves))
    assert got.device.type == "cpu" and float((wanted == got).float().mean()) >= least


def test_encoding_equals_features_given_by_hand() -> None:
    tokenizer = small_tokenizer(feature_normalization="clip", feature_floor=None)
    wave = noise(1.5, 2)
    features, mask = log_mel([wave], 16, floor=None, multiple=8)
    ids, valid = tokenizer.encode_features(features, mask)
    assert torch.equal(ids[valid], tokenizer.encode([wave])[0])


def test_waves_features_and_tokens_that_make_no_sense_are_one_clear_error() -> None:
    tokenizer = small_tokenizer()
    for wave, words in (
        (torch.empty(0), "no samples"),
        (torch.full((100,), float("nan")), "NaN"),
        (torch.zeros(2, 100), "shape"),
        (torch.zeros(100, dtype=torch.int16), "int16"),
    ):
        with pytest.raises(ValueError, match=words):
            tokenizer.encode([noise(0.5, 1), wave])
    for work in (lambda: tokenizer.encode([noise(0.5, 1)], 24_000), lambda: tokenizer.stream(8_000)):
        with pytest.raises(ValueError, match=r"sample_rate_hz: got .*, wanted 16000"):
            work()
    with pytest.raises(ValueError, match="attention_mask"):
        tokenizer.encode_features(torch.zeros(1, 16, 40), torch.ones(1, 39))
    with pytest.raises(ValueError, match="input_features"):
        tokenizer.encode_features(torch.zeros(1, 80, 40), torch.ones(1, 40))
    with pytest.raises(ValueError, match="mel frames"):
        tokenizer.encode_features(torch.zeros(1, 16, 400), torch.ones(1, 400))
    with pytest.raises(ValueError, match=r"wanted codes 0\.\.23"):
        tokenizer.transcribe([torch.tensor([24])])


def test_configurations_that_cannot_work_are_one_clear_error(tmp_path: Path) -> None:
    for changes, words in (
        ({"pooling_position": 3}, "behind the quantiser"),
        ({"quantize_position": 9}, "quantize_position"),
        ({"quantize_causal_block_size": 21}, "multiple of pooling_kernel_size"),
        ({"feature_floor": None}, "feature_floor"),
        ({"pooling_type": "max"}, "avg"),
    ):
        with pytest.raises(ValueError, match=words):
            small_config(**changes)
    with pytest.raises(ValueError, match=r"config\.json: no such file"):
        load(tmp_path)


# --- folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A written tokenizer with a text tokenizer of 300 ids."""
    tokenizer = train_tokenizer(["the cat sat on the mat"] * 3, ["en", "zh"], 270)
    network = small_tokenizer(vocab_size=tokenizer.get_vocab_size()).network
    checkpoint.write(network, tmp_path, tokenizer)
    return tmp_path


def test_a_folder_comes_back_as_it_was_written(folder: Path) -> None:
    written = small_tokenizer()
    read = load(folder)
    assert torch.equal(read.encode([noise(1, 1)])[0], written.encode([noise(1, 1)])[0])
    assert all(isinstance(text, str) for text in read.transcribe([torch.arange(8), torch.arange(3)]))
    assert (
        read.transcribe([torch.arange(8)], ["en"])
        == read.transcribe([torch.arange(8), torch.arange(3)], ["en"] * 2)[:1]
    )
    with pytest.raises(ValueError, match="language: got 'fr'"):
        read.transcribe([torch.arange(8)], ["fr"])


def test_a_sharded_folder_and_one_without_what_lies_behind_the_quantiser_load(folder: Path) -> None:
    wanted = load(folder).encode([noise(1, 1)])[0]
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for part, own in parts.items():
        save_file({name: tensors[name] for name in own}, folder / part)
    index = {"weight_map": {name: part for part, own in parts.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(load(folder).encode([noise(1, 1)])[0], wanted)
    bare = {
        name.removeprefix("model.encoder."): value
        for name, value in tensors.items()
        if name.startswith("model.encoder.") and "layers.2" not in name
    }
    for part in parts:
        (folder / part).unlink()
    save_file(bare, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"quantize_encoder_only": True}
    (folder / "config.json").write_text(json.dumps(config))
    assert torch.equal(load(folder).encode([noise(1, 1)])[0], wanted)


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "truncated"])
def test_a_broken_checkpoint_is_one_clear_error(folder: Path, fault: str) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = "model.encoder.conv1.weight"
    if fault == "missing":
        del tensors[name]
    elif fault == "extra":
        tensors["model.encoder.layers.7.fc1.bias"] = torch.zeros(3)
    elif fault == "shape":
        tensors[name] = torch.zeros(2, 2)
    save_file(tensors, path)
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"safetensors file|conv1\.weight|layers\.7"):
        load(folder)
