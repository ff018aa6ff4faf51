"""Turns finished shards into the utterances table: FLAC files and one row about each."""

from __future__ import annotations

import re
from pathlib import Path

from components.collect.audio_shards import Recording, read_shard
from components.collect.ledger import Ledger
from components.collect.sources import Clip, Line
from components.shared.contracts import Utterance
from components.shared.manifest import hash_of


def unpack(folder: Path, shards: list[Path], sources: list[Clip | Line], ledger: Ledger) -> list[Utterance]:
    """Write folder/audio/<corpus>/*.flac and return the rows, ordered by id; what has no audio is counted by reason."""
    known = {source.id: source for source in sources}
    rows = []
    for path in shards:
        for recording in read_shard(path):
            if recording.reason:
                ledger.drop(recording.reason)
                continue
            source = known[recording.id]
            audio = f"audio/{source.corpus}/{file_name(source.id)}.flac"
            target = folder / audio
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(recording.flac)
            rows.append(_row(recording, source, audio))
    return sorted(rows, key=lambda row: row.id)


def file_name(id: str) -> str:
    """An id as a file name: itself when it is plain, otherwise its plain part with a hash."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", id):
        return id
    return f"{re.sub(r'[^A-Za-z0-9-]+', '-', id)[:60].strip('-')}-{hash_of(id)[:12]}"


def _row(recording: Recording, source: Clip | Line, audio: str) -> Utterance:
    if isinstance(source, Line):
        text = source.text if source.labelled else None
        text_source, speaker, origin = ("human" if source.labelled else "none"), source.voice, "synthesized"
    else:
        text, text_source, speaker, origin = source.text, source.text_source, source.speaker, source.origin
    return Utterance(
        id=source.id,
        audio=audio,
        duration_s=recording.duration_s,
        sample_rate_hz=recording.sample_rate_hz,
        bandwidth_hz=recording.bandwidth_hz,
        text=text,
        text_source=text_source,
        language=source.language,
        speaker=speaker,
        corpus=source.corpus,
        license=recording.license,
        split=source.split,
        origin=origin,
        rms_dbfs=recording.rms_dbfs,
    )
