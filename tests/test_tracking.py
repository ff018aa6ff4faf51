"""Every record reaches MLflow once, also when the server was down or the stage was killed; none is lost on the way."""

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from components.shared import delivery
from components.shared.contracts import Text
from components.shared.curves import Curves
from components.shared.delivery import SHORT, delivered, queued, send_all
from components.shared.manifest import read_json, seal, write_table
from components.shared.places import Inputs, Outputs
from components.shared.spool import PARENT_VARIABLE, RECORDS, Spool, flatten, open_run, spool_folder
from components.shared.tracking import SpoolTracker, TerminalTracker

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its tables and nothing in them, whose making takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    store(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def in_spool(tmp_path: Path, empty_store: Path, no_sender: None) -> None:
    """A store that is ready, and nobody who sends on his own."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")


def track(root: Path, name: str = "pretrain") -> SpoolTracker:
    (root / ".work").mkdir(exist_ok=True)
    spool = open_run(name, "", {"scale": "smoke", name: {"lr": 1e-3, "betas": [0.9, 0.95]}}, root)
    return SpoolTracker(spool, Curves(root / ".work", resumed=False))


def whole_run(root: Path) -> SpoolTracker:
    """A run with one record of every kind."""
    tracker = track(root)
    rows = [Text(id="t", text="x", language="en", corpus="c", license="MIT", split="train")]
    write_table(root / "data" / "collect" / "texts", rows, Text)
    inputs = Inputs(root / "data")
    inputs.folder("collect", "texts")
    outputs = Outputs(root=root / "data" / "pretrain", work=root / ".work")
    model = outputs.folder("model")
    (model / "config.json").write_text("{}")
    seal(model)
    for step in range(3):
        tracker.log_metrics({"loss": 1.0 / (step + 1)}, step)
    figure = Figure()
    figure.subplots().plot([1, 2])
    tracker.log_figure(figure, "curve")
    tracker.log_audio(np.zeros(1600, np.float32), 16_000, "answers/hello")
    tracker.log_text("a note", "notes/note.txt")
    tracker.log_model(model, "speechloom-pretrain")
    tracker.say("a line")
    outputs.publish({"loss": 0.5})
    tracker.log_metrics({"loss_final": 0.5})
    tracker.finish("done", "", inputs, outputs)
    return tracker


def store(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def runs_of(uri: str) -> list[Any]:
    client = store(uri)
    experiment = client.get_experiment_by_name("speechloom")
    return list(client.search_runs([experiment.experiment_id], order_by=["start_time"])) if experiment else []


@pytest.mark.usefixtures("in_spool")
def test_a_run_arrives_whole(tmp_path: Path) -> None:
    tracker = whole_run(tmp_path)
    assert send_all(spool_folder(tmp_path)) == 0
    uri = tracker.spool.uri
    assert uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    (run,) = runs_of(uri)
    client = store(uri)
    assert (run.info.run_name, run.info.status) == ("pretrain", "FINISHED")
    assert run.data.params == {"scale": "smoke", "pretrain.lr": "0.001", "pretrain.betas": "[0.9, 0.95]"}
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert run.data.metrics["loss_final"] == 0.5
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.name == "collect/texts" and dataset.tags[0].value == "input"
    assert run.data.tags["input.collect/texts"].startswith(dataset.dataset.digest)
    found = {item.path for folder in ("", "audio/answers", "figures", "notes") for item in files(client, run, folder)}
    wanted = {"log.txt", "figures/curve.png", "notes/note.txt", "audio/answers/hello.wav", "audio/answers/hello.png"}
    assert wanted <= found
    (version,) = client.search_model_versions("name='speechloom-pretrain'")
    model = client.get_logged_model(re.findall(r"m-[0-9a-f]{32}", version.source)[0])
    assert model.tags["folder"] == str(tmp_path / "data" / "pretrain" / "model")
    assert model.tags["content_hash"] == run.data.tags["output.model"]
    assert not list(tracker.spool.folder.glob("files/*"))


def files(client: Any, run: Any, folder: str) -> list[Any]:
    return client.list_artifacts(run.info.run_id, folder or None)


@pytest.mark.usefixtures("in_spool")
def test_sending_twice_and_after_an_interruption_makes_no_second_run(tmp_path: Path) -> None:
    tracker = whole_run(tmp_path)
    spool = spool_folder(tmp_path)
    send_all(spool)
    sent = read_json(tracker.spool.folder / "sent.json")
    (tracker.spool.folder / "sent.json").write_text(json.dumps({"creating": True, "offset": 0}))
    send_all(spool)
    assert read_json(tracker.spool.folder / "sent.json")["run_id"] == sent["run_id"]
    (run,) = runs_of(tracker.spool.uri)
    assert len(store(tracker.spool.uri).get_metric_history(run.info.run_id, "loss")) == 3


@pytest.mark.usefixtures("in_spool")
def test_a_record_that_a_kill_cut_short_is_passed_over(tmp_path: Path) -> None:
    tracker = track(tmp_path)
    with (tracker.spool.folder / RECORDS).open("a") as stream:
        stream.write('{"kind": "metrics", "values": {"lo\n')
    tracker.log_metrics({"loss": 2.0}, 7)
    tracker.spool.end("done")
    assert send_all(spool_folder(tmp_path)) == 0
    (run,) = runs_of(tracker.spool.uri)
    assert run.data.metrics["loss"] == 2.0 and run.info.status == "FINISHED"


@pytest.mark.usefixtures("in_spool")
def test_children_hang_below_their_parent_whichever_is_sent_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = track(tmp_path, "zz_pipeline")
    monkeypatch.setenv(PARENT_VARIABLE, parent.spool.key)
    child = track(tmp_path, "aa_child")
    for tracker in (child, parent):
        tracker.spool.end("done")
    assert send_all(spool_folder(tmp_path)) == 0
    by_name = {run.info.run_name: run for run in runs_of(parent.spool.uri)}
    assert len(by_name) == 2
    assert by_name["aa_child"].data.tags["mlflow.parentRunId"] == by_name["zz_pipeline"].info.run_id


@pytest.mark.usefixtures("in_spool")
def test_a_failed_run_is_marked_with_its_line(tmp_path: Path) -> None:
    tracker = track(tmp_path)
    tracker.finish("quality", "rule x is broken", Inputs(tmp_path), Outputs(root=tmp_path, work=tmp_path))
    send_all(spool_folder(tmp_path))
    (run,) = runs_of(tracker.spool.uri)
    assert run.info.status == "FAILED"
    assert (run.data.tags["failure"], run.data.tags["failure_line"]) == ("quality", "rule x is broken")


@pytest.mark.usefixtures("in_spool")
def test_names_that_mlflow_refuses_are_spelt_so_that_it_takes_them(tmp_path: Path) -> None:
    tracker = track(tmp_path)
    tracker.log_metrics({"wer: 中文 (real)": 0.5, "loss": float("nan"), "high": float("inf")})
    tracker.spool.tags({"long": "x" * 10_000})
    tracker.spool.end("done")
    assert send_all(spool_folder(tmp_path)) == 0
    (run,) = runs_of(tracker.spool.uri)
    assert run.data.metrics["wer_ __ _real_"] == 0.5
    assert run.info.status == "FINISHED"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    """An address, and a function that starts a real MLflow server there."""
    place, port = tmp_path_factory.mktemp("server"), free_port()
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--backend-store-uri", f"sqlite:///{place}/server.db", "--artifacts-destination", str(place / "a")]
        started.append(
            subprocess.Popen(
                [*command, "--workers", "1"], cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        )  # fmt: skip
        while not delivery.reachable(f"http://127.0.0.1:{port}"):
            assert started[0].poll() is None
            time.sleep(0.2)

    yield f"http://127.0.0.1:{port}", start
    for process in started:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=20)


def test_a_server_that_is_down_costs_a_line_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{free_port()}")
    monkeypatch.setattr(delivery, "ensure_sender", lambda spool: None)
    started = time.time()
    tracker = whole_run(tmp_path)
    assert time.time() - started < 10
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "does not answer; the run is queued in" in lines[0] and "secret" not in lines[0]
    assert queued(spool_folder(tmp_path)) == [tracker.spool.folder]


def test_a_machine_without_mlflow_keeps_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(delivery, "has_mlflow", lambda: False)
    tracker = whole_run(tmp_path)
    assert "mlflow is not installed; the run is queued in" in capsys.readouterr().err
    assert queued(spool_folder(tmp_path)) == [tracker.spool.folder]
    assert not (spool_folder(tmp_path) / "sender.log").exists()


@pytest.mark.slow
def test_what_was_queued_arrives_when_the_server_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: tuple[str, Any]
) -> None:
    uri, start = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(delivery, "ensure_sender", lambda spool: None)
    for name, value in SHORT.items():
        monkeypatch.setenv(name, value)
    whole_run(tmp_path)
    spool = spool_folder(tmp_path)
    assert send_all(spool) == 1
    start()
    command = [sys.executable, "-m", "components.shared.tracking", "send"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 runs sent, 0 still queued" in done.stdout
    (run,) = runs_of(uri)
    assert run.info.status == "FINISHED" and files(store(uri), run, "figures")


STAGE = """
import sys, time
from pathlib import Path
from components.shared.curves import Curves
from components.shared.spool import open_run
from components.shared.tracking import SpoolTracker
root = Path.cwd()
tracker = SpoolTracker(open_run(sys.argv[1], "", {"seed": 1}, root), Curves(root / ".work", resumed=False))
tracker.spool.watch_machine()
for step in range(5):
    tracker.log_metrics({"loss": float(step)}, step)
if sys.argv[2:] == ["hang"]:
    print("hanging", flush=True)
    time.sleep(100)
tracker.spool.end("done")
assert "mlflow" not in sys.modules
"""


def start_stage(root: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", STAGE, *arguments]
    return subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True)


def test_two_stages_at_once_on_a_new_store_and_one_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".work").mkdir()
    killed = start_stage(tmp_path, "killed", "hang")
    assert killed.stdout is not None and killed.stdout.readline() == "hanging\n"
    both = [start_stage(tmp_path, name) for name in ("first", "second")]
    assert [process.wait(timeout=180) for process in both] == [0, 0]
    killed.kill()
    killed.wait()
    spool = spool_folder(tmp_path)
    until = time.time() + 180
    while not all(read_state(run).get("ended") and delivered(run) for run in spool.glob("*/")):
        assert time.time() < until, (spool / "sender.log").read_text()
        time.sleep(0.2)
    found = {run.info.run_name: run for run in runs_of(f"sqlite:///{tmp_path / 'mlflow.db'}")}
    status = {name: run.info.status for name, run in found.items()}
    assert status == {"first": "FINISHED", "second": "FINISHED", "killed": "KILLED"}
    assert "system/process_memory_megabytes" in {name for run in found.values() for name in run.data.metrics}
    assert found["first"].data.metrics["peak_memory_mb"] > 10


def read_state(run: Path) -> dict[str, Any]:
    return delivery.sent_state(run)


@pytest.mark.parametrize("artifact", ["../x", "/etc/x", "a/../../x", ""])
def test_an_artifact_cannot_leave_its_run(tmp_path: Path, artifact: str) -> None:
    with (
        pytest.raises(ValueError, match="wanted a relative path inside the run"),
        Spool(tmp_path / "run", "").file(artifact),
    ):
        raise AssertionError("not reached")


@given(
    st.recursive(
        st.one_of(st.integers(), st.floats(), st.text(), st.none()), lambda s: st.dictionaries(st.text(min_size=1), s)
    )
)
def test_settings_of_any_shape_are_flattened_to_text(value: Any) -> None:
    assert all(isinstance(key, str) and isinstance(text, str) for key, text in flatten({"section": value}))


def test_a_bar_is_shown_with_the_time_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)

    def slowly() -> Iterator[int]:
        for item in range(4):
            time.sleep(0.6)
            yield item

    assert list(TerminalTracker().progress(slowly(), 4, "items")) == [0, 1, 2, 3]
    assert re.search(r"items: +\d+%.*\d/4 \[\d\d:\d\d<", capsys.readouterr().err)
