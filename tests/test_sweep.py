"""Sweeps: experiments of a file through DVC's queue, one table, and only what is not there yet."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_config import keys

from components.config import SCALES, Config
from flows import sweep
from flows.graph import PipelineFailure, stages

ROOT = Path(__file__).resolve().parents[1]

STAGE = """
import json, sys, yaml
from pathlib import Path
params = yaml.safe_load(open("params.yaml"))["area"]
size = yaml.safe_load(open("conf/scale/toy.yaml"))["area"]
if size["height"] < 0:
    sys.exit("area.height: got -1, wanted at least 0")
Path("data/area").mkdir(parents=True, exist_ok=True)
Path("data/area/metrics.json").write_text(json.dumps({"area": params["width"] * size["height"]}))
with open(sys.argv[1], "a") as stream:
    stream.write("run\\n")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository whose one stage multiplies a setting of the method by one of the size."""
    folder = tmp_path / "project"
    (folder / "conf" / "scale").mkdir(parents=True)
    (folder / "conf" / "sweep").mkdir()
    (folder / "params.yaml").write_text("scale: toy\narea: {width: 2.0}\n")
    (folder / "conf" / "scale" / "toy.yaml").write_text("area: {height: 3}\n")
    (folder / "stage.py").write_text(STAGE)
    stage = {
        "cmd": f"{sys.executable} stage.py {tmp_path / 'runs.txt'}",
        "deps": ["stage.py"],
        "params": ["area", {"conf/scale/toy.yaml": ["area"]}],
        "metrics": [{"data/area/metrics.json": {"cache": False}}],
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"area": stage}}))
    write(folder, {"low": {"area.height": 1}, "wide": {"area.width": 4.5, "area.height": 2}})
    (folder / "data" / "area").mkdir(parents=True)
    (folder / "data" / "area" / "metrics.json").write_text("{}")  # in git, as the project's figures are
    git(folder, "init", "-q")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True)
    commit(folder)
    return folder


def write(folder: Path, experiments: dict[str, dict[str, float]]) -> None:
    content = {"targets": ["area"], "experiments": experiments, "figures": {"area": "area area"}}
    (folder / "conf" / "sweep" / "areas.yaml").write_text(yaml.safe_dump(content))


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@localhost")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "x")


def test_settings_of_both_files_are_swept_into_one_table_and_nothing_runs_twice(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    sweep.main(["areas", "--out", "table.json"])
    assert "| low | 2 |" in capsys.readouterr().out
    rows = json.loads((project / "table.json").read_text())
    assert [(row["experiment"], row["area"]) for row in rows] == [("low", 2.0), ("wide", 9.0)]
    assert (project.parent / "runs.txt").read_text().count("run") == 2
    sweep.main(["areas"])
    assert (project.parent / "runs.txt").read_text().count("run") == 2
    assert (project / "params.yaml").read_text() == "scale: toy\narea: {width: 2.0}\n"


def test_every_seed_is_a_run_and_the_table_gives_their_mean(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "stage.py").write_text(STAGE.replace('params["width"]', 'params["width"] * params.get("seed", 1)'))
    figures = {"area": "area area"}
    content: dict[str, Any] = {"targets": ["area"], "experiments": {"low": {"area.height": 1}}, "figures": figures}
    content |= {"common": {"area.width": 3.0}, "seeds": {"values": [5, 7, 9], "sections": ["area"]}}
    (project / "conf" / "sweep" / "areas.yaml").write_text(yaml.safe_dump(content))
    commit(project)
    monkeypatch.chdir(project)
    sweep.main(["areas", "--out", "table.json", "--figure", "areas.png"])
    assert "| low | 21 ± 14.9 |" in capsys.readouterr().out  # Student's t of two degrees of freedom: 4.303 * 6 / 3**0.5
    assert [row["area"] for row in json.loads((project / "table.json").read_text())] == [15.0, 21.0, 27.0]
    assert (project / "areas.png").stat().st_size > 1000


def test_an_experiment_that_fails_is_named_and_the_others_are_kept(project: Path) -> None:
    write(project, {"bad": {"area.height": -1}, "low": {"area.height": 1}})
    commit(project)
    areas = sweep.read("areas", project)
    for _ in range(2):
        with pytest.raises(PipelineFailure, match=r"areas-bad-.* failed"):
            sweep.run(areas, project)
    assert (project.parent / "runs.txt").read_text().count("run") == 1
    commit_name = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=project, capture_output=True, text=True, check=True
    ).stdout.strip()
    [row] = sweep.table(areas, {"low": f"areas-low-{commit_name}"}, project)
    assert row["area"] == 2.0


def test_what_waits_in_the_queue_is_not_queued_again(project: Path) -> None:
    areas = sweep.read("areas", project)
    queued = [sys.executable, "-m", "dvc", "exp", "run", "--queue", "--name"]
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=project, capture_output=True, text=True)
    name = f"areas-low-{head.stdout.strip()}"
    subprocess.run([*queued, name, *("-S", "conf/scale/toy.yaml:area.height=1"), "area"], cwd=project, check=True)
    sweep.run(areas, project)
    assert (project.parent / "runs.txt").read_text().count("run") == 2


def test_what_cannot_be_swept_is_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="got 'volumes', wanted one of areas"):
        sweep.read("volumes", project)
    with pytest.raises(ValueError, match=r"'area\.depth', wanted one of params\.yaml or conf/scale/toy\.yaml"):
        sweep.assignments({"area.depth": 1}, project)
    write(project, {"low": {"area.height": 1}})
    monkeypatch.chdir(project)
    with pytest.raises(SystemExit) as ended:
        sweep.main(["areas"])
    assert ended.value.code == 2 and "not committed" in capsys.readouterr().err
    good = {"targets": ["area"], "experiments": {"a": {"b": 1}}, "figures": {"area": "area area"}}
    for changed, words in (
        ({"experiments": {}}, "experiments: got {}"),
        ({"seeds": {"values": [1]}}, "seeds: got {'values': [1]}"),
        ({"experiments": {"a": None}}, "experiments.a: got None"),
        ({"figures": {"area": "area"}}, "figures.area: got 'area'"),
    ):
        content = good | changed
        (project / "conf" / "sweep" / "areas.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(ValueError, match=re.escape(words)):
            sweep.read("areas", project)
    shutil.copy(project / "params.yaml", project / "conf" / "sweep" / "areas.yaml")
    with pytest.raises(ValueError, match="wanted targets, experiments, figures"):
        sweep.read("areas", project)


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_sweep_names_settings_and_stages_that_exist(path: Path) -> None:
    found = sweep.read(path.stem, ROOT)
    known = set(stages(ROOT))
    assert set(found.targets) <= known
    assert {place.split()[0] for place in found.figures.values()} <= known
    for _, changed in found.runs().values():
        assert len(sweep.assignments(changed, ROOT)) == len(changed)
    files = [ROOT / "params.yaml", *(ROOT / "conf" / "scale" / f"{scale}.yaml" for scale in SCALES)]
    settings = {name for file in files for name in keys(yaml.safe_load(file.read_text()), Config)}
    named = {name for own in (found.common, *found.experiments.values()) for name in own}
    assert named <= settings
