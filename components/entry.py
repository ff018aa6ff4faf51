"""The one way a stage is run: config, inputs, outputs, tracking, gates and errors in one place.

    python -m components.<stage> [--publish] [--item NAME] [key=value ...]

Without --publish a run writes to runs/<stage>/<time>/ and never to data/. Exit code 0: done; 2: a mistake of the user
or in the data, said in one line; 75: transient (connection, timeout, signal), worth another try; 1: a bug.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import inspect
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

USER, QUALITY, TRANSIENT, BUG, DONE = "user", "quality", "transient", "bug", "done"
EXIT_CODES = {DONE: 0, USER: 2, QUALITY: 2, TRANSIENT: 75, BUG: 1}


class QualityError(ValueError):
    """Data that breaks a contract or a rule of its gate."""


def main(stage: str, arguments: Sequence[str] | None = None) -> None:
    """Parse the command line of a stage, run it and exit with its code."""
    parser = _parser(stage)
    options = parser.parse_args(arguments)
    root = Path.cwd()
    work = root / ".work" / stage / options.item
    try:
        run_stage(stage, options.overrides, root=root, item=options.item, publish=options.publish)
    except BaseException as error:  # every way to fail leaves a status behind
        kind, line = classify(error)
        name = f"{stage}@{options.item}" if options.item else stage
        _write_status(work, kind, f"{name}: {line}")
        if kind == BUG:
            traceback.print_exc()
        print(f"{name}: {line}", file=sys.stderr)
        sys.exit(EXIT_CODES[kind])
    _write_status(work, DONE, "")


def run_stage(
    stage: str, overrides: list[str], *, root: Path, item: str = "", publish: bool = False
) -> dict[str, float]:
    """Run one stage in this process and return its metrics. Raises what the stage raises."""
    from components.config import as_dict, load_config
    from components.shared.places import Inputs, Outputs
    from components.shared.tracking import make_tracker

    config = load_config(overrides, root)
    section = getattr(config, stage)
    started = time.time()
    where = root / "data" / stage if publish else root / "runs" / stage / time.strftime("%Y%m%d-%H%M%S")
    outputs = Outputs(root=where / item, work=root / ".work" / stage / item, item=item)
    inputs = Inputs(root / "data")
    for path in (outputs.root, outputs.work):
        path.mkdir(parents=True, exist_ok=True)
    name = f"{stage}@{item}" if item else stage
    tracker = make_tracker(stage, item, {"scale": config.scale, "seed": config.seed, stage: as_dict(section)}, root)
    tracker.say(f"{name}: started at scale {config.scale}")
    try:
        module = importlib.import_module(f"components.{stage}.stage")
        metrics = module.run(section, inputs, outputs, tracker)
        outputs.publish(metrics)
    except BaseException as error:
        _end(tracker, classify(error)[0], outputs, inputs)
        raise
    tracker.log_metrics(metrics)
    _end(tracker, DONE, outputs, inputs)
    tracker.say(f"{name}: done in {time.time() - started:.0f} s, in {os.path.relpath(outputs.root, root)}")
    return metrics


def _end(tracker: Any, kind: str, outputs: Any, inputs: Any) -> None:
    finish = getattr(tracker, "finish", None)
    if finish is not None:
        finish(kind, outputs, inputs)


def classify(error: BaseException) -> tuple[str, str]:
    """(kind, one line) of a failure: who can do something about it."""
    line = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, QualityError):
        return QUALITY, line
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return USER, f"{error.strerror}: {error.filename or 'while writing'}; free some space or rights and run again"
    if isinstance(error, (KeyboardInterrupt, ConnectionError, TimeoutError)):
        return TRANSIENT, line
    if isinstance(error, SystemExit):
        return (DONE, "") if error.code in (0, None) else (TRANSIENT, f"ended by signal or exit {error.code}")
    if isinstance(error, ValueError):
        return USER, line
    return BUG, f"{type(error).__name__}: {line}"


def _write_status(work: Path, kind: str, line: str) -> None:
    from components.shared.manifest import write_json

    try:
        write_json(work / "status.json", {"kind": kind, "line": line})
    except OSError as error:  # a full disk must not hide the line itself
        print(f"status.json not written: {error}", file=sys.stderr)


def _parser(stage: str) -> argparse.ArgumentParser:
    room = importlib.import_module(f"components.{stage}")
    parser = argparse.ArgumentParser(
        prog=f"python -m components.{stage}",
        description=inspect.getdoc(room),
        epilog=_keys(stage),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", help=f"Hydra overrides such as {stage}.seed=3 or scale=smoke")
    parser.add_argument("--publish", action="store_true", help="write to data/ (what dvc repro does), not to runs/")
    parser.add_argument("--item", default="", help="the matrix item, such as the model that evaluate looks at")
    return parser


def _keys(stage: str) -> str:
    """The section's keys with the line that stands under each of them."""
    import ast

    path = Path(__file__).parent / stage / "config.py"
    lines = ["keys:"]
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config"):
            for field, doc in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
                    text = " ".join(str(ast.literal_eval(doc.value)).split())
                    lines.append(f"  {node.name}.{ast.unparse(field.target)}: {text}")
    return "\n".join(lines)
