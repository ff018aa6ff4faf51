"""The graph is DVC's; a flow shows what DVC did with each stage, retries what may pass by itself, and restores."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import toy

from components.shared.manifest import read_json
from components.shared.spool import PARENT_VARIABLE, RECORDS, open_run, spool_folder
from flows import lineage, scratch
from flows import run as terminal
from flows.graph import Event, Outcome, PipelineFailure, repro, stages, status
from flows.scratch import checkout_for

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return toy.make(tmp_path)


def outcomes(project: Path, *arguments: str) -> list[tuple[str, Outcome | None]]:
    """What one `dvc repro` did, event by event."""
    events: list[Event] = []
    repro(project, list(arguments), events.append)
    return [(event.stage, event.outcome) for event in events]


def test_stages_come_in_dvcs_order(project: Path) -> None:
    assert stages(project) == ["first", "second"]


def test_every_stage_of_the_shipped_graph_comes_after_what_it_needs() -> None:
    order = stages(ROOT)
    assert order[0] == "fingerprint" and order[-1] == "report"
    assert order.index("check@collect") == order.index("collect") + 1
    assert order.index("evaluate@sft") > order.index("sft") > order.index("pretrain") > order.index("check@mix")


def test_each_way_a_stage_can_go_is_told_apart(project: Path) -> None:
    ran = [("first", None), ("first", Outcome.ran), ("second", None), ("second", Outcome.ran)]
    assert outcomes(project) == ran
    assert outcomes(project) == [("first", Outcome.unchanged), ("second", Outcome.unchanged)]
    toy.give(project, "other")
    assert outcomes(project) == ran
    toy.give(project, "fine")
    assert outcomes(project) == [("first", Outcome.restored), ("second", Outcome.restored)]
    assert toy.calls(project) == []
    assert (project / "data" / "second" / "out").read_text() == "second of fine"


@pytest.mark.parametrize(
    ("source", "kind", "line"),
    [
        ("user", "user", "second: row 3: got 1, wanted 2, in source.txt"),
        ("bug", "bug", "second: KeyError: 'row'"),
        ("killed", "transient", "second: killed while it ran"),
    ],
)
def test_a_failure_has_its_kind_and_line_and_brings_the_last_good_output_back(
    project: Path, source: str, kind: str, line: str
) -> None:
    outcomes(project)
    toy.give(project, source)
    with pytest.raises(PipelineFailure) as caught:
        outcomes(project)
    failure = caught.value
    assert (failure.stage, failure.kind, failure.line) == ("second", kind, line)
    assert (project / "data" / "second" / "out").read_text() == "second of fine"


def test_a_status_from_an_earlier_run_is_not_taken_for_this_one(project: Path) -> None:
    outcomes(project)
    toy.give(project, "user")
    with pytest.raises(PipelineFailure):
        outcomes(project)
    kind, line = status(project, "second", since=2e9)
    assert (kind, line) == ("bug", "second: failed before it started, see above")


@pytest.mark.usefixtures("no_sender")
def test_the_terminal_prints_a_line_for_each_stage_and_runs_what_is_transient_again(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "WAIT_S", (0.0, 0.0))
    toy.give(project, "transient")
    terminal.run(project, [])
    assert toy.calls(project) == ["first", "second", "second"]
    assert re.sub(r"in \d+ s", "in 0 s", capsys.readouterr().out).splitlines() == [
        "[ 1/2] first: started",
        "first: a line of its own",
        "[ 1/2] first: done in 0 s",
        "[ 2/2] second: started",
        "second: a line of its own",
        "[ 2/2] second: failed in 0 s",
        "second: the server went away; trying again in 0 s",
        "[ 1/2] first: up to date",
        "[ 2/2] second: started",
        "second: a line of its own",
        "[ 2/2] second: done in 0 s",
    ]


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / RECORDS).read_text().splitlines()]


@pytest.mark.usefixtures("no_sender")
def test_dvcs_hashes_reach_the_run_and_a_restored_stage_has_one_of_its_own(project: Path) -> None:
    outcomes(project)
    run = open_run("first", "", {}, project)
    lineage.record(project, "first", Outcome.ran, since=0.0)
    tags = records(run.folder)[-1]["values"]
    assert set(tags) == {"dvc.dep.source.txt", "dvc.out.data/first/metrics.json", "dvc.out.data/first/out"}
    lineage.record(project, "second", Outcome.restored, since=0.0)
    (restored,) = [path for path in spool_folder(project).glob("*/") if "-second-" in path.name]
    values = {key: value for entry in records(restored) for key, value in entry.get("values", {}).items()}
    assert values["restored"] == "true"
    assert values["dvc.dep.data/first/out"] == tags["dvc.out.data/first/out"]


@pytest.mark.usefixtures("no_sender")
def test_runs_inside_a_pipeline_know_their_parent(project: Path) -> None:
    with terminal.tracked(project, []):
        key = os.environ[PARENT_VARIABLE]
        child = open_run("first", "", {}, project)
    assert PARENT_VARIABLE not in os.environ
    first = records(child.folder)[0]
    assert first["parent"] == key and first["tags"]["pipeline_id"] == key
    assert records(spool_folder(project) / key)[-1]["status"] == "FINISHED"


def test_another_scale_gets_a_scratch_checkout_that_follows_the_code(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("components", "flows"):
        (checkout / name).mkdir()
        (checkout / name / "code.py").write_text("one")
    (checkout / "dvc.yaml").write_text("stages: {}\n")
    assert checkout_for("smoke", checkout) == checkout == checkout_for("", checkout)
    place = checkout_for("tiny", checkout)
    assert place == checkout / ".work" / "scale" / "tiny"
    assert "scale: tiny" in (place / "params.yaml").read_text()
    assert (place / "conf" / "scale" / "tiny.yaml").is_file()
    (checkout / "components" / "code.py").unlink()
    (checkout / "components" / "new.py").write_text("two")
    checkout_for("tiny", checkout)
    assert [path.name for path in (place / "components").iterdir()] == ["new.py"]
    with pytest.raises(ValueError, match="scale: got 'huge', wanted one of h100, h800, smoke, tiny"):
        checkout_for("huge", checkout)
    (checkout / "params.yaml").unlink()
    with pytest.raises(ValueError, match="run from the project's root"):
        scratch.checkout_for("", checkout)


def test_recordings_are_not_copied_for_another_scale(checkout: Path) -> None:
    source = checkout / "data" / "corpora" / "mine" / "a.wav"
    source.parent.mkdir(parents=True)
    source.write_text("sound")
    (source.parent / "b.wav").symlink_to("a.wav")
    place = checkout_for("tiny", checkout) / "data" / "corpora" / "mine" / "a.wav"
    assert place.samefile(source)
    assert place.with_name("b.wav").samefile(source) and not place.with_name("b.wav").is_symlink()
    source.unlink()
    source.write_text("another")
    checkout_for("tiny", checkout)
    assert place.read_text() == "another"


def test_settings_that_are_no_yaml_are_one_line(project: Path) -> None:
    (project / "params.yaml").write_text("scale: toy\n  broken: [\n")
    (project / "dvc.yaml").write_text((project / "dvc.yaml").read_text() + "    params: [broken]\n")
    done = toy.run(project, "-m", "flows.run")
    assert done.returncode == 2
    assert "params.yaml" in done.stderr and "Traceback" not in done.stderr + done.stdout


def prefect(project: Path, home: Path, *arguments: str) -> tuple[int, str, str]:
    """`python -m flows.pipeline` with a server of its own: (exit code, output, errors)."""
    done = toy.run(project, "-m", "flows.pipeline", *arguments, PREFECT_HOME=str(home), PREFECT_API_URL="")
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect")


def test_under_prefect_each_stage_is_a_task_and_cached_ones_show_as_cached(project: Path, home: Path) -> None:
    (project / "data").mkdir()
    code, output, errors = prefect(project, home)
    assert code == 0, errors
    assert "[ 1/2] first: done" in output and "[ 2/2] second: done" in output
    code, output, errors = prefect(project, home)
    assert code == 0, errors
    assert "first: up to date" in output and errors.count("Cached(") == 2
    toy.give(project, "user")
    code, output, errors = prefect(project, home)
    assert code == 2
    assert "second: row 3: got 1, wanted 2, in source.txt" in errors.splitlines() and "Traceback" not in errors
    assert toy.calls(project) == ["first", "second"]
    assert (project / "data" / "second" / "out").read_text() == "second of fine"
    assert read_json(project / ".work" / "second" / "status.json")["kind"] == "user"


def test_under_prefect_what_is_transient_runs_again_and_metrics_are_artifacts(project: Path, tmp_path: Path) -> None:
    toy.give(project, "transient")
    code, _, errors = prefect(project, tmp_path / "home")
    assert code == 0, errors
    assert toy.calls(project) == ["first", "second", "second"]
    with closing(sqlite3.connect(tmp_path / "home" / "prefect.db")) as store:
        tables = {
            key: json.loads(json.loads(data))
            for key, data in store.execute("select key, data from artifact")
            if key == "first-metrics"
        }
    assert tables == {"first-metrics": [{"metric": "letters", "value": len("transient")}]}


def test_an_unknown_target_of_the_flow_is_one_line(project: Path, home: Path) -> None:
    code, _, errors = prefect(project, home, "thrid")
    assert code == 2
    assert "stage: got 'thrid', wanted one of first, second" in errors.splitlines() and "Traceback" not in errors
