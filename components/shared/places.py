"""Where a stage reads and writes: published outs under data/, trial runs under runs/, unfinished work under .work/."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.shared.manifest import read_manifest, remove, replace, write_json

STATS_ROW, STATS_SHARD = "row", "shard"
STATS, PARTIAL = "stats.parquet", ".partial-"


def main_checkout(root: Path) -> Path:
    """The checkout that owns the tracking store, also when root is a DVC experiment's or another scale's inside it."""
    parts = root.resolve().parts
    for index in range(len(parts)):
        if parts[index : index + 3] == (".dvc", "tmp", "exps") or parts[index : index + 2] == (".work", "scale"):
            return Path(*parts[:index])
    return root.resolve()


@dataclass
class Inputs:
    """The published outs of earlier stages; remembers what was read, for lineage."""

    data: Path
    """The data/ folder."""
    read: dict[str, str] = field(default_factory=dict)
    """stage/name -> content hash of what this run opened."""
    remember: Callable[[dict[str, str]], None] | None = None
    """Called with `read` whenever another folder was opened; set by entry.py."""

    def folder(self, stage: str, name: str) -> Path:
        """The folder data/<stage>/<name> of an earlier stage.

        Raises ValueError when it was not made yet or has no manifest.
        """
        path = self.data / stage / name
        if not path.is_dir():
            raise ValueError(f"{path}: not there; make it with `dvc repro {stage.split('/')[0]}`")
        self.read[f"{stage}/{name}"] = read_manifest(path).content_hash
        if self.remember is not None:
            self.remember(self.read)
        return path

    def json(self, stage: str, name: str) -> Any:
        """A small JSON file data/<stage>/<name>, such as metrics.json."""
        from components.shared.manifest import read_json

        path = self.data / stage / name
        if not path.is_file():
            raise ValueError(f"{path}: not there; make it with `dvc repro {stage.split('/')[0]}`")
        return read_json(path)


@dataclass
class Outputs:
    """Where a stage writes. Folders appear under their final names only when the whole stage has succeeded."""

    root: Path
    """data/<stage>[/<item>] when published, runs/<stage>/<time> otherwise."""
    work: Path
    """.work/<stage>[/<item>]: survives failures and restarts; keyed shards, checkpoints."""
    checkpoints: Path = Path()
    """Folder below `work` for what only a run with these settings, code and inputs may go on from (resume.py)."""
    item: str = ""
    """The matrix item, such as the model that evaluate looks at."""
    made: list[str] = field(default_factory=list)
    token: str = field(default_factory=lambda: str(os.getpid()))
    """Sets apart the unfinished folders of runs that write to the same place."""

    def __post_init__(self) -> None:
        if self.checkpoints == Path():
            self.checkpoints = self.work / "checkpoints" / "run"

    def folder(self, name: str) -> Path:
        """A new empty folder that becomes <root>/<name> when the stage ends well."""
        path = self.partial / name
        remove(path)
        path.mkdir(parents=True)
        if name not in self.made:
            self.made.append(name)
        return path

    def write_stats(self, shards: list[dict[str, float]], rows: list[dict[str, float]]) -> None:
        """What the stage's check looks at: numeric columns, one record a shard and one for each of a sample of rows."""
        import pandas as pd

        frames = [pd.DataFrame(shards).assign(level=STATS_SHARD), pd.DataFrame(rows).assign(level=STATS_ROW)]
        self.partial.mkdir(parents=True, exist_ok=True)
        pd.concat([frame for frame in frames if len(frame)]).to_parquet(self.partial / STATS, index=False)
        if STATS not in self.made:
            self.made.append(STATS)

    def publish(self, metrics: dict[str, float]) -> None:
        """Rename the finished folders and statistics into place and write metrics.json beside them."""
        for name in self.made:
            target = self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.is_dir():
                remove(target)
            replace(self.partial / name, target)
        remove(self.partial)
        write_json(self.root / "metrics.json", metrics)

    def discard(self) -> None:
        """Remove what a run did not finish: this one, or one before it that was killed."""
        for path in self.root.glob(f"{PARTIAL}*"):
            token = path.name.removeprefix(PARTIAL)
            if token == self.token or not Path(f"/proc/{token}").exists():
                remove(path)

    @property
    def partial(self) -> Path:
        """Folders of this run under their temporary place, on the same file system as the final one."""
        return self.root / f"{PARTIAL}{self.token}"
