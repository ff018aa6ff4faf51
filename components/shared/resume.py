"""When unfinished training may be taken up again.

.work/<stage>[/<item>]/ holds keyed shards, which are good for ever, and checkpoints, which count only while settings,
code and inputs of the stage are what they were when the checkpoints were begun (identity.json beside them).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.fingerprint import fingerprint
from components.shared.manifest import hash_of, read_json, read_manifest, remove, write_json

CHECKPOINTS, IDENTITY = "checkpoints", "identity.json"
SPREADING = ("executor", "launcher", "loader")
"""Settings that do not change what is written."""


@dataclass
class Resume:
    """The checkpoints of one stage and what they belong to."""

    work: Path
    data: Path
    """The data/ folder that holds the inputs."""
    begun: str
    """Hash of the settings and the code."""

    @classmethod
    def of(cls, work: Path, data: Path, stage: str, settings: dict[str, Any]) -> Resume:
        """The checkpoints of a stage with these settings and the code as it is."""
        kept = {name: value for name, value in settings.items() if name not in SPREADING}
        return cls(work, data, hash_of([kept, fingerprint(stage)]))

    def begin(self) -> bool:
        """Remove checkpoints that belong to something else; True when there are some left to go on from."""
        if not self._same():
            remove(self.work / CHECKPOINTS)
            self.remember({})
        return (self.work / CHECKPOINTS).is_dir()

    def _same(self) -> bool:
        with contextlib.suppress(ValueError, OSError, KeyError):
            known = read_json(self.work / IDENTITY)
            inputs = {name: read_manifest(self.data / name).content_hash for name in known["inputs"]}
            return known == {"begun": self.begun, "inputs": inputs}
        return False

    def remember(self, read: dict[str, str]) -> None:
        """Note what the stage has opened so far; called at every input, since a kill gives no notice."""
        known = read_json(self.work / IDENTITY)["inputs"] if read and (self.work / IDENTITY).is_file() else {}
        write_json(self.work / IDENTITY, {"begun": self.begun, "inputs": {**known, **read}})

    def end(self) -> None:
        """After a success there is nothing to go on from."""
        remove(self.work / CHECKPOINTS)
