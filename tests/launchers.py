"""Launchers for settings made in tests, and a copy of the project in which `tokenize` tells another story."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from components.shared.launcher_config import LauncherConfig, LauncherKind, SlurmConfig

ROOT = Path(__file__).resolve().parents[1]
SLURM = SlurmConfig(partition="", time_limit="", gpus_per_node=0, cpus_per_node=2, options=[], poll_s=0.2)
IN_PROCESS = LauncherConfig(kind=LauncherKind.in_process, num_processes=1, num_nodes=1, slurm=SLURM)


def as_yaml(launcher: LauncherConfig) -> dict[str, Any]:
    """The settings as they stand in a file."""
    return {**asdict(launcher), "kind": launcher.kind.value}


def write_project(folder: Path, config: str, stage: str, section: dict[str, Any]) -> None:
    """Copy the code; the room `tokenize` gets this config.py, stage.py and section, at scale smoke."""
    shutil.copytree(ROOT / "components", folder / "components", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "conf", folder / "conf")
    (folder / "components" / "tokenize" / "config.py").write_text(config)
    (folder / "components" / "tokenize" / "stage.py").write_text(stage)
    for name, own, more in (("params.yaml", section, {"scale": "smoke"}), ("conf/scale/smoke.yaml", {}, {})):
        settings = yaml.safe_load((ROOT / name).read_text())
        (folder / name).write_text(yaml.safe_dump({**settings, "tokenize": own, **more}))
