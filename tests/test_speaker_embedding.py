"""A voice is known again whatever it says; what is no wave, or no checkpoint, is one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from components.shared.speaker_embedding import SpeakerEmbedder, load, similarity

SAID = (
    "The old bridge crosses the river near the market.",
    "Please close the window before you leave the house.",
    "She has twenty books and a loaf of bread.",
)


@pytest.fixture(scope="module")
def embedder() -> SpeakerEmbedder:
    """CAM++ from its piece."""
    try:
        return SpeakerEmbedder()
    except ConnectionError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def spoken() -> dict[str, tuple[list[np.ndarray], int]]:
    """The sentences, said by two voices: name -> waves and their rate."""
    from components.collect.voices import make_voice

    try:
        voices = {name: make_voice(name) for name in ("hibari:heart", "espeak:en-us+m3")}
    except (ConnectionError, ValueError) as error:
        pytest.skip(str(error))
    return {
        name: ([voice.speak(text, "en", seed) for seed, text in enumerate(SAID)], voice.sample_rate_hz)
        for name, voice in voices.items()
    }


def test_one_speaker_is_nearer_than_another(embedder, spoken) -> None:
    one, other = (embedder.embed(*spoken[name]) for name in spoken)
    assert one.shape == (3, 192) and one.dtype == torch.float32
    same = [similarity(vectors[i], vectors[j]) for vectors in (one, other) for i, j in ((0, 1), (0, 2), (1, 2))]
    strangers = similarity(one[:, None], other[None])
    assert min(same) > 0.6 and strangers.max() < 0.4


def test_the_rate_of_a_recording_and_its_loudness_do_not_change_who_speaks(embedder, spoken) -> None:
    from components.shared.audio import resample

    waves, rate_hz = spoken["hibari:heart"]
    original = embedder.embed(waves[:1], rate_hz)
    again = embedder.embed([resample(waves[0], rate_hz, 16_000)], 16_000)
    assert torch.equal(original, again)
    assert similarity(original, embedder.embed([0.3 * waves[0]], rate_hz)) > 0.99


def test_a_wave_has_the_same_vector_alone_and_among_others(embedder, spoken) -> None:
    waves, rate_hz = spoken["hibari:heart"]
    assert torch.equal(embedder.embed(waves, rate_hz)[1:2], embedder.embed([waves[1]], rate_hz))
    assert embedder.embed([], rate_hz).shape == (0, 192)


@pytest.mark.parametrize(
    ("wave", "said"),
    [
        (np.zeros(1000, np.float32), r"wave 1: got shape \(1000,\) at 16000 Hz, wanted \(samples,\) of at least 0.1 s"),
        (np.zeros((2, 9000), np.float32), r"wave 1: got shape \(2, 9000\)"),
        (np.full(9000, np.nan, np.float32), "wave 1: got NaN or infinite samples"),
    ],
)
def test_what_is_no_speech_is_one_line(embedder, wave: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        embedder.embed([np.zeros(9000, np.float32), wave], 16_000)


def test_what_is_no_checkpoint_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got '\./nowhere', wanted piece:campplus or the path"):
        load("./nowhere")
    torch.save({"head.conv1.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt: not the tensors of a CAM\+\+ checkpoint"):
        load(str(tmp_path / "other.pt"))
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.pt: not the tensors"):
        load(str(tmp_path / "text.pt"))
