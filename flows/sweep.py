"""Runs the experiments of conf/sweep/<name>.yaml through DVC's queue and prints one table of their figures.

    python -m flows.sweep frame_rates [--out table.json] [--figure curves.png]

Each experiment changes settings of params.yaml or of the scale in use and runs the sweep's targets in a folder of its
own; all land in the one MLflow store and stay as DVC experiments named <sweep>-<experiment>-<commit>. What is there,
waits or runs already is not queued again, so that a sweep whose watching was stopped goes on where it was; another
commit is another sweep. Whatever else waits in the queue runs as well. A sweep that names seeds runs every experiment
with each of them, and its table gives means with their intervals.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from components.entry import EXIT_CODES, TRANSIENT
from components.shared.manifest import write_json
from flows.graph import PipelineFailure, own_environment
from flows.sweep_table import plot, summary, to_markdown

PARAMS = Path("params.yaml")


@dataclass(kw_only=True)
class Seeds:
    """Repeats of every experiment."""

    values: list[int]
    sections: list[str]
    """Sections of params.yaml that get the seed; the others keep the configuration's."""


@dataclass(kw_only=True)
class Sweep:
    """A file of conf/sweep."""

    name: str
    targets: list[str]
    """Stages to run, with what they need."""
    experiments: dict[str, dict[str, Any]]
    """Experiment -> dotted settings and their values."""
    figures: dict[str, str]
    """Column of the table -> stage and key of its metrics."""
    common: dict[str, Any] = field(default_factory=dict)
    """Settings of all experiments."""
    seeds: Seeds | None = None
    """None: each experiment runs once, with the configuration's seed."""

    def runs(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Run -> (its experiment, all its settings)."""
        whole = {name: {**self.common, **changed} for name, changed in self.experiments.items()}
        if self.seeds is None:
            return {name: (name, settings) for name, settings in whole.items()}
        return {
            f"{name}-s{seed}": (name, {**settings, **{f"{section}.seed": seed for section in self.seeds.sections}})
            for name, settings in whole.items()
            for seed in self.seeds.values
        }


def read(name: str, root: Path) -> Sweep:
    """conf/sweep/<name>.yaml. Raises ValueError when it is not there or holds other keys."""
    path = root / "conf" / "sweep" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in path.parent.glob("*.yaml")))
        raise ValueError(f"sweep: got {name!r}, wanted one of {known or 'the files of conf/sweep'}")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    wanted = {"targets": list, "experiments": dict, "figures": dict}
    optional = {"common": dict, "seeds": dict}
    if not isinstance(content, dict) or not set(wanted) <= set(content) <= {*wanted, *optional}:
        may = f"{', '.join(wanted)} and, if need be, {', '.join(optional)}"
        raise ValueError(f"{path}: got keys {list(content or [])}, wanted {may}")
    for key, kind in {**wanted, **{key: kind for key, kind in optional.items() if key in content}}.items():
        if not isinstance(content[key], kind) or not content[key]:
            raise ValueError(f"{path}: {key}: got {content[key]!r}, wanted a {kind.__name__} that is not empty")
    for experiment, settings in content["experiments"].items():
        if not isinstance(settings, dict) or not settings:
            raise ValueError(f"{path}: experiments.{experiment}: got {settings!r}, wanted settings and their values")
    for column, place in content["figures"].items():
        if len(str(place).split()) != 2:
            raise ValueError(f"{path}: figures.{column}: got {place!r}, wanted a stage and a key of its metrics")
    if "seeds" in content:
        seeds = content["seeds"]
        if set(seeds) != {"values", "sections"} or not all(isinstance(part, list) and part for part in seeds.values()):
            raise ValueError(f"{path}: seeds: got {seeds}, wanted values: [17, ...] and sections: [mix, ...]")
        content["seeds"] = Seeds(**seeds)
    return Sweep(name=name, **content)


def assignments(settings: dict[str, Any], root: Path) -> list[str]:
    """Settings as `dvc exp run -S` wants them, each with the file that holds it; a section's seed may be new to it.

    Raises ValueError for a setting that neither params.yaml nor the scale's file has.
    """
    params = yaml.safe_load((root / PARAMS).read_text(encoding="utf-8"))
    scale = Path("conf") / "scale" / f"{params['scale']}.yaml"
    files = {PARAMS: params, scale: yaml.safe_load((root / scale).read_text(encoding="utf-8"))}
    found = []
    for key, value in settings.items():
        file = next((path for path, content in files.items() if _holds(content, key.split("."))), None)
        section, _, name = key.partition(".")
        if file is None and name == "seed" and section in params:
            found.append(f"+{key}={json.dumps(value)}")
            continue
        if file is None:
            raise ValueError(f"sweep: got setting {key!r}, wanted one of {PARAMS} or {scale}")
        found.append(f"{key}={json.dumps(value)}" if file == PARAMS else f"{file}:{key}={json.dumps(value)}")
    return found


def _holds(content: Any, names: list[str]) -> bool:
    for name in names:
        if not isinstance(content, dict) or name not in content:
            return False
        content = content[name]
    return True


def run(sweep: Sweep, root: Path) -> dict[str, str]:
    """Run what is not there yet; returns run -> its DVC name.

    Raises ValueError when tracked files differ from the commit that the table will name, PipelineFailure when an
    experiment fails; the others are then done.
    """
    settings = {name: assignments(changed, root) for name, (_, changed) in sweep.runs().items()}
    own = f"conf/sweep/{sweep.name}.yaml"
    if _answer(root, "git", "status", "--porcelain", "--untracked-files=no") or _answer(
        root, "git", "status", "--porcelain", "--", own
    ):
        raise ValueError(f"sweep: tracked files or {own} are not committed; wanted a commit that tells the figures")
    commit = _answer(root, "git", "rev-parse", "--short", "HEAD")
    names = {name: f"{sweep.name}-{name}-{commit}".replace("_", "-") for name in settings}
    for name in sorted(set(names) - _done(names, root) - _queued(names, root)):
        changes = [part for setting in settings[name] for part in ("-S", setting)]
        _answer(root, *_DVC, "exp", "run", "--queue", "--name", names[name], *changes, *sweep.targets)
    subprocess.run([*_DVC, "exp", "run", "--run-all"], cwd=root, env=own_environment(), check=False)
    failed = sorted(names[name] for name in set(names) - _done(names, root))
    if failed:
        line = f"sweep: {', '.join(failed)} failed; `dvc queue logs {failed[0]}` says why"
        raise PipelineFailure(failed[0], "user", line)
    return names


def table(sweep: Sweep, names: dict[str, str], root: Path) -> list[dict[str, Any]]:
    """One row a run: its experiment, its commit and the sweep's figures, None where a stage did not give one."""
    from dvc.api import metrics_show

    rows, runs = [], sweep.runs()
    for run, name in names.items():
        row: dict[str, Any] = {"experiment": runs[run][0], "revision": name}
        for column, place in sweep.figures.items():
            stage, key = place.split()
            figures = root / "data" / stage.replace("@", "/") / "metrics.json"
            metrics = metrics_show(str(figures), repo=str(root), rev=name)
            row[column] = metrics.get(key)
        rows.append(row)
    return rows


_DVC = (sys.executable, "-m", "dvc")


def _done(names: dict[str, str], root: Path) -> set[str]:
    """Experiments that DVC holds the results of."""
    held = set(_answer(root, *_DVC, "exp", "list", "--all-commits", "--name-only").split())
    return {name for name, revision in names.items() if revision in held}


def _queued(names: dict[str, str], root: Path) -> set[str]:
    """Experiments that wait in DVC's queue or run now."""
    lines = [line.split() for line in _answer(root, *_DVC, "queue", "status").splitlines()]
    active = {line[1] for line in lines if len(line) > 2 and line[-1] in ("Queued", "Running")}
    return {name for name, revision in names.items() if revision in active}


def _answer(root: Path, *command: str) -> str:
    """What a command prints. Raises ValueError with its last line when it fails."""
    done = subprocess.run(command, cwd=root, env=own_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()] or ["no message"]
        raise ValueError(f"sweep: {' '.join(command[-6:])}: {said[-1]}")
    return done.stdout.strip()


def main(arguments: list[str] | None = None) -> None:
    """The command line; exit code 2 with one line for a mistake of the user or in the data."""
    parser = argparse.ArgumentParser(prog="python -m flows.sweep", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", help="a file of conf/sweep, without .yaml")
    parser.add_argument("--out", type=Path, help="write one row a run as JSON")
    parser.add_argument("--figure", type=Path, help="draw the figures over the experiments, in their order, as PNG")
    options = parser.parse_args(arguments)
    root = Path.cwd()
    try:
        sweep = read(options.name, root)
        rows = table(sweep, run(sweep, root), root)
    except (ValueError, PipelineFailure) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("sweep: no longer watched; `dvc queue stop --kill` ends what runs", file=sys.stderr)
        sys.exit(EXIT_CODES[TRANSIENT])
    print(to_markdown(summary(rows)))
    if options.out:
        write_json(options.out, rows)
    if options.figure:
        plot(rows, options.figure)


if __name__ == "__main__":
    main()
