"""Sounds as data URIs: MP3, since every browser plays it and it is a tenth of the FLAC file."""

from __future__ import annotations

import base64
import io

import numpy as np
import soundfile

from components.shared.audio import resample

MP3_RATES_HZ = (16_000, 22_050, 24_000)
COMPRESSION = 0.8
"""libsndfile's 0..1 scale; about 33 kbit/s for mono speech at these rates, measured on the recorded prompts."""


def to_mp3(wave: np.ndarray, sample_rate_hz: int) -> bytes:
    """wave: (samples,), float32, -1..1 -> an MP3 file, at the wave's own rate where MP3 has it, else at 24 kHz."""
    if sample_rate_hz not in MP3_RATES_HZ:
        wave, sample_rate_hz = resample(wave, sample_rate_hz, MP3_RATES_HZ[-1]), MP3_RATES_HZ[-1]
    stream = io.BytesIO()
    soundfile.write(
        stream,
        np.clip(wave, -1.0, 1.0),
        sample_rate_hz,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=COMPRESSION,
    )
    return stream.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as a data URI; kind: a media type such as audio/mpeg."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
