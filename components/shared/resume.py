"""From where unfinished training may be taken up again.

.work/<stage>[/<item>]/ holds keyed shards, which are good for ever, and checkpoints/<identity>/, a folder for each
identity: settings (but for those marked FREE), code and inputs of the run. A start with another identity begins a
folder of its own and deletes no checkpoint; a start with an earlier one goes on in the earlier folder.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.fingerprint import fingerprint
from components.shared.identity import bound, differences
from components.shared.manifest import hash_of, read_json, read_manifest, remove, write_json

CHECKPOINTS, IDENTITY, STEPS = "checkpoints", "identity.json", "step-*"
_TOLD = 5
"""Changed settings that are named in the line about an earlier run."""


@dataclass
class Resume:
    """The folder of one run's checkpoints and what they belong to."""

    folder: Path
    data: Path
    """The data/ folder that holds the inputs."""
    settings: Any
    code: str
    """Fingerprint of the stage's code."""

    @classmethod
    def begin(cls, work: Path, data: Path, stage: str, section: Any) -> Resume:
        """The folder of a stage with these settings, the code and the inputs as they are: an earlier one or a new one.

        Folders of other runs stay when they hold a checkpoint; what they were killed before is not worth a place.
        """
        settings, code, name = bound(section), fingerprint(stage), run_name(stage, section)
        folders = (work / CHECKPOINTS / f"{name}{number}" for number in itertools.chain([""], _numbers()))
        folder = next(path for path in folders if not path.is_dir() or _inputs_are_as_they_were(path, data))
        for path in _folders(work):
            if path != folder and not steps_in(path):
                remove(path)
        if not (folder / IDENTITY).is_file():
            write_json(folder / IDENTITY, {"settings": settings, "code": code, "inputs": {}})
        return cls(folder, data, settings, code)

    @property
    def goes_on(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return bool(steps_in(self.folder))

    def left_behind(self) -> str:
        """One line about the checkpoints of other runs of the stage, when this run begins anew beside them; or ""."""
        others = [path for path in _folders(self.folder.parent.parent) if path != self.folder]
        if self.goes_on or not others:
            return ""
        latest = max(others, key=lambda path: (path / IDENTITY).stat().st_mtime)
        size = sum(path.stat().st_size for other in others for path in other.rglob("*") if path.is_file())
        return (
            f"begins anew: {steps_in(latest)[-1]} is of another run, since {self._changed(latest)}; set that back, or "
            f"name the checkpoint in trainer.resume_from, to go on from there; {size / 1e9:.2f} GB are kept, to delete "
            f"with rm -r {' '.join(map(str, others))}"
        )

    def _changed(self, other: Path) -> str:
        known = read_json(other / IDENTITY)
        changed = differences(known["settings"], self.settings)
        if len(changed) > _TOLD:
            changed = [*changed[:_TOLD], f"{len(changed) - _TOLD} more"]
        if known["code"] != self.code:
            changed.append("code was changed")
        if not changed:
            now = dict(_hashes(known["inputs"], self.data))
            changed = [f"input {name} was changed" for name, content in known["inputs"].items() if now[name] != content]
        return ", ".join(changed)

    def remember(self, read: dict[str, str]) -> None:
        """Note what the stage has opened so far; called at every input, since a kill gives no notice."""
        remember(self.folder, read)

    def end(self) -> None:
        """After a success there is nothing to go on from; checkpoints of other runs stay."""
        remove(self.folder)


def run_name(stage: str, section: Any) -> str:
    """What the settings and the code of a run make of its name: 12 hexadecimal digits."""
    return hash_of([bound(section), fingerprint(stage)])[:12]


def remember(folder: Path, read: dict[str, str]) -> None:
    """Add inputs, stage/name -> content hash, to the identity of the run whose checkpoints are in a folder."""
    known = read_json(folder / IDENTITY)
    write_json(folder / IDENTITY, {**known, "inputs": {**known["inputs"], **read}})


def inputs_of(folder: Path) -> dict[str, str]:
    """Inputs of the run whose checkpoints are in a folder or below it: stage/name -> content hash."""
    for path in (folder, *folder.parents[:2]):
        if (path / IDENTITY).is_file():
            return read_json(path / IDENTITY)["inputs"]
    return {}


def steps_in(folder: Path) -> list[Path]:
    """Finished checkpoints in a folder and one level below it (a stage that trains in phases), by folder and step."""
    return sorted([*folder.glob(STEPS), *folder.glob(f"*/{STEPS}")])


def _numbers() -> Iterator[str]:
    return (f"-{number}" for number in itertools.count(2))


def _folders(work: Path) -> list[Path]:
    return sorted(path.parent for path in (work / CHECKPOINTS).glob(f"*/{IDENTITY}"))


def _inputs_are_as_they_were(folder: Path, data: Path) -> bool:
    with contextlib.suppress(ValueError, OSError, KeyError):
        known = read_json(folder / IDENTITY)["inputs"]
        return dict(_hashes(known, data)) == known
    return False


def _hashes(names: dict[str, str], data: Path) -> Iterator[tuple[str, str]]:
    for name in names:
        try:
            yield name, read_manifest(data / name).content_hash
        except (ValueError, OSError):
            yield name, ""
