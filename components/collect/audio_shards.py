"""Makes the audio: shards of recordings that are read and of sentences that are spoken, each one Parquet file of FLACs.

A shard holds one row an item, with the FLAC's bytes or with the reason why there is none.
"""

from __future__ import annotations

import functools
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from components.collect.sources import Clip, Line
from components.collect.voices import Voice, make_voice
from components.shared.audio import MAX_RATE_HZ, resample, rms_dbfs

SLOW_ENGINES = ("kokoro",)
"""Voices that speak only a few times faster than real time; the others are 60 times as fast and more."""
TRIM_DB = -40.0
"""What is this much softer than a line's loudest moment counts as silence at its ends, in decibels."""
MISSING_S = 0.25
"""How much shorter than its manifest says a recording may be before it counts as truncated, in seconds."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a recording must satisfy."""

    min_duration_s: float
    max_duration_s: float
    silence_dbfs: float
    edge_s: float
    """Silence kept at both ends of a spoken line."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Work for one worker at a time: clips to read, or lines for one voice to speak."""

    clips: tuple[Clip, ...]
    lines: tuple[Line, ...]
    limits: Limits


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The audio of one clip or line, or why there is none."""

    id: str
    reason: str
    """Why the item was dropped, or an empty string."""
    license: str
    """Of the recording, or of the text and the voice that says it."""
    flac: bytes
    duration_s: float
    sample_rate_hz: int
    bandwidth_hz: float
    rms_dbfs: float


def plan_shards(clips: list[Clip], lines: list[Line], limits: Limits, size: int) -> list[Shard]:
    """Clips and lines in shards of `size`, one voice a shard, the slow engines first so that workers end together."""
    by_voice: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        by_voice[line.voice].append(line)
    shards = []
    for voice in sorted(by_voice, key=lambda voice: (voice.split(":")[0] not in SLOW_ENGINES, voice)):
        said = by_voice[voice]
        shards += [Shard(clips=(), lines=tuple(said[i : i + size]), limits=limits) for i in range(0, len(said), size)]
    read = [tuple(clips[i : i + size]) for i in range(0, len(clips), size)]
    return shards + [Shard(clips=part, lines=(), limits=limits) for part in read]


def make_shard(shard: Shard, path: Path) -> None:
    """Read or speak every item of a shard and write the recordings to path."""
    recordings = [_read(clip, shard.limits) for clip in shard.clips] + [
        _speak(line, shard.limits) for line in shard.lines
    ]
    names = list(Recording.__dataclass_fields__)
    columns = {name: [getattr(recording, name) for recording in recordings] for name in names}
    pq.write_table(pa.table(columns), path)


def read_shard(path: Path) -> Iterator[Recording]:
    """The recordings of a finished shard."""
    for row in pq.read_table(path).to_pylist():
        yield Recording(**row)


def file_state(path: str) -> tuple[int, int]:
    """(bytes, time of the last change in ns) of a file: part of the key of a shard that reads it."""
    state = os.stat(path)
    return state.st_size, state.st_mtime_ns


def _read(clip: Clip, limits: Limits) -> Recording:
    """Decode a clip: mono by averaging, at most 24 kHz, never upsampled."""
    path = Path(clip.path)
    if path.stat().st_size == 0:
        return _dropped(clip.id, "empty_audio")
    try:
        with soundfile.SoundFile(path) as file:
            rate_hz = file.samplerate
            start = min(file.frames, round(clip.start_s * rate_hz))
            file.seek(start)
            wanted = file.frames - start
            if clip.length_s is not None:
                wanted = round(clip.length_s * rate_hz)
            samples = file.read(wanted if clip.is_part else -1, dtype="float32", always_2d=True)
            cut_short = was_cut_short(file.extra_info)
    except (soundfile.LibsndfileError, OSError):
        return _dropped(clip.id, "truncated" if _begins_like_audio(path) else "not_audio")
    if cut_short or len(samples) < wanted - MISSING_S * rate_hz:
        return _dropped(clip.id, "truncated")
    if samples.size == 0:
        return _dropped(clip.id, "empty_audio")
    return finish(clip.id, samples.mean(axis=1), rate_hz, clip.license, limits)


def was_cut_short(extra_info: str) -> bool:
    """Whether libsndfile noticed, while it opened the file, that the end is missing.

    A WAV of unknown length (0 or 4 GiB, as written into a pipe) is not cut short.
    """
    promised = re.search(r"data : (\d+) \(should be (\d+)\)", extra_info)
    if promised and int(promised[2]) < int(promised[1]) < 2**31 - 1:
        return True
    return "without an End-Of-Stream flag" in extra_info or "Junk after the last page" in extra_info


def _begins_like_audio(path: Path) -> bool:
    """Whether the file begins like a known container of sound."""
    with path.open("rb") as stream:
        return stream.read(4) in (b"RIFF", b"fLaC", b"OggS", b"FORM", b"caff")


@functools.lru_cache(maxsize=4)
def _voice(name: str) -> Voice:
    return make_voice(name)


def _speak(line: Line, limits: Limits) -> Recording:
    """Say a line with its voice."""
    voice = _voice(line.voice)
    try:
        wave = voice.speak(line.text, line.language, line.seed)
    except ValueError:
        return _dropped(line.id, "unspeakable")
    wave = trim(wave, voice.sample_rate_hz, limits.edge_s)
    license = f"{line.license} (text), {voice.license} (voice)"
    return finish(line.id, wave, voice.sample_rate_hz, license, limits)


def finish(id: str, wave: np.ndarray, rate_hz: int, license: str, limits: Limits) -> Recording:
    """Judge a wave, (samples,), float32, and pack it as 16-bit FLAC at its own rate up to 24 kHz."""
    if not np.isfinite(wave).all():
        return _dropped(id, "not_finite")
    duration_s = len(wave) / rate_hz
    if duration_s > limits.max_duration_s:
        return _dropped(id, "too_long")
    if duration_s < limits.min_duration_s:
        return _dropped(id, "too_short")
    if loudest_dbfs(wave, rate_hz) < limits.silence_dbfs:
        return _dropped(id, "silent")
    kept_hz = min(rate_hz, MAX_RATE_HZ)
    wave = resample(wave, rate_hz, kept_hz)
    packed = io.BytesIO()
    soundfile.write(packed, np.clip(wave, -1.0, 1.0), kept_hz, format="FLAC", subtype="PCM_16")
    return Recording(
        id=id,
        reason="",
        license=license,
        flac=packed.getvalue(),
        duration_s=len(wave) / kept_hz,
        sample_rate_hz=kept_hz,
        bandwidth_hz=kept_hz / 2,
        rms_dbfs=rms_dbfs(wave),
    )


def trim(wave: np.ndarray, rate_hz: int, edge_s: float) -> np.ndarray:
    """Cut the silence before and after speech, (samples,), to edge_s; hundredths of a second below TRIM_DB are silence.

    Voices pad each line with up to a second of it, which would cost every later stage.
    """
    size = rate_hz // 100
    frames = wave[: len(wave) // size * size].reshape(-1, size)
    if not len(frames) or not frames.any():
        return wave
    power = np.square(frames, dtype=np.float64).mean(axis=1)
    loud = np.flatnonzero(power > power.max() * 10 ** (TRIM_DB / 10))
    edge = int(edge_s * rate_hz)
    return wave[max(0, loud[0] * size - edge) : (loud[-1] + 1) * size + edge]


def loudest_dbfs(wave: np.ndarray, rate_hz: int) -> float:
    """Loudness of the loudest tenth of a second, in decibels relative to full scale."""
    size = max(1, rate_hz // 10)
    return max(rms_dbfs(wave[start : start + size]) for start in range(0, len(wave), size))


def _dropped(id: str, reason: str) -> Recording:
    return Recording(
        id=id, reason=reason, license="", flac=b"", duration_s=0.0, sample_rate_hz=0, bandwidth_hz=0.0, rms_dbfs=0.0
    )
