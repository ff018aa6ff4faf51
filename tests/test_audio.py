"""Reading of waves: every kind of file comes out mono, finite and at the asked rate, or as one clear error."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from components.shared.audio import read_wave, resample, rms_dbfs, write_flac


def _tone(rate_hz: int, seconds: float = 0.5, frequency_hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(int(rate_hz * seconds)) / rate_hz)).astype(np.float32)


def test_flac_round_trip_keeps_rate_and_samples_to_16_bits(tmp_path) -> None:
    wave = _tone(24_000)
    write_flac(tmp_path / "a.flac", wave, 24_000)
    again, rate_hz = read_wave(tmp_path / "a.flac")
    assert rate_hz == 24_000 and again.dtype == np.float32
    assert np.abs(again - wave).max() < 2 / 32768


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 48_000])
def test_any_rate_is_read_at_16_khz_with_its_pitch_kept(tmp_path, rate_hz: int) -> None:
    soundfile.write(tmp_path / "a.wav", _tone(rate_hz), rate_hz)
    wave, got_hz = read_wave(tmp_path / "a.wav", 16_000)
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    assert got_hz == 16_000 and abs(len(wave) - 8_000) <= 1
    assert abs(np.argmax(spectrum) * 16_000 / len(wave) - 440) < 3


def test_channels_are_averaged(tmp_path) -> None:
    left, right = np.full(100, 0.5, np.float32), np.full(100, -0.25, np.float32)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    assert np.allclose(read_wave(tmp_path / "a.wav")[0], 0.125)


def test_what_is_not_audio_or_empty_or_not_finite_is_one_clear_error(tmp_path) -> None:
    (tmp_path / "text.wav").write_text("not audio")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan], np.float32), 16_000, subtype="FLOAT")
    for name, message in [("text", "not readable"), ("empty", "no samples"), ("nan", "NaN"), ("gone", "not readable")]:
        with pytest.raises(ValueError, match=message):
            read_wave(tmp_path / f"{name}.wav")


def test_loudness_of_a_full_scale_sine_and_of_silence() -> None:
    assert rms_dbfs(np.zeros(10, np.float32)) == -120
    assert abs(rms_dbfs(2 * _tone(16_000)) + 3.01) < 0.01


def test_resampling_to_the_same_rate_is_the_same_array() -> None:
    wave = _tone(16_000)
    assert resample(wave, 16_000, 16_000) is wave
