"""HiFT's training: what judges it, the pitch it learns from, its batches, that it learns, resumes and is served."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.config import load_config
from components.shared.tracking import TerminalTracker
from components.speech_decoder.config import VocoderConfig, VocoderKind
from components.speech_decoder.data import Corpus, read_corpus
from components.speech_decoder.discriminators import Discriminators, Judged
from components.speech_decoder.hift import Hift
from components.speech_decoder.layout import read, save
from components.speech_decoder.mel import HOP, SAMPLE_RATE_HZ, log_mel
from components.speech_decoder.model import SpeechDecoder
from components.speech_decoder.pitch import pitch_of
from components.speech_decoder.vocoder import whole_wave
from components.speech_decoder.vocoder_data import EDGE_FRAMES, CropBatches, Waves, long_enough
from components.speech_decoder.vocoder_losses import (
    discriminator_loss,
    feature_loss,
    mel_loss,
    pitch_errors,
    relativistic_loss,
    spectral_loss,
)
from components.speech_decoder.vocoder_module import _frozen
from components.speech_decoder.vocoder_training import check_vocoder, make_module, make_network, train_vocoder
from tests.tones import section, small_decoder, some_codes, tone, write_corpus

SMOKE = section("smoke").vocoder


class Killed(Exception):
    """Stands for what ends a run."""


class Curves(TerminalTracker):
    """Keeps the curves; can end the run at a step."""

    def __init__(self, end_at: int = -1) -> None:
        self.points: dict[str, dict[int, float]] = {}
        self.end_at = end_at

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            self.points.setdefault(name, {})[step or 0] = value
        if step == self.end_at:
            raise Killed


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    data = tmp_path_factory.mktemp("tones")
    write_corpus(data, ["train"] * 6 + ["validation"] * 2)
    return read_corpus(data / "tokenize/tokens", data / "collect/utterances", section("smoke").data)


def settings(num_steps: int, **changes: Any) -> VocoderConfig:
    trainer = replace(SMOKE.trainer, num_steps=num_steps, validate_every_steps=num_steps // 2)
    return replace(SMOKE, **{"trainer": trainer, **changes})


def train(
    config: VocoderConfig, corpus: Corpus, folder: Path, tracker: TerminalTracker
) -> tuple[Hift, dict[str, float]]:
    network, metrics = train_vocoder(config, 3, replace(corpus, dropped=Counter()), folder, tracker)
    assert network is not None
    return network, metrics


# Discriminators and losses


def test_every_discriminator_judges_and_tells_the_generator_how_to_do_better() -> None:
    config = replace(SMOKE.discriminators, periods=[2, 3, 5, 7, 11], resolutions=[[1024, 120, 600], [256, 64, 256]])
    judges, wave = Discriminators(config), torch.from_numpy(tone(0.2))[None].repeat(2, 1).requires_grad_()
    judged = judges(wave)
    assert len(judged) == 7
    for one in judged:
        assert one.verdict.shape[0] == 2 and one.features[-1].flatten(1).equal(one.verdict)
        (gradient,) = torch.autograd.grad(one.verdict.sum(), wave, retain_graph=True)
        assert float(gradient.abs().sum()) > 0
    discriminator_loss(judges(wave.detach()), judges(wave.detach() * 0.5)).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in judges.parameters())


def test_the_generators_losses_do_not_move_the_discriminators() -> None:
    judges, wave = Discriminators(SMOKE.discriminators), torch.randn(1, 4096, requires_grad=True)
    with _frozen(judges):
        heard = judges(wave)
    sum(one.verdict.square().mean() for one in heard).backward()
    assert wave.grad is not None and float(wave.grad.abs().sum()) > 0
    assert all(p.grad is None and p.requires_grad for p in judges.parameters())


def test_equal_waves_have_no_feature_and_no_spectral_loss() -> None:
    judges, wave = Discriminators(SMOKE.discriminators), torch.from_numpy(tone(0.3))[None]
    assert feature_loss(judges(wave), judges(wave)).item() == 0.0
    assert feature_loss(judges(wave), judges(0.9 * wave)).item() > 0.0
    assert float(spectral_loss(wave, wave, SMOKE.discriminators.resolutions)) == pytest.approx(0.0, abs=1e-6)


def test_a_judge_that_is_never_wrong_has_nothing_to_learn() -> None:
    right, wrong = ([Judged(verdict=torch.full((1, 5), value), features=[])] for value in (1.0, 0.0))
    assert float(discriminator_loss(right, wrong)) == 0.0
    assert float(discriminator_loss(wrong, right)) == 2.0
    mixed = [Judged(verdict=torch.tensor([[0.0, 0.1, 5.0]]), features=[])]
    assert float(relativistic_loss(right, wrong, 0.04)) == 0.0
    assert 0.0 < float(relativistic_loss(mixed, [Judged(verdict=torch.zeros(1, 3), features=[])], 0.04)) <= 0.04


# Pitch


def test_the_pitch_of_a_glide_is_within_two_percent_at_the_middle_of_every_frame() -> None:
    hz = np.geomspace(100, 280, 2 * SAMPLE_RATE_HZ)
    phase = 2 * np.pi * np.cumsum(hz) / SAMPLE_RATE_HZ
    wave = (0.1 * sum(np.sin(order * phase) / order for order in range(1, 9))).astype(np.float32)
    found = pitch_of(wave)
    assert found.shape == (len(wave) // HOP,) and found.dtype == np.float32
    wanted = hz[HOP * np.arange(len(found)) + HOP // 2]
    inner = slice(5, -5)
    assert np.abs(found[inner] / wanted[inner] - 1).max() < 0.02


def test_silence_and_noise_have_no_pitch() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, SAMPLE_RATE_HZ).astype(np.float32)
    assert (pitch_of(noise) == 0).mean() > 0.9
    assert not pitch_of(np.zeros(SAMPLE_RATE_HZ, dtype=np.float32)).any()
    assert pitch_of(np.zeros(HOP - 1, dtype=np.float32)).shape == (0,)


def test_pitch_errors_are_cents_where_both_are_voiced() -> None:
    errors = pitch_errors(torch.tensor([110.0, 220.0, 0.0, 100.0]), torch.tensor([220.0, 220.0, 0.0, 0.0]), 10.0)
    assert float(errors.voicing) == 0.25 and float(errors.cents) == 0.0
    octave = pitch_errors(torch.tensor([110.0]), torch.tensor([220.0]), 10.0)
    assert float(octave.cents) == pytest.approx(1200.0)
    assert pitch_errors(torch.zeros(2), torch.zeros(2), 10.0).cents.isnan()


# Data


def test_a_batch_is_a_function_of_seed_and_step_and_its_pitch_fits_its_wave(corpus: Corpus) -> None:
    def batches(seed: int) -> CropBatches:
        return CropBatches(corpus.train, Waves(True), crop_frames=20, rows=3, seed=seed, num_batches=50)

    one, again, other = batches(1), batches(1), batches(2)
    assert torch.equal(one[40].wave, again[40].wave) and torch.equal(one[40].pitch, again[40].pitch)
    assert not torch.equal(one[40].wave, one[41].wave) and not torch.equal(one[40].wave, other[40].wave)
    assert one[0].wave.shape == (3, (20 + 2 * EDGE_FRAMES) * HOP) and one[0].pitch.shape == (3, 20)
    waves = Waves(False)
    wave, pitch = waves.of(corpus.train[0])
    assert len(wave) == HOP * len(pitch) and log_mel(wave).shape[1] == len(pitch)


def test_a_clip_shorter_than_a_crop_is_a_counted_drop(corpus: Corpus) -> None:
    short, dropped = replace(corpus.train[0], duration_s=0.2), Counter[str]()
    assert long_enough([short, corpus.train[1]], 32, dropped) == [corpus.train[1]]
    assert dropped == {"too_short_for_vocoder": 1}
    with pytest.raises(ValueError, match="no utterance holds a crop of 32 frames"):
        CropBatches([], Waves(False), crop_frames=32, rows=1, seed=0, num_batches=1)
    with pytest.raises(ValueError, match=r"vocoder\.crop_frames: got 3, wanted at least 4, one mel window"):
        CropBatches([short], Waves(False), crop_frames=3, rows=1, seed=0, num_batches=1)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"base_channels": 18}, "base_channels: got 18, wanted a multiple of 4"),
        ({"kernels": [3, 4]}, "got .3, 4., wanted odd"),
    ],
)
def test_a_shape_that_cannot_be_is_one_clear_line(shape: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_network(replace(SMOKE.shape, **shape))
    for wrong in (
        {"periods": [1]},
        {"periods": [], "resolutions": []},
        {"resolutions": [[256, 64, 512]]},
        {"period_channels": []},
        {"resolution_channels": 0},
    ):
        with pytest.raises(ValueError, match=r"vocoder\.discriminators"):
            Discriminators(replace(SMOKE.discriminators, **wrong))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_frames": 4, "discriminators": {"resolutions": [[4096, 64, 256]]}}, "crop_frames: got 4, wanted more"),
        ({"discriminators": {"resolutions": []}}, "spectral_weight: got no discriminators"),
        ({"rows_per_batch": 0}, "rows_per_batch: got 0"),
        ({"crop_frames": 10_000}, "no utterance holds a crop of 10000"),
    ],
)
def test_what_hift_cannot_train_with_is_said_before_anything_trains(tmp_path: Path, change, message) -> None:
    write_corpus(tmp_path, ["train"] * 3)
    corpus = read_corpus(tmp_path / "tokenize/tokens", tmp_path / "collect/utterances", section("smoke").data)
    inner = change.pop("discriminators", {})
    config = replace(SMOKE, **change, discriminators=replace(SMOKE.discriminators, **inner))
    config = replace(config, losses=replace(config.losses, spectral_weight=1.0))
    with pytest.raises(ValueError, match=message):
        check_vocoder(config, corpus)


def test_an_unknown_vocoder_or_setting_is_one_clear_line() -> None:
    for wrong in ("speech_decoder.vocoder.kind=wavenet", "speech_decoder.vocoder.crop_frmes=3"):
        with pytest.raises(ValueError, match=wrong.partition("=")[0].replace(".", r"\.")) as caught:
            load_config(["scale=smoke", wrong])
        assert len(str(caught.value).splitlines()) == 1


# Training


def test_griffin_lim_trains_nothing(corpus: Corpus, tmp_path: Path) -> None:
    config = replace(SMOKE, kind=VocoderKind.griffin_lim)
    assert train_vocoder(config, 0, corpus, tmp_path, TerminalTracker()) == (None, {})


def test_a_short_run_learns_the_mel_and_the_pitch(corpus: Corpus, tmp_path: Path) -> None:
    curves = Curves()
    changes = {"generator_lr": 5e-3, "discriminators_from_step": 100, "reference_pitch_until_step": 60}
    config = settings(120, rows_per_batch=4, **changes)
    config = replace(config, trainer=replace(config.trainer, checkpoint_every_steps=120))
    untrained = make_module(config, 3).average
    waves = [Waves(False).of(pair)[0] for pair in corpus.validation]
    before = np.mean([float(mel_loss(whole_wave(untrained, log_mel(wave))[None], wave[None])) for wave in waves])
    _, metrics = train(config, corpus, tmp_path, curves)
    mel, pitch = curves.points["validation/vocoder/vocoder_mel"], curves.points["vocoder/pitch"]
    assert set(metrics) == {"vocoder_mel", "vocoder_cents", "vocoder_voicing"}
    assert metrics["vocoder_mel"] == mel[120] < mel[60] < before and mel[120] < 0.6 * before
    assert pitch[120] < 0.3 * pitch[1] and metrics["vocoder_voicing"] < 0.1
    assert curves.points["vocoder/discriminators"].keys() == set(range(101, 121))


@pytest.mark.parametrize("stop", [2, 6])
def test_a_stopped_run_ends_as_if_it_had_not_stopped(stop: int, corpus: Corpus, tmp_path: Path) -> None:
    """Before the discriminators begin, and after."""
    config = settings(8, discriminators_from_step=4, reference_pitch_until_step=3)
    whole, metrics = train(config, corpus, tmp_path / "whole", Curves())
    with pytest.raises(Killed):
        train(config, corpus, tmp_path / "stopped", Curves(end_at=stop + 1))
    rest = Curves()
    resumed, again = train(config, corpus, tmp_path / "stopped", rest)
    assert min(rest.points["vocoder/mel"]) == stop + 1
    assert again == metrics
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())


def test_mixed_precision_trains_too(corpus: Corpus, tmp_path: Path) -> None:
    config = settings(4, discriminators_from_step=0)
    config = replace(config, trainer=replace(config.trainer, precision="bf16-mixed"))
    config = replace(config, losses=replace(config.losses, relativistic_weight=1.0, spectral_weight=0.0), ema_decay=0.0)
    network, metrics = train(config, corpus, tmp_path, Curves())
    assert np.isfinite(list(metrics.values())).all()
    assert all(value.dtype == torch.float32 for value in network.state_dict().values())


def test_a_saved_decoder_with_the_trained_vocoder_decodes_and_streams_equal(corpus: Corpus, tmp_path: Path) -> None:
    network, _ = train(settings(4), corpus, tmp_path, Curves())
    saved = small_decoder().saved
    saved.vocoder = network
    (tmp_path / "model").mkdir()
    save(tmp_path / "model", saved)
    decoder = SpeechDecoder(read(tmp_path / "model"), torch.device("cpu"))
    assert decoder.saved.vocoder is not None
    tokens = some_codes(27)
    whole, stream = decoder.decode(tokens), decoder.stream()
    pieces = [*(stream.push(piece) for piece in tokens.split(4)), stream.finish()]
    assert torch.allclose(torch.cat(pieces), whole, atol=1e-5)
    mel = decoder.block_mel(tokens)
    assert torch.allclose(decoder.to_wave(mel), whole, atol=1e-4) and float(whole.abs().max()) > 0
