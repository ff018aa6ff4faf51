"""What the speech tokenizer learns from: batches, what is left out, and where a transcript ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_whisper import QUIET, SMALL, utterance

from components.speech_tokenizer.batch import Clip, add_noise, change_speed, mask_features
from components.speech_tokenizer.data import Batches, choose_clips, in_order
from components.speech_tokenizer.transcripts import Transcripts, _loops


def clip(number: int, **changes: object) -> Clip:
    made = Clip(
        id=f"c{number}",
        path=Path(f"c{number}.flac"),
        duration_s=1 + number % 7,
        transcript=(1, 2, 3),
        text="x",
        language="en",
        origin="recorded",
        corpus="c",
        is_pseudo=False,
    )
    return replace(made, **changes)


def test_batches_hold_similar_durations_within_the_budget_and_every_clip_as_often_as_its_weight() -> None:
    clips = [clip(number, corpus="rare" if number < 10 else "c") for number in range(100)]
    config = replace(SMALL, batch_s=20.0, num_buckets=4, corpus_weights={"rare": 3.0})
    batches = list(Batches(clips, config, 0, 1).epoch(0))
    assert all(sum(clips[i].duration_s for i in batch) <= 20 for batch in batches)
    spread = [max(clips[i].duration_s for i in batch) - min(clips[i].duration_s for i in batch) for batch in batches]
    assert np.mean(spread) < 1.5
    seen = np.bincount([index for batch in batches for index in batch], minlength=100)
    assert seen[:10].tolist() == [3] * 10 and seen[10:].tolist() == [1] * 90
    assert batches == list(Batches(clips, config, 0, 1).epoch(0)) != list(Batches(clips, config, 0, 1).epoch(1))


def test_pseudo_labelled_speech_is_shown_in_its_ratio_to_human_transcripts() -> None:
    clips = [clip(number, duration_s=1.0, is_pseudo=number >= 20) for number in range(200)]
    seen = [i for batch in Batches(clips, replace(SMALL, pseudo_per_human=3.0), 0, 1).epoch(0) for i in batch]
    assert 40 <= sum(index >= 20 for index in seen) <= 80 and sum(index < 20 for index in seen) == 20


def test_ranks_share_the_batches_of_one_process() -> None:
    clips = [clip(number) for number in range(60)]
    one = list(Batches(clips, replace(SMALL, batch_s=24.0), 0, 1).epoch(0))
    two = [list(Batches(clips, replace(SMALL, batch_s=12.0), rank, 2).epoch(0)) for rank in (0, 1)]
    for whole, first, second in zip([batch for batch in one if len(batch) > 1], *two, strict=True):
        assert first + second == whole


def test_utterances_that_cannot_be_used_are_counted_by_reason() -> None:
    from components.speech_tokenizer.transcripts import train_tokenizer

    transcripts = Transcripts(train_tokenizer(["the cat"], ["en", "zh"], 270))
    rows = [
        utterance("good", 1.0),
        utterance("long", 41.0),
        utterance("short", 0.05),
        utterance("french", 1.0, language="fr"),
        utterance("silent", 1.0, text=None, text_source="none"),
        utterance("novel", 1.0, text="word " * 400),
        utterance("other", 1.0, split="test"),
    ]
    clips, dropped = choose_clips(rows, Path("/x"), "train", SMALL, transcripts, 448)
    assert [clip.id for clip in clips] == ["good", "silent"]
    assert dropped == {"too_long": 1, "too_short": 1, "other_language": 1, "long_transcript": 1}
    _, dropped = choose_clips(rows, Path("/x"), "train", replace(SMALL, distil_weight=0.0), transcripts, 448)
    assert dropped["no_transcript"] == 1


def test_validation_order_holds_every_clip_once() -> None:
    clips = [clip(number) for number in range(23)]
    assert sorted(index for batch in in_order(clips, 20.0) for index in batch) == list(range(23))


# --- what is done to clips


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 30.0])
def test_noise_comes_at_its_ratio_and_to_its_share_of_the_clips(snr_db: float) -> None:
    wave = np.sin(np.arange(16_000) / 7).astype(np.float32)
    augment = replace(QUIET, noise_share=0.3, noise_snr_db=[snr_db, snr_db])
    noisy = [add_noise(wave, augment, np.random.default_rng(seed)) - wave for seed in range(200)]
    noisy = [noise for noise in noisy if noise.any()]
    assert 40 <= len(noisy) <= 80
    for noise in noisy:
        assert 10 * np.log10(np.mean(wave**2) / np.mean(noise**2)) == pytest.approx(snr_db, abs=0.05)


def test_speed_changes_length_and_pitch() -> None:
    wave = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype(np.float32)
    faster = change_speed(wave, replace(QUIET, speeds=[1.25]), np.random.default_rng(0))
    assert len(faster) == 12_800
    assert np.abs(np.fft.rfft(faster)).argmax() * 16_000 / 12_800 == pytest.approx(550, abs=2)
    assert change_speed(wave, QUIET, np.random.default_rng(0)) is wave


def test_masks_are_as_many_and_as_wide_as_said_and_lie_on_speech() -> None:
    features = torch.rand(6, 80, 300) + 1.0
    mask = torch.arange(300)[None, :] < torch.tensor([300, 300, 200, 200, 100, 40])[:, None]
    augment = replace(QUIET, time_masks=2, time_mask_s=0.5, mel_masks=1, mel_mask_bins=10)
    rngs = [np.random.default_rng(seed) for seed in range(6)]
    masked = mask_features(features, mask, augment, rngs)
    changed = masked != features
    assert float(masked.min()) == float(features.min()) and changed.any(dim=(1, 2)).all()
    for row, valid in zip(changed, mask.sum(1).tolist(), strict=True):
        times, bands = row.float().mean(0) > 0.5, row.float().mean(1) > 0.5
        assert int(times.sum()) <= min(100, valid // 2) and not times[valid:].any()
        assert int(bands.sum()) <= 10
        assert not row[~bands][:, ~times].any()
    again = mask_features(features, mask, augment, [np.random.default_rng(seed) for seed in range(6)])
    assert torch.equal(masked, again)


# --- transcripts


def test_text_that_goes_round_in_circles_ends_after_one_round() -> None:
    ids = [5, 1, 2, 3, 1, 2, 3, 1, 2, 3]
    assert _loops(ids) and ids == [5, 1, 2, 3]
    ids = [7] * 8
    assert _loops(ids) and ids == [7]
    assert not _loops([4, 4, 4]) and not _loops([1, 2, 1, 2, 3])
    phrase = [3, 1, 4, 1, 5, 9]
    ids = [*phrase, 2, *phrase, 7, 8, *phrase]
    assert not _loops(ids[:-1]) and _loops(ids) and ids == [*phrase, 2]
