"""Runs the whole graph in the terminal: one `dvc repro`, a line a stage, figures and report at the end.

    python -m flows.run [--scale NAME] [STAGE ...]

What `make run` starts. The same as flows/pipeline.py without Prefect: no server to start, nothing to import.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.entry import EXIT_CODES, TRANSIENT
from components.shared.spool import PARENT_VARIABLE, PIPELINE_VARIABLE, open_run, store_uri
from flows import lineage
from flows.graph import Event, Outcome, PipelineFailure, repro, stages
from flows.scratch import checkout_for

WAIT_S = (5.0, 30.0)


class Console:
    """One line when a stage starts, ends or comes from cache; its lineage after it."""

    def __init__(self, root: Path, names: list[str]) -> None:
        self.root, self.names = root, names
        self.began = 0.0
        self.seen: list[str] = []

    def __call__(self, event: Event) -> None:
        """Print the line of an event and record the lineage of a stage that ended."""
        if event.stage not in self.seen:
            self.seen.append(event.stage)
        label = f"[{self.seen.index(event.stage) + 1:2d}/{len(self.names)}] {event.stage}"
        if event.outcome is None:
            self.began = time.time()
            print(f"{label}: started", flush=True)
            return
        took = f" in {event.seconds:.0f} s" if event.outcome in (Outcome.ran, Outcome.failed) else ""
        print(f"{label}: {event.outcome.value}{took}", flush=True)
        lineage.record(self.root, event.stage, event.outcome, self.began - 1.0)


def run(root: Path, targets: list[str]) -> None:
    """Run the graph, or the targets with what they need; a transient failure is tried again.

    Raises PipelineFailure for the first stage that fails for good.
    """
    console = Console(root, stages(root))
    with tracked(root, targets):
        for wait_s in (*WAIT_S, None):
            try:
                return repro(root, targets, console)
            except PipelineFailure as failure:
                if failure.kind != TRANSIENT or wait_s is None:
                    raise
                print(f"{failure.line}; trying again in {wait_s:.0f} s", flush=True)
                time.sleep(wait_s)


@contextmanager
def tracked(root: Path, targets: list[str]) -> Iterator[None]:
    """The MLflow run that is the parent of all runs of the stages inside the block."""
    os.environ.pop(PARENT_VARIABLE, None)
    parent = open_run("pipeline", "", {"targets": " ".join(targets) or "all"}, root)
    os.environ[PARENT_VARIABLE] = os.environ[PIPELINE_VARIABLE] = parent.key
    try:
        yield
    except PipelineFailure as failure:
        parent.end(failure.kind, failure.line)
        raise
    except BaseException:
        parent.end(TRANSIENT, "interrupted")
        raise
    finally:
        os.environ.pop(PARENT_VARIABLE)
        os.environ.pop(PIPELINE_VARIABLE)
    parent.end("done")


def summary(root: Path, seconds: float) -> str:
    """The main figures, the path of the report and the command that opens the dashboard."""
    from components.report.table import read_figures, to_markdown

    report = root / "data" / "report" / "page" / "report.html"
    lines = [
        "",
        to_markdown(read_figures(root / "data")).rstrip(),
        "",
        f"Pipeline finished in {seconds / 60:.1f} minutes.",
    ]
    if report.is_file():
        lines.append(f"Report:    {report}")
    lines.append(f"Dashboard: make dashboard      (mlflow ui --backend-store-uri {store_uri(root)})")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line; exit code 2 with one line for a mistake of the user or in the data."""
    parser = argparse.ArgumentParser(prog="python -m flows.run", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("targets", nargs="*", metavar="STAGE", help="stages to run with what they need; default: all")
    parser.add_argument("--scale", default="", help="smoke, tiny, h100, h800; default: that of params.yaml")
    options = parser.parse_args(arguments)
    started = time.time()
    try:
        root = checkout_for(options.scale, Path.cwd())
        run(root, options.targets)
    except PipelineFailure as failure:
        print(failure.line, file=sys.stderr)
        sys.exit(EXIT_CODES[failure.kind])
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(summary(root, time.time() - started))


if __name__ == "__main__":
    main()
