"""A graph of two small stages under real DVC, for the tests of what schedules it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

GRAPH = """
stages:
  first:
    cmd: {python} stage.py first
    deps: [source.txt]
    outs: [data/first/out]
    metrics:
      - data/first/metrics.json: {{cache: false}}
  second:
    cmd: {python} stage.py second
    deps: [data/first/out]
    outs: [data/second/out]
"""

STAGE = """
import json, os, sys, time
from pathlib import Path
from components.entry import guarded

name = sys.argv[1]
root = Path.cwd()
with guarded(name, "", root):
    print(f"{name}: started at scale toy", flush=True)
    print(f"{name}: a line of its own", flush=True)
    with (root / "calls.txt").open("a") as stream:
        stream.write(name + "\\n")
    source = (root / "source.txt").read_text().strip()
    if name == "second" and source == "user":
        raise ValueError("row 3: got 1, wanted 2, in source.txt")
    if name == "second" and source == "bug":
        raise KeyError("row")
    if name == "second" and source == "killed":
        os.kill(os.getpid(), 9)
    if name == "second" and source == "transient" and (root / "calls.txt").read_text().count("second") < 2:
        raise ConnectionError("the server went away")
    out = root / "data" / name
    out.mkdir(parents=True, exist_ok=True)
    (out / "out").write_text(source if name == "first" else "second of " + source)
    if name == "first":
        (out / "metrics.json").write_text(json.dumps({"letters": len(source)}))
    print(f"{name}: done in 0 s", flush=True)
"""


def make(folder: Path, source: str = "fine") -> Path:
    """The project in a folder, initialised, with nothing run."""
    (folder / "conf" / "scale").mkdir(parents=True)
    (folder / "conf" / "scale" / "toy.yaml").touch()
    (folder / "params.yaml").write_text("scale: toy\n")
    (folder / "dvc.yaml").write_text(GRAPH.format(python=sys.executable))
    (folder / "stage.py").write_text(STAGE)
    (folder / ".dvcignore").write_text(".work\n")
    give(folder, source)
    run(folder, "-m", "dvc", "init", "--quiet", "--no-scm")
    return folder


def give(folder: Path, source: str) -> None:
    """Change the source, and forget the calls."""
    (folder / "source.txt").write_text(source + "\n")
    (folder / "calls.txt").unlink(missing_ok=True)


def calls(folder: Path) -> list[str]:
    """Which stages were really run, in order."""
    path = folder / "calls.txt"
    return path.read_text().split() if path.is_file() else []


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python command in the project, with the code of this checkout."""
    everything = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=everything, capture_output=True, text=True, check=False
    )
