"""The recipe of the speech decoder's training: how it begins, whose voice it learns, and when it gives up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from components.shared.audio import read_wave
from components.shared.places import Inputs, Outputs
from components.shared.tracking import TerminalTracker
from components.speech_decoder import model as door
from components.speech_decoder import phases, voices
from components.speech_decoder.config import HearingConfig, VoicesConfig
from components.speech_decoder.data import BatchSize, Pair, plan_epoch, read_corpus
from components.speech_decoder.flow import frames_of
from components.speech_decoder.hearing import Hearing
from components.speech_decoder.mel import SAMPLE_RATE_HZ
from components.speech_decoder.module import Weights
from components.speech_decoder.phases import reason
from components.speech_decoder.speech import Judge
from components.speech_decoder.stage import run
from components.speech_decoder.start import begin_alike
from tests.tones import section, small_decoder, write_corpus

HEARING = HearingConfig(every_steps=2, num_sentences=1, patience=2, least_fall=0.1, enough=0.3)


# Start


def test_token_embeddings_begin_as_alike_as_the_codes_they_stand_for():
    torch.manual_seed(0)
    codes = torch.randn(50, 24) @ torch.diag(torch.linspace(3, 0.1, 24)) + 5
    embedding = nn.Embedding(50, 16)
    begin_alike(embedding, codes)
    apart, wanted = torch.cdist(embedding.weight, embedding.weight), torch.cdist(codes, codes)
    upper = torch.triu_indices(50, 50, 1)
    together = torch.corrcoef(torch.stack([apart[upper[0], upper[1]], wanted[upper[0], upper[1]]]))
    assert float(together[0, 1].detach()) > 0.98
    assert float(embedding.weight.detach().std()) == pytest.approx(1.0, abs=0.01)
    wide = nn.Embedding(50, 32)
    begin_alike(wide, codes)
    assert not wide.weight[:, 24:].any()


def test_codes_of_another_vocabulary_are_one_clear_line():
    with pytest.raises(ValueError, match="got 49 codes, wanted 50"):
        begin_alike(nn.Embedding(50, 16), torch.randn(49, 24))


# Voices


def test_vectors_that_were_heard_are_not_trained_and_learned_ones_are():
    flow = small_decoder().flow
    heard = Weights(flow, 2, torch.ones(2, 192)).requires_grad_(False).learn()
    assert not heard.speakers.weight.requires_grad and flow.input_embedding.weight.requires_grad
    assert Weights(flow, 2).requires_grad_(False).learn().speakers.weight.requires_grad


def test_an_extractor_that_cannot_be_fetched_is_said_and_vectors_are_learned(tmp_path, monkeypatch, capsys):
    write_corpus(tmp_path, ["train"] * 3)
    corpus = read_corpus(tmp_path / "tokenize/tokens", tmp_path / "collect/utterances", section("smoke").data)

    def fails(*_: object) -> None:
        raise ConnectionError("piece campplus: the package index cannot be reached")

    monkeypatch.setattr("components.shared.speaker_embedding.SpeakerEmbedder", fails)
    config = VoicesConfig(source="piece:campplus", num_utterances=2)
    assert voices.speaker_vectors(corpus, config, TerminalTracker()) is None
    assert "speaker vectors are learned instead" in "".join(capsys.readouterr())


def test_a_speaker_is_the_mean_of_its_first_utterances(tmp_path, monkeypatch):
    write_corpus(tmp_path, ["train"] * 6)
    corpus = read_corpus(tmp_path / "tokenize/tokens", tmp_path / "collect/utterances", section("smoke").data)

    class Lengths:
        def __init__(self, source: str, device: str) -> None:
            pass

        def embed(self, waves, sample_rate_hz):
            rows = torch.zeros(len(waves), 192)
            for row, wave in zip(rows, waves, strict=True):
                row[0], row[1] = 1.0, len(wave) / sample_rate_hz
            return rows

    monkeypatch.setattr("components.shared.speaker_embedding.SpeakerEmbedder", Lengths)
    found = voices.speaker_vectors(corpus, VoicesConfig(source="x", num_utterances=2), TerminalTracker())
    assert found is not None and found.shape == (2, 192)
    assert torch.allclose(found.norm(dim=1), torch.ones(2))
    first = [pair.duration_s for pair in corpus.train if pair.speaker == corpus.speakers[0]][:2]
    wanted = nn.functional.normalize(torch.tensor([[1.0, s] for s in first]), dim=1).mean(dim=0)
    assert torch.allclose(found[0, :2], nn.functional.normalize(wanted, dim=0), atol=1e-3)


# Hearing


def hearing(config: HearingConfig = HEARING) -> Hearing:
    return Hearing(config, "flow", lambda step: 1.0, lambda: "look at the flow", TerminalTracker())


def test_a_run_whose_speech_stays_unintelligible_ends_with_a_hint():
    ear = hearing()
    for step, rate in ((2, 1.2), (4, 0.9), (6, 0.88)):
        ear.look(rate, step)
    with pytest.raises(ValueError, match=r"step 8: .* 0.91 .* 0.90 at step 4 .*look at the flow") as raised:
        ear.look(0.91, 8)
    assert "\n" not in str(raised.value)


def test_a_run_that_is_understood_need_not_get_better():
    ear = hearing()
    for step in range(2, 20, 2):
        ear.look(0.29, step)
    assert ear.missed == 8 > HEARING.patience and ear.best_step == 2


def test_what_was_heard_survives_a_resume():
    ear = hearing()
    ear.look(0.9, 2)
    ear.look(0.9, 4)
    again = hearing()
    again.load_state_dict(ear.state_dict())
    with pytest.raises(ValueError, match="step 6"):
        again.look(0.9, 6)


@pytest.mark.parametrize("settings", [{"patience": 0}, {"least_fall": 1.0}])
def test_a_patience_that_means_nothing_is_refused(settings):
    with pytest.raises(ValueError, match=r"speech_decoder\.hearing: got"):
        hearing(replace(HEARING, **settings))


def test_the_hint_names_the_part_that_fails():
    config = replace(section("smoke"), hearing=HEARING)
    assert "the vocoder alone has 0.80" in reason(0.8, 0.9, config)
    assert "look at the flow" in reason(0.1, 0.2, config)
    assert "do tokens and audio belong together" in reason(0.1, 0.9, config)
    published = replace(config, objective=replace(config.objective, prior_weight=0.0))
    assert "objective.prior_weight is 0" in reason(0.1, 0.9, published)


def test_the_stage_listens_while_it_trains_and_stops(tmp_path, monkeypatch):
    """Real training, decoding and callback; the judge alone is a stand-in, which understands nothing."""

    class Deaf:
        def __init__(self, source: str) -> None:
            pass

        def known(self, pairs):
            return list(pairs)

        def rate(self, waves, pairs):
            assert all(wave.ndim == 1 and len(wave) for wave in waves)
            return 1.0

    write_corpus(tmp_path / "data", ["train"] * 10 + ["validation"] * 4)
    monkeypatch.setattr(phases, "Judge", Deaf)
    config = replace(section("smoke"), judge="deaf", hearing=replace(HEARING, every_steps=1))
    outputs = Outputs(root=tmp_path / "data/speech_decoder", work=tmp_path / ".work/speech_decoder")
    with pytest.raises(ValueError, match=r"phase flow, step 3: word error rate 1.00 .*the vocoder alone has 1.00"):
        run(config, Inputs(tmp_path / "data"), outputs, TerminalTracker())


def test_content_alone_can_be_heard():
    decoder = small_decoder()
    mel = decoder.content_mel([1, 2, 3])
    assert mel.shape == (80, 20) and isinstance(decoder, door.SpeechDecoder)


def test_a_decoder_that_was_heard_trains_on_with_its_dropout():
    """Hearing puts the average into evaluation mode, and the next phase begins with that very average."""
    decoder = small_decoder()
    weights = Weights(decoder.flow, 2)
    assert not weights.flow.training
    assert weights.learn().flow.encoder.dropout.training


def test_what_is_heard_comes_from_every_speaker(tmp_path):
    write_corpus(tmp_path, ["train"] * 6)
    corpus = read_corpus(tmp_path / "tokenize/tokens", tmp_path / "collect/utterances", section("smoke").data)
    pairs = [pair for name in corpus.speakers for pair in corpus.train if pair.speaker == name]
    assert {pair.speaker for pair in phases.spread(pairs, 2)} == {"speaker0", "speaker1"}
    assert len(phases.spread(pairs, 100)) == 6


def test_no_utterance_to_hear_a_voice_in_is_one_clear_line(tmp_path):
    write_corpus(tmp_path, ["train"] * 3)
    corpus = read_corpus(tmp_path / "tokenize/tokens", tmp_path / "collect/utterances", section("smoke").data)
    with pytest.raises(ValueError, match=r"voices\.num_utterances: got 0, wanted at least 1"):
        voices.speaker_vectors(corpus, VoicesConfig(source="x", num_utterances=0), TerminalTracker())


def test_rows_of_blocks_fill_their_batch():
    """Utterances of 20 s, of which a row shows three blocks at most."""
    size = BatchSize(max_crop_s=0, frames_per_batch=6000, block_tokens=10, max_blocks=3)
    plans = plan_epoch([250] * 600, size, 12.5, np.random.default_rng(0))
    assert max(len(plan.rows) for plan in plans) == 6000 // frames_of(30, 12.5)


def test_phases_of_one_name_would_share_their_checkpoints(tmp_path):
    write_corpus(tmp_path / "data", ["train"] * 4)
    config = section("smoke")
    config = replace(config, phases=[config.phases[0], config.phases[0]])
    outputs = Outputs(root=tmp_path / "data/speech_decoder", work=tmp_path / ".work/speech_decoder")
    with pytest.raises(ValueError, match=r"phases: got the names .*wanted different ones"):
        run(config, Inputs(tmp_path / "data"), outputs, TerminalTracker())


def test_the_judge_understands_recordings_and_no_noise():
    """A real Whisper on the recorded prompts, as training and evaluation ask it."""
    folder = Path(__file__).parents[1] / "data/corpora/prompts_en"
    lines = [line.split("\t") for line in (folder / "transcripts.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    chosen = [(name, float(seconds), text) for name, seconds, text in lines if 2.5 < float(seconds) < 6.0][:6]
    pairs = [
        Pair(
            id=name,
            audio=folder / name,
            tokens=np.zeros(1, dtype=np.uint16),
            text=text,
            language="en",
            speaker="speaker",
            split="validation",
            duration_s=seconds,
        )
        for name, seconds, text in chosen
    ]
    try:
        judge = Judge("piece:whisper-tiny.en")
    except ConnectionError as error:
        pytest.skip(str(error))
    assert judge.known([*pairs, replace(pairs[0], text=None), replace(pairs[0], language="zh")]) == pairs
    waves = [read_wave(pair.audio, SAMPLE_RATE_HZ)[0] for pair in pairs]
    rng = np.random.default_rng(0)
    noise = [(0.1 * rng.standard_normal(len(wave))).astype(np.float32) for wave in waves]
    assert judge.rate(waves, pairs) < 0.15
    assert judge.rate(noise, pairs) > 0.8
