"""Recordings of a shard, a few minutes of sound at a time: the next are read while these are encoded."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from components.shared.audio import WHISPER_RATE_HZ, read_wave
from components.shared.contracts import Quarantined, Utterance
from components.shared.manifest import inside

READ_AT_ONCE_S = 600.0
"""Seconds of sound, as the table says, that are encoded from one reading: 38 MB of samples.

Two such groups are in memory, the one that is encoded and the one that is read. A longer recording is a group of its
own: nothing is read beside it, it is alone in memory, but whole.
"""

Heard = tuple[Utterance, Tensor | Quarantined]
"""An utterance and its wave, (samples,) float32, -1..1, 16 kHz, or why there is none."""


def read_groups(rows: list[Utterance], folder: Path, readers: int) -> Iterator[list[Heard]]:
    """All rows in their order, READ_AT_ONCE_S at a time; a list is empty again when the next one is asked for.

    folder: of the utterances table. readers: threads that read and resample; both set Python's lock free.
    """
    groups = list(_groups(rows))
    with ThreadPoolExecutor(readers, thread_name_prefix="waves") as pool:

        def begin(number: int) -> list[Future[Tensor | Quarantined]]:
            return [pool.submit(read, row, folder) for row in groups[number]]

        ahead: list[Future[Tensor | Quarantined]] = []
        for number, group in enumerate(groups):
            reading = ahead or begin(number)
            heard = [(row, future.result()) for row, future in zip(group, reading, strict=True)]
            both = groups[number : number + 2]
            more = len(both) == 2 and all(_seconds(one) <= READ_AT_ONCE_S for one in both)
            ahead = begin(number + 1) if more else []
            reading.clear()
            yield heard
            heard.clear()


def read(row: Utterance, folder: Path) -> Tensor | Quarantined:
    """One recording, or the reason why it cannot be read, with paths relative to the table's folder.

    Raises ConnectionError when it is the disk that fails or the folder that is gone: quarantine is for ever.
    """
    try:
        return torch.from_numpy(read_wave(inside(folder, row.audio), WHISPER_RATE_HZ)[0])
    except ValueError as error:
        _check_disk(folder, row.audio)
        message = str(error).replace(f"{folder}/", "")
        return Quarantined(id=row.id, audio=row.audio, reason="unreadable_audio", message=message)


def _check_disk(folder: Path, audio: str) -> None:
    """Raise ConnectionError unless the bytes can be read, or the file alone is missing from a folder that is there."""
    try:
        path = inside(folder, audio)
    except ValueError:
        return
    try:
        path.read_bytes()
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise ConnectionError(f"{path.parent}: not there; is the disk of {audio} mounted?") from None
    except OSError as error:
        raise ConnectionError(f"{path}: cannot be read now: {error}") from error


def _groups(rows: list[Utterance]) -> Iterator[list[Utterance]]:
    group: list[Utterance] = []
    for row in rows:
        if group and _seconds(group) + row.duration_s > READ_AT_ONCE_S:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _seconds(group: list[Utterance]) -> float:
    return sum(row.duration_s for row in group)
