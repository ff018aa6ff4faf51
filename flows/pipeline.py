"""The graph under Prefect: a task a stage, observed, retried and scheduled.

    python -m flows.pipeline [--scale NAME] [--schedule "0 3 * * *"] [STAGE ...]

Needs no server: Prefect starts one for the run. With PREFECT_API_URL set it reports to that one. The order of the tasks
is DVC's own graph and a task is `dvc repro --single-item <stage>`; only transient failures are retried.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
import time
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from components.entry import EXIT_CODES, TRANSIENT, USER
from components.shared.manifest import read_json
from flows import run as terminal
from flows.graph import Event, Outcome, PipelineFailure, repro, stages
from flows.scratch import checkout_for

RETRIES, RETRY_WAIT_S = 2, [5.0, 30.0]
EVENTS = "prefect.events.utilities"
"""Logger of what Prefect could not tell its server."""


class _OneLine(logging.Filter):
    """A stage that failed has said why in one line; a traceback through Prefect adds nothing.

    Nor does one of an event that was lost, such as a heartbeat while the server stops: its line says so.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and (isinstance(record.exc_info[1], PipelineFailure) or record.name == EVENTS):
            record.exc_info = record.exc_text = None
        return True


for _name in ("prefect.task_runs", "prefect.flow_runs", EVENTS):
    logging.getLogger(_name).addFilter(_OneLine())


def _may_retry(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Only a failure that may pass by itself is worth another try."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, PipelineFailure) and error.kind == TRANSIENT


@task(
    task_run_name="{stage}",
    retries=RETRIES,
    retry_delay_seconds=RETRY_WAIT_S,
    retry_condition_fn=_may_retry,
    persist_result=False,
)
def run_stage(stage: str, root: Path, names: list[str]) -> State[Any]:
    """Bring one stage up to date; its final state is Completed, or Cached when DVC had nothing to run.

    Raises PipelineFailure with the kind and line that the stage left.
    """
    outcomes: list[Outcome] = []
    console = terminal.Console(root, names)
    console.seen += names[: names.index(stage)]

    def show(event: Event) -> None:
        console(event)
        if event.outcome is not None:
            outcomes.append(event.outcome)

    repro(root, ["--single-item", stage], show)
    _publish_metrics(root, stage)
    outcome = outcomes[-1] if outcomes else Outcome.unchanged
    if outcome is Outcome.ran:
        return Completed(message=f"{stage}: done", data=outcome.value)
    return Completed(name="Cached", message=f"{stage}: {outcome.value}", data=outcome.value)


def _publish_metrics(root: Path, stage: str) -> None:
    """The stage's metrics as a Prefect table under the key <stage>-metrics."""
    path = root / "data" / Path(*stage.split("@")) / "metrics.json"
    if path.is_file():
        rows = [{"metric": metric, "value": value} for metric, value in read_json(path).items()]
        key = f"{re.sub('[^a-z0-9]+', '-', stage.lower())}-metrics"
        create_table_artifact(rows, key=key, description=f"Metrics of {stage}")


@flow(name="speechloom", log_prints=False)
def pipeline(scale: str = "", targets: list[str] | None = None, root: str = "") -> None:
    """Run the graph, stage after stage in DVC's order.

    scale: smoke, tiny, h100, h800; another than params.yaml's runs in a scratch checkout.
    targets: stages to run alone; default: all. root: the checkout; default: the current folder.
    Raises PipelineFailure for the first stage that fails for good.
    """
    started = time.time()
    try:
        place = checkout_for(scale, Path(root) if root else Path.cwd())
        names = stages(place)
    except ValueError as error:
        raise PipelineFailure("", USER, str(error)) from error
    unknown = sorted(set(targets or []) - set(names))
    if unknown:
        raise PipelineFailure("", USER, f"stage: got {unknown[0]!r}, wanted one of {', '.join(names)}")
    with terminal.tracked(place, targets or []):
        for stage in names:
            if not targets or stage in targets:
                run_stage(stage, place, names)
    text = terminal.summary(place, time.time() - started)
    create_markdown_artifact(text, key="main-figures", description="Main figures of the pipeline")
    print(text)


def main(arguments: list[str] | None = None) -> None:
    """The command line; exit code 2 with one line for a mistake of the user or in the data."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("targets", nargs="*", metavar="STAGE", help="stages to run alone; default: all, in order")
    parser.add_argument("--scale", default="", help="smoke, tiny, h100, h800; default: that of params.yaml")
    parser.add_argument("--schedule", default="", metavar="CRON", help="stay and run then, such as '0 3 * * *'")
    options = parser.parse_args(arguments)
    values = {"scale": options.scale, "targets": options.targets or None, "root": str(Path.cwd())}
    try:
        if options.schedule:
            pipeline.serve(name="scheduled", cron=options.schedule, parameters=values)
        else:
            pipeline(**values)
    except PipelineFailure as failure:
        print(failure.line, file=sys.stderr)
        sys.exit(EXIT_CODES[failure.kind])


if __name__ == "__main__":
    main()
