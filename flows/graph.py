"""The graph of dvc.yaml as DVC sees it, and what one `dvc repro` did with each of its stages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

STARTED = re.compile(r"^Running stage '(?P<name>[^']+)'")
RESTORED = re.compile(r"^Stage '(?P<name>[^']+)' is cached")
UNCHANGED = re.compile(r"^Stage '(?P<name>[^']+)' didn't change")
NOISE = re.compile(
    r"^(> |Updating lock file|Generating lock file|Use `dvc push`|To track the changes with git"
    r"|To enable auto|\s*git add |\s*dvc config core\.autostage|Data and pipelines are up to date)"
)


class Outcome(Enum):
    """What DVC did with a stage."""

    ran = "done"
    restored = "from cache"
    unchanged = "up to date"
    failed = "failed"


@dataclass(kw_only=True)
class Event:
    """A stage that has started (outcome None) or ended."""

    stage: str
    outcome: Outcome | None
    seconds: float


class PipelineFailure(Exception):
    """A stage failed; kind and line are what it left in its status.json."""

    def __init__(self, stage: str, kind: str, line: str) -> None:
        super().__init__(line)
        self.stage, self.kind, self.line = stage, kind, line


def stages(root: Path) -> list[str]:
    """Names of all stages, each after those it depends on.

    Raises ValueError when dvc.yaml or params.yaml cannot be read.
    """
    import networkx
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            graph = repo.index.graph
            order = networkx.lexicographical_topological_sort(graph.reverse(copy=True), key=_place(repo))
            return [stage.name for stage in order]
    except DvcException as error:
        raise ValueError(f"{root}: dvc cannot read the graph: {' '.join(str(error).split())}") from error


def _place(repo: object) -> Callable[[object], int]:
    """The place of a stage in dvc.yaml, so that the order among independent stages is the file's."""
    places = {stage.name: number for number, stage in enumerate(repo.index.stages)}  # type: ignore[attr-defined]
    return lambda stage: places[stage.name]  # type: ignore[attr-defined]


def repro(root: Path, arguments: list[str], show: Callable[[Event], None]) -> None:
    """Run `dvc repro`, report each stage as it starts and ends, and print what the stages print.

    Raises PipelineFailure when a stage fails; what DVC had deleted for it is then back as it was last published.
    """
    command = [sys.executable, "-m", "dvc", "repro", *arguments]
    metrics = [*root.glob("data/*/metrics.json"), *root.glob("data/*/*/metrics.json")]
    figures = {path: path.read_bytes() for path in metrics}
    running: tuple[str, float] | None = None
    process = subprocess.Popen(
        command, cwd=root, env=own_environment(), stdout=subprocess.PIPE, text=True, errors="replace"
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            begun, restored, unchanged = STARTED.match(line), RESTORED.match(line), UNCHANGED.match(line)
            if (begun or restored or unchanged) and running:
                _ended(running, show)
                running = None
            if begun:
                running = (begun["name"], time.time())
                show(Event(stage=running[0], outcome=None, seconds=0.0))
            elif restored:
                show(Event(stage=restored["name"], outcome=Outcome.restored, seconds=0.0))
            elif unchanged:
                show(Event(stage=unchanged["name"], outcome=Outcome.unchanged, seconds=0.0))
            elif line.strip() and not NOISE.match(line) and not _restates(line, running):
                print(line, end="", flush=True)
        code = process.wait()
    except BaseException:
        process.wait()  # Ctrl-C reached DVC and the stage as well
        if running:
            restore(root, running[0], figures)
        raise
    if code == 0:
        if running:
            _ended(running, show)
        return
    if running is None:
        raise PipelineFailure("", "user", f"dvc repro: exit code {code}, see its message above")
    show(Event(stage=running[0], outcome=Outcome.failed, seconds=time.time() - running[1]))
    restore(root, running[0], figures)
    raise PipelineFailure(running[0], *status(root, running[0], since=running[1]))


def own_environment() -> dict[str, str]:
    """The environment with this Python first on the path, since the graph says `python`."""
    own = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": own, "PYTHONUNBUFFERED": "1"}


def _ended(running: tuple[str, float], show: Callable[[Event], None]) -> None:
    show(Event(stage=running[0], outcome=Outcome.ran, seconds=time.time() - running[1]))


def _restates(line: str, running: tuple[str, float] | None) -> bool:
    """Whether a stage says of itself what the flow says of it anyway."""
    return running is not None and line.startswith((f"{running[0]}: started at", f"{running[0]}: done in"))


def status(root: Path, stage: str, since: float) -> tuple[str, str]:
    """(kind, line) that a failed stage left; a stage that was killed left `running`, which is worth another try."""
    path = root / ".work" / Path(*stage.split("@")) / "status.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "bug", f"{stage}: failed before it could say why, see above"
    if record["time_s"] < since:
        return "bug", f"{stage}: failed before it started, see above"
    return ("transient" if record["kind"] == "running" else record["kind"]), record["line"]


def restore(root: Path, stage: str, figures: dict[Path, bytes]) -> None:
    """Bring back the last published outs of a stage, which DVC deletes before it runs the stage.

    figures: the metrics files as they were, which are in git and not in DVC's cache.
    """
    command = [sys.executable, "-m", "dvc", "checkout", "--quiet", "--force", "--allow-missing", stage]
    subprocess.run(command, cwd=root, capture_output=True, check=False)
    for path, content in figures.items():
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
