"""Where a run comes from and what it made: commit, uncommitted changes, pipeline, content hashes."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from components.shared.manifest import NAME, read_manifest
from components.shared.places import Inputs, Outputs
from components.shared.spool import PIPELINE_VARIABLE

if TYPE_CHECKING:
    from components.shared.tracking import SpoolTracker


def origin(root: Path, key: str) -> dict[str, str]:
    """Tags that say which code made a run and as part of what."""
    tags = {"pipeline_id": pipeline_id(key), "folder": str(root)}
    commit = _git(root, "rev-parse", "HEAD").decode().strip()
    if commit:
        difference = _git(root, "diff", "HEAD")
        tags["mlflow.source.git.commit"] = tags["git_commit"] = commit
        tags["git_diff_sha256"] = hashlib.sha256(difference).hexdigest() if difference else ""
    for tag, variable in (("dvc_exp_name", "DVC_EXP_NAME"), ("dvc_exp_baseline", "DVC_EXP_BASELINE_REV")):
        if os.environ.get(variable):
            tags[tag] = os.environ[variable]
    return tags


def pipeline_id(key: str) -> str:
    """What the runs of one pipeline share: given by the flow, else the `dvc` process above, else the run itself."""
    given = os.environ.get(PIPELINE_VARIABLE)
    if given:
        return given
    try:
        import psutil
    except ModuleNotFoundError:  # a machine that only trains
        return key
    try:
        for process in psutil.Process().parents():
            if any(Path(part).name == "dvc" for part in process.cmdline()[:3]):
                return f"dvc-{int(process.create_time())}-{process.pid}"
    except psutil.Error:
        pass
    return key


def _git(root: Path, *arguments: str) -> bytes:
    """Output of a git command, or nothing when there is no git or no repository."""
    try:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return b""


def describe(tracker: SpoolTracker, inputs: Inputs, outputs: Outputs | None) -> None:
    """Record what a run read and, when it ended well, what it wrote: hashes as tags, tables, models."""
    spool = tracker.spool
    spool.tags({f"input.{name}": content for name, content in inputs.read.items()})
    for name in inputs.read:
        folder = inputs.data / name
        if folder.resolve() not in tracker.datasets and read_manifest(folder).contract:
            spool.dataset(folder, name, "input")
    if outputs is None:
        return
    for name in outputs.made:
        folder = outputs.root / name
        if not (folder / NAME).is_file():
            continue
        content = read_manifest(folder).content_hash
        spool.tags({f"output.{name}": content})
        if (folder / "config.json").is_file():
            spool.model(folder.resolve(), tracker.models.get(name, f"{outputs.root.name}-{name}"), content)
