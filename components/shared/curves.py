"""Curves of a run that survive a kill: every point is appended to a file beside its checkpoints at once."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

from components.shared.manifest import write_json

OF_THE_MACHINE = re.compile(r"^system/|(^|_)(seconds|per_s|real_time_factor|of_this_run|mfu)$")
"""Names of figures that say how fast a run was. They are tracked, and kept out of what must come out the same again."""


class Curves:
    """Metric name -> points (step, value); what a resumed run logs again replaces what the killed one had logged."""

    def __init__(self, folder: Path, resumed: bool) -> None:
        """Continue the points in <folder>/curves.jsonl when the run resumes, else begin anew."""
        self.path = folder / "curves.jsonl"
        self.points: dict[str, dict[int, float]] = {}
        if not resumed:
            self.path.unlink(missing_ok=True)
        self.reload()

    def reload(self) -> None:
        """Take in what another process of the same run has appended."""
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):  # the line that the kill cut short
                    step, values = json.loads(line)
                    self._add(values, step)

    def add(self, values: dict[str, float], step: int) -> None:
        """One point for each name."""
        numbers = {name: float(value) for name, value in values.items() if not OF_THE_MACHINE.search(name)}
        self._add(numbers, step)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps([step, numbers]) + "\n")

    def _add(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.points.setdefault(name, {})[step] = value

    def write(self, path: Path) -> None:
        """Write {name: [[step, value], ...]}, by step."""
        write_json(path, {name: sorted(points.items()) for name, points in sorted(self.points.items())})
