"""Where unfinished work lies, and when it may be taken up again.

.work/<stage>[/<item>]/<key>/ holds keyed shards and checkpoints; the key is a hash of the stage's settings (not of how
its work is spread over processes) and of its code. Checkpoints count only while the inputs are what they were.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import Any

from components.shared.fingerprint import fingerprint
from components.shared.manifest import hash_of, read_json, read_manifest, remove, write_json

CHECKPOINTS, INPUTS = "checkpoints", "inputs.json"
SPREADING = ("executor", "launcher")
"""Settings that do not change what is written."""
OLDEST_S = 7 * 24 * 3600


def work_folder(place: Path, stage: str, section: dict[str, Any]) -> Path:
    """The folder below `place` for unfinished work of a stage with these settings and this code."""
    settings = {name: value for name, value in section.items() if name not in SPREADING}
    return place / hash_of([settings, fingerprint(stage)])[:16]


def drop_stale_checkpoints(work: Path, data: Path) -> bool:
    """Remove checkpoints whose inputs have changed since; True when there is something left to resume from."""
    with contextlib.suppress(ValueError, OSError):
        known = read_json(work / INPUTS) if (work / INPUTS).is_file() else {}
        if all(read_manifest(data / name).content_hash == content for name, content in known.items()):
            return (work / CHECKPOINTS).is_dir()
    remove(work / CHECKPOINTS)
    return False


def remember_inputs(work: Path, read: dict[str, str]) -> None:
    """Note what the stage has opened so far; called at every input, since a kill gives no notice."""
    write_json(work / INPUTS, read)


def tidy(work: Path) -> None:
    """After a success: remove the checkpoints, and work of other settings that nobody has touched for a week."""
    remove(work / CHECKPOINTS)
    for other in work.parent.iterdir():
        stale = other.is_dir() and len(other.name) == 16 and time.time() - other.stat().st_mtime > OLDEST_S
        if stale and other != work:
            shutil.rmtree(other, ignore_errors=True)
