"""Ties MLflow runs to DVC: its hashes as tags of the run, and a run of its own for a stage taken from cache.

So one can walk back from any model to the exact data: model -> run -> its dvc.dep.* hashes -> the runs that have them
as dvc.out.*.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.shared.manifest import NAME, read_json, read_manifest
from components.shared.spool import RECORDS, Spool, open_run, spool_folder, store_uri
from flows.graph import Outcome


def record(root: Path, stage: str, outcome: Outcome, since: float) -> None:
    """Add DVC's hashes to the run that a stage made since a time, or make a `restored` run for one from cache.

    since: seconds since the epoch. A stage that was up to date, or has no run, needs nothing.
    """
    locked = lock_entry(root, stage)
    tags = hashes(locked)
    if outcome is Outcome.ran:
        run = newest_run(root, stage, since)
        if run is not None:
            run.tags(tags)
    elif outcome is Outcome.restored:
        _restored_run(root, stage, locked, tags)


def lock_entry(root: Path, stage: str) -> dict[str, Any]:
    """What dvc.lock says of a stage: {cmd, deps, params, outs}."""
    from dvc.utils.serialize import load_yaml

    path = root / "dvc.lock"
    return load_yaml(str(path))["stages"].get(stage, {}) if path.is_file() else {}


def hashes(locked: dict[str, Any]) -> dict[str, str]:
    """dvc.dep.<path> and dvc.out.<path> -> hash."""
    tags = {}
    for kind, name in (("deps", "dep"), ("outs", "out")):
        for entry in locked.get(kind, []):
            tags[f"dvc.{name}.{entry['path']}"] = str(entry.get("md5") or entry.get("hash") or "")
    return tags


def newest_run(root: Path, stage: str, since: float) -> Spool | None:
    """The spooled run of a stage that began last, but not before `since`."""
    for folder in sorted(spool_folder(root).glob("*/"), reverse=True):
        try:
            with (folder / RECORDS).open(encoding="utf-8") as stream:
                first = json.loads(stream.readline())
        except (OSError, ValueError):
            continue
        if first["time_ms"] / 1000 < since:
            continue
        if first["name"] == stage and first["tags"]["folder"] == str(root):
            return Spool(folder, store_uri(root))
    return None


def _restored_run(root: Path, stage: str, locked: dict[str, Any], tags: dict[str, str]) -> None:
    """A run that stands for a stage whose outs DVC took from its cache: its figures, hashes and content."""
    name, _, item = stage.partition("@")
    place = root / "data" / name / item
    spool = open_run(name, item, {"dvc": locked.get("params", {})}, root)
    spool.tags({"restored": "true", **tags})
    if (place / "metrics.json").is_file():
        spool.metrics(read_json(place / "metrics.json"), 0)
    for manifest in sorted(place.glob(f"*/{NAME}")):
        spool.tags({f"output.{manifest.parent.name}": read_manifest(manifest.parent).content_hash})
    spool.end("restored")
