"""The whole graph at its smallest scale through real DVC, in a clone: from nothing, then what each change re-runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.config import STAGES
from components.shared.manifest import read_json, read_manifest
from flows.scratch import checkout_for, working_tree

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("speech_tokenizer", "text_to_token", "pretrain", "sft", "speech_decoder")
AFTER_PRETRAIN = {"pretrain", "check@pretrain", "evaluate@pretrain", "sft", "check@sft", "evaluate@sft", "report"}


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def ran(self) -> set[str]:
        """Stages that were really run."""
        return set(re.findall(r"^\[ *\d+/\d+\] (\S+): done in", self.out, re.MULTILINE))

    @property
    def restored(self) -> set[str]:
        """Stages whose outputs came from the cache."""
        return set(re.findall(r"^\[ *\d+/\d+\] (\S+): from cache", self.out, re.MULTILINE))


def command(folder: Path, *arguments: str) -> Done:
    """A Python command with the code of the folder, as a user would type it there."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    print(f"$ {' '.join(arguments)}\n{done.stdout}{done.stderr}")
    return Done(done.returncode, done.stdout, done.stderr)


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@localhost")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of this checkout with what is not committed yet, as one commit."""
    folder = tmp_path_factory.mktemp("clone")
    for path in working_tree(ROOT):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "as it is")
    return folder


@pytest.fixture(scope="module")
def first(clone: Path) -> Done:
    """The first run of the whole graph."""
    return command(clone, "-m", "flows.run", "--scale", "smoke")


@pytest.fixture
def smoke(clone: Path, first: Done) -> Path:
    """The place where scale smoke has run."""
    assert first.code == 0, first.out + first.err
    return clone / ".work" / "scale" / "smoke"


def again(clone: Path, *targets: str) -> Done:
    return command(clone, "-m", "flows.run", "--scale", "smoke", *targets)


def edit(path: Path, pattern: str, new: str) -> None:
    """Replace the first match of a pattern in a file."""
    text, count = re.subn(pattern, new, path.read_text(), count=1, flags=re.DOTALL)
    assert count == 1, f"{pattern} in {path}"
    path.write_text(text)


def store(clone: Path) -> list[Any]:
    """All runs of the clone's MLflow store, when nothing is queued any more."""
    from mlflow import MlflowClient

    assert command(clone, "-m", "components.shared.tracking", "send").code == 0
    client = MlflowClient(f"sqlite:///{clone / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("speechloom")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def test_the_whole_graph_runs_and_leaves_the_checkout_clean(clone: Path, smoke: Path, first: Done) -> None:
    checks = {f"check@{stage}" for stage in STAGES if stage not in ("evaluate", "report")}
    evaluations = {f"evaluate@{model}" for model in MODELS}
    assert first.ran == {"fingerprint", *STAGES, *checks, *evaluations} - {"evaluate"}
    for stage in STAGES:
        for folder in [smoke / "data" / stage / model for model in MODELS if stage == "evaluate"] or [
            smoke / "data" / stage
        ]:
            assert read_json(folder / "metrics.json"), folder
    page = (smoke / "data" / "report" / "page" / "report.html").read_text()
    assert "<audio" in page and "http://" not in re.sub(r"http://www\.w3\.org/\S+", "", page)
    assert f"{smoke / 'data' / 'report' / 'page' / 'report.html'}" in first.out
    assert "make dashboard" in first.out
    assert git(clone, "status", "--porcelain") == ""


def test_every_run_is_in_the_one_store_below_its_pipeline(clone: Path, smoke: Path) -> None:
    runs = store(clone)
    (parent,) = [run for run in runs if run.info.run_name == "pipeline"]
    children = [run for run in runs if run is not parent]
    assert len(children) == len(STAGES) - 1 + 10 + len(MODELS)
    for run in children:
        tags = run.data.tags
        assert run.info.status == "FINISHED", run.info.run_name
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        assert tags["pipeline_id"] == parent.data.tags["pipeline_id"]
        assert any(name.startswith("dvc.out.") for name in tags), run.info.run_name
    by_name = {run.info.run_name: run for run in children}
    for earlier, table, later in [("mix", "shards", "pretrain"), ("pretrain", "model", "sft")]:
        content = read_manifest(smoke / "data" / earlier / table).content_hash
        assert by_name[earlier].data.tags[f"output.{table}"] == content
        assert by_name[later].data.tags[f"input.{earlier}/{table}"] == content
        name = f"data/{earlier}/{table}"
        assert by_name[earlier].data.tags[f"dvc.out.{name}"] == by_name[later].data.tags[f"dvc.dep.{name}"]


def test_a_second_repro_has_nothing_to_do(smoke: Path) -> None:
    done = command(smoke, "-m", "dvc", "repro")
    assert done.code == 0 and "Running stage" not in done.out
    assert "Data and pipelines are up to date" in done.out


def test_a_changed_comment_reruns_nothing(clone: Path, smoke: Path) -> None:
    for name in ("components/shared/manifest.py", "components/pretrain/stage.py"):
        with (clone / name).open("a") as stream:
            stream.write("\n# A comment that nobody needs.\n")
    try:
        assert again(clone).ran == {"fingerprint"}
    finally:
        git(clone, "checkout", "--", "components")


def test_a_changed_learning_rate_reruns_only_what_follows_and_the_old_one_comes_from_cache(
    clone: Path, smoke: Path
) -> None:
    edit(clone / "conf" / "scale" / "smoke.yaml", r"(\npretrain:.*?\n +(?:peak_)?lr: )\S+", r"\g<1>1.5e-3")
    try:
        changed = again(clone)
    finally:
        git(clone, "checkout", "--", "conf")
    assert changed.code == 0, changed.out + changed.err
    assert {"pretrain", "sft", "evaluate@pretrain", "evaluate@sft", "report"} <= changed.ran <= AFTER_PRETRAIN
    back = again(clone)
    assert back.ran <= {"fingerprint"} and {"pretrain", "sft", "report"} <= back.restored
    assert [run for run in store(clone) if run.data.tags.get("restored") == "true"]


def test_a_moved_limit_reruns_only_its_gate(clone: Path, smoke: Path) -> None:
    edit(clone / "params.yaml", r"(\nchecks:.*?\n  tokenize:.*?mostly: )\S+?([,}\s])", r"\g<1>0.001\g<2>")
    try:
        assert again(clone).ran == {"check@tokenize"}
    finally:
        git(clone, "checkout", "--", "params.yaml")
        again(clone)


def test_a_broken_limit_stops_at_its_gate_with_one_line_through_every_door(clone: Path, smoke: Path) -> None:
    rule = "\n  tokenize:\n    - {column: num_tokens, level: row, min: 1.0e+6, max: null, mostly: 1.0}\n"
    columns = read_columns(smoke / "data" / "tokenize" / "stats.parquet")
    edit(clone / "params.yaml", r"(\nchecks:.*?)\n  tokenize:\n.*?\n(?=  \w)", r"\g<1>" + rule)
    edit(clone / "params.yaml", "column: num_tokens, level: row", f"column: {columns[0]}, level: row")
    verdict = smoke / "data" / "check" / "tokenize" / "verdict.json"
    page = ".work/check/tokenize/docs/index.html"
    said = rf"rule row\.{columns[0]} in \[1e\+06, inf\] for 100 % is broken by (\d+) of \1 records, such .*; see {page}"
    line = re.compile(f"^check@tokenize: {said}$")
    try:
        through_make = again(clone)
        assert through_make.code == 2
        assert line.match(through_make.err.strip().splitlines()[-1])
        assert through_make.ran == set()
        develop = command(smoke, "-m", "components.shared.checks", "--stage", "tokenize")
        assert develop.code == 2 and line.match(develop.err.strip())
        plain = command(smoke, "-m", "dvc", "repro", "check@tokenize")
        assert plain.code != 0 and any(line.match(text) for text in plain.err.splitlines())
        flow = command(smoke, "-m", "flows.pipeline", "check@tokenize")
        assert flow.code == 2 and any(line.match(text) for text in flow.err.splitlines())
        assert (smoke / page).is_file()
        assert verdict.is_file(), "the last good verdict is back"
    finally:
        git(clone, "checkout", "--", "params.yaml")
    assert again(clone).code == 0


def read_columns(path: Path) -> list[str]:
    """Columns that have a number in every row of the statistics."""
    import pandas as pd

    table = pd.read_parquet(path)
    rows = table[table["level"] == "row"].drop(columns="level").dropna(axis="columns")
    return list(rows.columns)


def test_the_whole_graph_under_prefect_is_a_task_a_stage_all_cached(clone: Path, smoke: Path) -> None:
    done = command(clone, "-m", "flows.pipeline", "--scale", "smoke")
    assert done.code == 0, done.err
    assert done.ran == set()
    assert done.err.count("Cached(") == len(STAGES) - 1 + 10 + len(MODELS) + 1


def test_another_scale_of_the_clone_shares_nothing_but_cache_and_store(clone: Path, smoke: Path) -> None:
    assert checkout_for("smoke", clone) == smoke
    assert not (smoke / "mlflow.db").exists() and not (smoke / ".dvc" / "cache").exists()
    assert not (clone / "data" / "collect" / "utterances").exists()


@pytest.mark.slow
def test_queued_experiments_arrive_in_the_one_store(clone: Path, smoke: Path) -> None:
    edit(clone / "params.yaml", r"scale: tiny", "scale: smoke")
    assert command(clone, "-m", "dvc", "repro").code == 0
    git(clone, "add", "-A")
    git(clone, "commit", "-qm", "scale smoke")
    before = {run.info.run_id for run in store(clone)}
    for number in (3, 4):
        queue = ("-m", "dvc", "exp", "run", "--queue", "-S", f"report.max_samples={number}")
        assert command(clone, *queue).code == 0
    assert command(clone, "-m", "dvc", "exp", "run", "--run-all").code == 0
    new = [run for run in store(clone) if run.info.run_id not in before and run.info.run_name == "report"]
    assert {run.data.params["report.max_samples"] for run in new} == {"3", "4"}
    assert len({run.data.tags["dvc_exp_name"] for run in new}) == 2
    git(clone, "checkout", "-q", "HEAD~1")


def asked(url: str, body: dict[str, Any] | None = None) -> Any:
    """What a Prefect server answers; None while it cannot be reached."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)
    except OSError:
        return None


def wait_for(what: Callable[[], Any], seconds: float) -> Any:
    """The first answer that is not empty."""
    end = time.time() + seconds
    while time.time() < end:
        if found := what():
            return found
        time.sleep(1.0)
    raise TimeoutError(f"nothing within {seconds} s")


@pytest.mark.slow
def test_a_prefect_server_sees_every_run_and_a_schedule_starts_them(clone: Path, smoke: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    api = f"http://127.0.0.1:{port}/api"
    environment = {**os.environ, "PYTHONPATH": str(clone), "PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": api}
    environment |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    serve = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    flow = [sys.executable, "-m", "flows.pipeline", "--scale", "smoke", "check@collect"]
    processes = [subprocess.Popen(serve, cwd=tmp_path, env=environment, start_new_session=True)]
    try:
        wait_for(lambda: asked(f"{api}/health"), 120)
        subprocess.run(flow, cwd=clone, env=environment, check=True)
        [run] = asked(f"{api}/flow_runs/filter", {})
        assert run["state_type"] == "COMPLETED"
        [task] = asked(f"{api}/task_runs/filter", {})
        assert (task["name"], task["state_name"]) == ("check@collect", "Cached")
        scheduled = [*flow, "--schedule", "* * * * *"]
        processes.append(subprocess.Popen(scheduled, cwd=clone, env=environment, start_new_session=True))

        def done_by_schedule() -> list[Any]:
            runs = asked(f"{api}/flow_runs/filter", {}) or []
            return [run for run in runs if run["deployment_id"] and run["state_type"] == "COMPLETED"]

        assert wait_for(done_by_schedule, 180)
    finally:
        for process in reversed(processes):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [name.replace("evaluate", "evaluate@sft") for name in STAGES])
def test_kill_minus_nine_in_the_middle_of_a_stage_and_the_same_command_again(
    clone: Path, smoke: Path, first: Done, stage: str
) -> None:
    [seconds] = re.findall(rf"\] {stage}: done in ([\d.]+) s", first.out)
    data, work = (smoke / top / Path(*stage.split("@")) for top in ("data", ".work"))
    wanted = {path.name: read_manifest(path).content_hash for path in data.iterdir() if path.is_dir()}
    curves = read_json(data / "curves.json")
    shutil.rmtree(work)  # shards of the first run would make this one short
    environment = {**os.environ, "PYTHONPATH": str(smoke), "OMP_NUM_THREADS": "2"}
    repro = [sys.executable, "-m", "dvc", "repro", "--force", "--single-item", stage]
    process = subprocess.Popen(repro, cwd=smoke, env=environment, start_new_session=True)
    status = work / "status.json"
    while not status.is_file() or read_json(status)["kind"] != "running":
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.4 * float(seconds))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert json.loads(status.read_text())["kind"] == "running"
    assert command(smoke, "-m", "dvc", "repro", "--single-item", stage).code == 0
    for name, content in wanted.items():
        assert read_manifest(data / name).content_hash == content
    assert read_json(data / "curves.json") == curves
    assert again(clone).code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "top"),
    [("collect", "data"), ("speech_tokenizer", "data"), ("mix", "data"), ("pretrain", "data"), ("pretrain", ".work")],
)
def test_a_full_disk_is_one_line_and_exit_code_2(smoke: Path, stage: str, top: str) -> None:
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    before = (smoke / "data" / stage / "metrics.json").read_bytes()
    run = f"mount -t tmpfs -o size=96k none {top}/{stage} && exec {sys.executable} -m components.{stage} --publish"
    environment = {**os.environ, "PYTHONPATH": str(smoke), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [*namespace, "sh", "-c", run], cwd=smoke, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "No space left on device" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert (smoke / "data" / stage / "metrics.json").read_bytes() == before


def test_a_misspelt_setting_is_one_line_through_each_door(clone: Path, smoke: Path) -> None:
    params = smoke / "params.yaml"
    kept = params.read_text()
    edit(params, r"(?m)^collect:$", "collect:\n  min_durations: 1")
    try:
        doors = {
            2: [("components.collect", "--publish"), ("flows.run", "collect"), ("flows.pipeline", "collect")],
            255: [("dvc", "repro", "collect")],
        }
        for code, commands in doors.items():
            for module, *arguments in commands:
                done = command(smoke, "-m", module, *arguments)
                assert done.code == code, module
                assert "min_durations" in done.out + done.err and "Traceback" not in done.out + done.err, module
    finally:
        params.write_text(kept)
    assert again(clone).code == 0
