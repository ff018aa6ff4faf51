"""Writes spooled records to MLflow: the one place that imports it."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from components.shared.manifest import read_json, write_json
from components.shared.spool import EXPERIMENT, FILES, RECORDS, SENT

ATTEMPTS = 3
TEMPORARY = ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "INTERNAL_ERROR")
BATCH = 900
"""Metrics, and likewise 90 parameters or tags, in one call; MLflow takes at most 1,000 and 100."""


class Stores:
    """A client for each address that the spool's runs name, and the run ids they got there."""

    def __init__(self, spool: Path) -> None:
        self.spool = spool
        self.clients: dict[str, tuple[MlflowClient, str]] = {}

    def send(self, run: Path, records: list[dict[str, Any]], state: dict[str, Any]) -> dict[str, Any]:
        """Send records of one run in order and return its new state {run_id, uri, pid, host, ended}.

        Raises ConnectionError when the store does not answer; a record that it refuses is reported and left out.
        """
        for group in _batches(records):
            for attempt in range(ATTEMPTS):
                try:
                    state = self._send_group(run, group, state)
                    break
                except (MlflowException, OSError) as error:
                    if not self._answers(state.get("uri") or group[0].get("uri", "")):
                        raise ConnectionError(_one_line(error)) from error
                    if attempt + 1 == ATTEMPTS or not _may_pass(error):
                        print(f"{run.name}: {group[0]['kind']} refused: {_one_line(error)}", file=sys.stderr)
                        break
                    time.sleep(1.0)
        return state

    def _answers(self, uri: str) -> bool:
        """Whether the store is there at all, so that a refusal is the record's own fault."""
        try:
            client, experiment = self.client(uri)
            client.get_experiment(experiment)
        except (MlflowException, OSError):
            return False
        return True

    def client(self, uri: str) -> tuple[MlflowClient, str]:
        """The client and the experiment's id, made at first use; the sender's lock makes creation safe."""
        if uri not in self.clients:
            client = MlflowClient(uri)
            experiment = client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                place = (self.spool.parent.parent / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
                number = client.create_experiment(EXPERIMENT, artifact_location=place)
            else:
                number = experiment.experiment_id
            self.clients[uri] = (client, number)
        return self.clients[uri]

    def _send_group(self, run: Path, group: list[dict[str, Any]], state: dict[str, Any]) -> dict[str, Any]:
        record = group[0]
        if record["kind"] == "run":
            return self._create(run, record, state)
        if "run_id" not in state:
            return state
        client, experiment = self.client(state["uri"])
        run_id = state["run_id"]
        match record["kind"]:
            case "metrics":
                client.log_batch(run_id, metrics=_metrics(group))
            case "tags":
                client.log_batch(run_id, tags=[RunTag(name, value) for name, value in record["values"].items()])
            case "file":
                _send_file(client, run_id, run / FILES / record["path"], record["artifact"])
            case "dataset":
                client.log_inputs(run_id, [_dataset(record)])
            case "model":
                _send_model(client, experiment, run_id, record)
            case "end":
                client.set_terminated(run_id, record["status"], record["time_ms"])
                state = {**state, "ended": True}
        return state

    def _create(self, run: Path, record: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
        """The run in MLflow; one that an interrupted sender has made already is found again by its key."""
        client, experiment = self.client(record["uri"])
        tags = {name: value for name, value in record["tags"].items() if value}
        if record["parent"]:
            parent = self._parent(record["parent"])
            if parent:
                tags["mlflow.parentRunId"] = parent
        run_id = state.get("run_id") or self._interrupted(client, experiment, run, state)
        if not run_id:
            write_json(run / SENT, {"creating": True, "offset": 0})
            run_id = client.create_run(experiment, record["time_ms"], tags, record["name"]).info.run_id
        params = [Param(_name(key)[:250], value[:6000]) for key, value in record["params"].items()]
        for start in range(0, len(params), 90):
            client.log_batch(run_id, params=params[start : start + 90])
        return {"run_id": run_id, "uri": record["uri"], "pid": record["pid"], "host": record["host"]}

    def _parent(self, key: str) -> str:
        """The MLflow id of the run with a key; a parent that was not sent yet is made first."""
        run = self.spool / key
        state = read_json(run / SENT) if (run / SENT).is_file() else {}
        if not state.get("run_id") and (run / RECORDS).is_file():
            first = (run / RECORDS).read_text(encoding="utf-8").splitlines()[0]
            state = {**self._create(run, json.loads(first), state), "offset": len(first.encode()) + 1}
            write_json(run / SENT, state)
        return state.get("run_id", "")

    @staticmethod
    def _interrupted(client: MlflowClient, experiment: str, run: Path, state: dict[str, Any]) -> str:
        if not state.get("creating"):
            return ""
        found = client.search_runs([experiment], filter_string=f"tags.run_key = '{run.name}'", max_results=1)
        return found[0].info.run_id if found else ""


def _may_pass(error: Exception) -> bool:
    """Whether the same call may well succeed in a moment, such as when another process has locked the database."""
    return isinstance(error, MlflowException) and error.error_code in TEMPORARY


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _batches(records: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Neighbouring metric records together, at most BATCH numbers; every other record alone."""
    group: list[dict[str, Any]] = []
    size = 0
    for record in records:
        count = len(record["values"]) if record["kind"] == "metrics" else BATCH
        if group and (size + count > BATCH):
            yield group
            group, size = [], 0
        group.append(record)
        size += count
    if group:
        yield group


def _metrics(group: list[dict[str, Any]]) -> list[Metric]:
    return [
        Metric(_name(name), value, record["time_ms"], record["step"])
        for record in group
        for name, value in record["values"].items()
    ]


def _name(name: str) -> str:
    """A name of letters that MLflow takes."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)


def _send_file(client: MlflowClient, run_id: str, path: Path, artifact: str) -> None:
    """Upload a queued file under its artifact path; it was queued under a name that no other file of the run has."""
    named = path.parent / f"{path.name}.d" / Path(artifact).name
    named.parent.mkdir(exist_ok=True)
    named.unlink(missing_ok=True)
    named.hardlink_to(path)
    folder = str(Path(artifact).parent)
    try:
        client.log_artifact(run_id, str(named), None if folder == "." else folder)
    finally:
        named.unlink()
        named.parent.rmdir()


def _dataset(record: dict[str, Any]) -> DatasetInput:
    dataset = Dataset(
        name=record["name"],
        digest=record["digest"][:36],
        source_type="local",
        source=json.dumps({"uri": record["folder"], "content_hash": record["digest"]}),
        schema=json.dumps({"contract": record["contract"]}),
        profile=json.dumps(record["profile"]),
    )
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", record["context"])])


def _send_model(client: MlflowClient, experiment: str, run_id: str, record: dict[str, Any]) -> None:
    """A logged model that points to its folder, as an output of the run and a version in the registry."""
    tags = {"folder": record["folder"], "content_hash": record["content_hash"]}
    model = client.create_logged_model(experiment, record["name"], run_id, tags, model_type="huggingface-folder")
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    try:
        client.create_registered_model(record["name"])
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    client.create_model_version(record["name"], model.artifact_location, run_id, tags, model_id=model.model_id)
