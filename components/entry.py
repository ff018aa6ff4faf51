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
import math
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

USER, QUALITY, TRANSIENT, BUG, DONE, RUNNING = "user", "quality", "transient", "bug", "done", "running"
EXIT_CODES = {DONE: 0, USER: 2, QUALITY: 2, TRANSIENT: 75, BUG: 1}
NETWORK_ERRNOS = (errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.ECONNREFUSED)
NO_ROOM_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
NETWORK_LIBRARIES = ("requests", "urllib", "urllib3", "http", "httpx", "httpcore", "aiohttp")


class QualityError(ValueError):
    """Data that breaks a contract or a rule of its gate."""


class StageError(Exception):
    """A failure whose kind is already known, such as one that another process of the stage reported."""

    def __init__(self, kind: str, line: str) -> None:
        super().__init__(line)
        self.kind = kind


def main(stage: str, arguments: Sequence[str] | None = None) -> None:
    """Parse the command line of a stage, run it and exit with its code."""
    options = _parser(stage).parse_args(arguments)
    root = Path.cwd()
    _quiet()
    with guarded(stage, options.item, root):
        run_stage(stage, options.overrides, root=root, item=options.item, publish=options.publish)


def _quiet() -> None:
    """Keep libraries from telling users of the pipeline what only their own developers can change."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for category in (DeprecationWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"lhotse|lightning|torch|transformers")


class guarded:
    """Runs a block that is a stage: leaves .work/<stage>[/<item>]/status.json and exits with the code of its kind."""

    def __init__(self, stage: str, item: str, root: Path) -> None:
        self.name = f"{stage}@{item}" if item else stage
        self.place = root / ".work" / stage / item

    def __enter__(self) -> None:
        """Note that the stage runs: a status that stays so tells of a kill."""
        signal.signal(signal.SIGTERM, _terminated)
        self._write(RUNNING, f"{self.name}: killed while it ran")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Print the failure in one line; a bug with its traceback, which is kept in any case."""
        if error is None:
            self._write(DONE, "")
            return
        what, line = classify(error)
        self._write(what, f"{self.name}: {line}")
        text = "".join(traceback.format_exception(error))
        try:
            (self.place / "traceback.txt").write_text(text, encoding="utf-8")
        except OSError:
            text += "(not kept on disk)\n"
        if what == BUG:
            print(text, file=sys.stderr, end="")
        print(f"{self.name}: {line}", file=sys.stderr, flush=True)
        sys.exit(EXIT_CODES[what])

    def _write(self, kind: str, line: str) -> None:
        from components.shared.manifest import write_json

        try:
            write_json(self.place / "status.json", {"kind": kind, "line": line, "time_s": time.time()})
        except OSError as error:  # a full disk must not hide the line itself
            print(f"status.json not written: {error}", file=sys.stderr)


def _terminated(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def run_stage(
    stage: str, overrides: list[str], *, root: Path, item: str = "", publish: bool = False
) -> dict[str, float]:
    """Run one stage in this process and return its metrics. Raises what the stage raises."""
    from components.config import as_dict, load_config
    from components.shared.curves import OF_THE_MACHINE, Curves
    from components.shared.launcher import attached, launch
    from components.shared.places import Inputs, Outputs
    from components.shared.resume import Resume
    from components.shared.spool import open_run
    from components.shared.tracking import SpoolTracker

    config = load_config(overrides, root)
    section = getattr(config, stage)
    settings = as_dict(section)
    started = time.time()
    where = root / "data" / stage if publish else root / "runs" / stage / time.strftime("%Y%m%d-%H%M%S")
    work = root / ".work" / stage if publish else root / ".work" / "trial" / stage
    for path in (where / item, work / item):
        path.mkdir(parents=True, exist_ok=True)
    watches = attached(stage, section, work / item, item)
    resume = Resume.begin(work / item, root / "data", stage, section)
    outputs = Outputs(root=where / item, work=work / item, checkpoints=resume.folder, item=item)
    outputs.discard()
    inputs = Inputs(root / "data", remember=resume.remember)
    curves = Curves(resume.folder, resumed=watches or resume.goes_on)
    spool = open_run(stage, item, {"scale": config.scale, "seed": config.seed, stage: settings}, root)
    spool.watch_machine()
    tracker = SpoolTracker(spool, curves)
    name = f"{stage}@{item}" if item else stage
    tracker.say(f"{name}: started at scale {config.scale}")
    if line := resume.left_behind():
        tracker.say(f"{name}: {line}")
    try:
        metrics = launch(stage, section, overrides, inputs, outputs, tracker)
        check_metrics(metrics)
        outputs.publish({name: value for name, value in metrics.items() if not OF_THE_MACHINE.search(name)})
        curves.write(outputs.root / "curves.json")
    except BaseException as error:
        outputs.discard()
        tracker.finish(*classify(error), inputs, outputs)
        raise
    resume.end()
    tracker.log_metrics(metrics)
    tracker.say(f"{name}: done in {time.time() - started:.0f} s, in {os.path.relpath(outputs.root, root)}")
    tracker.finish(DONE, "", inputs, outputs)
    return metrics


def check_metrics(metrics: dict[str, float]) -> None:
    """Raise QualityError for a metric that is not a finite number."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise QualityError(f"metric {name}: got {value}, wanted a finite number")


def classify(error: BaseException) -> tuple[str, str]:
    """(kind, one line) of a failure: who can do something about it."""
    line = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, StageError):
        return error.kind, line
    if isinstance(error, QualityError):
        return QUALITY, line
    if isinstance(error, OSError) and error.errno in NO_ROOM_ERRNOS:
        return USER, f"{error.strerror}: {error.filename or 'while writing'}; free some space or rights and run again"
    if os.strerror(errno.ENOSPC) in line:  # safetensors and torch raise errors of their own
        return USER, f"{line}; free some space and run again"
    if _is_transient(error):
        return TRANSIENT, line
    if isinstance(error, SystemExit):
        return (DONE, "") if error.code in (0, None) else (TRANSIENT, f"ended by signal or exit {error.code}")
    if isinstance(error, ValueError):
        return USER, line
    return BUG, f"{type(error).__name__}: {line}"


def _is_transient(error: BaseException) -> bool:
    """Whether the same run may well succeed when started again: connection, timeout, signal, a killed worker."""
    if isinstance(error, (KeyboardInterrupt, ConnectionError, TimeoutError)):
        return True
    if isinstance(error, OSError) and error.errno in NETWORK_ERRNOS:
        return True
    name, library = type(error).__name__, type(error).__module__.split(".")[0]
    return name == "BrokenProcessPool" or (
        library in NETWORK_LIBRARIES and any(word in name for word in ("Connect", "Timeout", "URLError", "Protocol"))
    )


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
