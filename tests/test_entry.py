"""However a stage ends, it says so in one line, in an exit code and in status.json, and leaves nothing half written."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from components.entry import QualityError, StageError, classify, main, run_stage
from components.shared.manifest import read_json, seal

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("no_sender")


def published(checkout: Path) -> list[str]:
    return sorted(path.name for path in (checkout / "data" / "tokenize").glob("*"))


def write_tokens(config: Any, inputs: Any, outputs: Any, tracker: Any) -> dict[str, float]:
    """A stage in miniature: a folder, statistics, a curve."""
    (outputs.folder("tokens") / "a.txt").write_text("tokens")
    seal(outputs.partial / "tokens")
    outputs.write_stats(shards=[{"hours": 1.0}], rows=[])
    for step in range(3):
        tracker.log_metrics({"loss": 1.0 / (step + 1)}, step)
    return {"hours": 1.0}


def failing(error: BaseException) -> Callable[..., dict[str, float]]:
    def run(config: Any, inputs: Any, outputs: Any, tracker: Any) -> dict[str, float]:
        write_tokens(config, inputs, outputs, tracker)
        raise error

    return run


def test_a_published_run_writes_its_folder_figures_and_curves(checkout: Path, stage_that: Any) -> None:
    main(stage_that(write_tokens), ["--publish"])
    assert published(checkout) == ["curves.json", "metrics.json", "stats.parquet", "tokens"]
    assert read_json(checkout / "data" / "tokenize" / "curves.json") == {"loss": [[0, 1.0], [1, 0.5], [2, 1 / 3]]}
    assert read_json(checkout / "data" / "tokenize" / "metrics.json") == {"hours": 1.0}
    assert read_json(checkout / ".work" / "tokenize" / "status.json")["kind"] == "done"


def test_without_publish_nothing_is_written_to_data(checkout: Path, stage_that: Any) -> None:
    main(stage_that(write_tokens), [])
    assert not (checkout / "data" / "tokenize").exists()
    (run,) = (checkout / "runs" / "tokenize").iterdir()
    assert (run / "tokens" / "manifest.json").is_file()


def test_two_runs_of_the_same_input_leave_the_same_bytes(checkout: Path, stage_that: Any) -> None:
    contents = []
    for _ in range(2):
        main(stage_that(write_tokens), ["--publish"])
        files = sorted(path for path in (checkout / "data" / "tokenize").rglob("*") if path.is_file())
        contents.append([(path.name, path.read_bytes()) for path in files])
    assert contents[0] == contents[1]


def test_how_fast_a_run_was_is_tracked_and_not_published(checkout: Path, stage_that: Any) -> None:
    speed = {"seconds": 3.0, "tokens_per_s": 9.0, "real_time_factor": 2.0, "hours_of_this_run": 0.1}

    def run(*arguments: Any) -> dict[str, float]:
        return {**write_tokens(*arguments), **speed, "wer": 0.5}

    assert run_stage(stage_that(run), [], root=checkout, publish=True) == {"hours": 1.0, "wer": 0.5, **speed}
    assert read_json(checkout / "data" / "tokenize" / "metrics.json") == {"hours": 1.0, "wer": 0.5}
    (spool,) = (checkout / ".work" / "tracking").glob("*/")
    assert all(f'"{name}"' in (spool / "records.jsonl").read_text() for name in speed)


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ValueError("utterance u17: 41.2 s\nexceeds collect.max_duration_s=30"), "user", 2),
        (QualityError("rule row.tokens is broken by 3 of 10 records"), "quality", 2),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "data/x"), "user", 2),
        (ConnectionResetError("server went away"), "transient", 75),
        (TimeoutError("no answer in 5 s"), "transient", 75),
        (BrokenProcessPool("a worker was killed"), "transient", 75),
        (KeyboardInterrupt(), "transient", 75),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "transient", 75),
        (StageError("quality", "rank 1: broken"), "quality", 2),
        (KeyError("speaker"), "bug", 1),
    ],
)
def test_each_kind_of_failure_has_its_line_code_and_status(
    checkout: Path,
    stage_that: Any,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    kind: str,
    code: int,
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(stage_that(failing(error)), ["--publish"])
    assert ended.value.code == code
    status = read_json(checkout / ".work" / "tokenize" / "status.json")
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert (status["kind"], status["line"]) == (kind, last)
    assert last.startswith("tokenize: ") and "\n" not in last
    assert published(checkout) == []


def test_a_failure_keeps_what_was_published_before(checkout: Path, stage_that: Any) -> None:
    main(stage_that(write_tokens), ["--publish"])
    with pytest.raises(SystemExit):
        main(stage_that(failing(RuntimeError("bug"))), ["--publish"])
    assert (checkout / "data" / "tokenize" / "tokens" / "a.txt").read_text() == "tokens"


def test_a_metric_that_is_no_number_is_a_quality_failure(checkout: Path, stage_that: Any) -> None:
    def run(*arguments: Any) -> dict[str, float]:
        return {**write_tokens(*arguments), "loss": float("nan")}

    with pytest.raises(QualityError, match="metric loss: got nan, wanted a finite number"):
        run_stage(stage_that(run), [], root=checkout, publish=True)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tokenize.seeed=3", "seeed"),
        ("tokenize.seed=three", "tokenize.seed"),
        ("scale=huge", "scale: got 'huge', wanted one of h100, h800, smoke, tiny"),
    ],
)
def test_a_mistaken_setting_is_one_line_and_exit_code_2(
    checkout: Path, capsys: pytest.CaptureFixture[str], override: str, words: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main("tokenize", [override])
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip()
    assert words in error and len(error.splitlines()) == 1


def test_classify_names_file_and_remedy_when_the_disk_is_full() -> None:
    kind, line = classify(OSError(errno.ENOSPC, "No space left on device", "data/mix/shards"))
    assert (kind, line) == (
        "user",
        "No space left on device: data/mix/shards; free some space or rights and run again",
    )


def test_a_full_disk_is_the_users_to_mend_whichever_library_met_it() -> None:
    from safetensors import SafetensorError

    kind, line = classify(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert kind == "user" and line.endswith("free some space and run again")


def test_a_trial_leaves_the_unfinished_work_of_a_published_run_alone(checkout: Path, stage_that: Any) -> None:
    kept: list[Path] = []

    def save(config: Any, inputs: Any, outputs: Any, tracker: Any) -> dict[str, float]:
        kept.append(outputs.checkpoints / "step-00000100")
        kept[-1].mkdir(parents=True)
        raise ConnectionError("preempted")

    with pytest.raises(ConnectionError):
        run_stage(stage_that(save), [], root=checkout, publish=True)
    main(stage_that(write_tokens), [])
    assert kept[0].is_dir()
    main(stage_that(write_tokens), ["--publish"])
    assert not kept[0].exists()


RUN_FOR_EVER = """
import sys, time, types
import components.shared.delivery as delivery
delivery.ensure_sender = lambda spool: None
module = types.ModuleType("components.tokenize.stage")
def run(config, inputs, outputs, tracker):
    outputs.folder("tokens").joinpath("half").write_text("half")
    print("running", flush=True)
    time.sleep(60)
module.run = run
sys.modules["components.tokenize.stage"] = module
from components.entry import main
main("tokenize", ["--publish"])
"""


def start_endless(checkout: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", RUN_FOR_EVER]
    process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "running" not in process.stdout.readline():
        assert process.poll() is None
    return process


def test_a_terminated_stage_is_transient_and_leaves_no_half_folder(checkout: Path) -> None:
    process = start_endless(checkout)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75
    assert read_json(checkout / ".work" / "tokenize" / "status.json")["kind"] == "transient"
    assert published(checkout) == []


def test_kill_minus_nine_and_the_same_command_again(checkout: Path, stage_that: Any) -> None:
    process = start_endless(checkout)
    process.kill()
    process.wait()
    assert read_json(checkout / ".work" / "tokenize" / "status.json")["kind"] == "running"
    assert published(checkout) == [f".partial-{process.pid}"]
    main(stage_that(write_tokens), ["--publish"])
    assert published(checkout) == ["curves.json", "metrics.json", "stats.parquet", "tokens"]


def test_checkpoints_count_only_for_the_same_settings_and_inputs_and_wait_for_them_to_come_back(
    checkout: Path, stage_that: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    source = checkout / "data" / "collect" / "utterances"
    source.mkdir(parents=True)
    seal(source)
    resumed: list[int] = []

    def train(config: Any, inputs: Any, outputs: Any, tracker: Any) -> dict[str, float]:
        """Saves one more step than it finds."""
        inputs.folder("collect", "utterances")
        resumed.append(len(list(outputs.checkpoints.glob("step-*"))))
        (outputs.checkpoints / f"step-{resumed[-1]:08d}").mkdir()
        raise ConnectionError("preempted")

    def attempt(*overrides: str) -> str:
        capsys.readouterr()
        with pytest.raises(ConnectionError):
            run_stage(stage_that(train), list(overrides), root=checkout, publish=True)
        return capsys.readouterr().out

    attempt()
    assert "begins anew" not in attempt("tokenize.executor.num_workers=7", "tokenize.executor.kind=ray")
    before = (source / "manifest.json").read_bytes()
    (source / "more").write_text("x")
    seal(source)
    assert "since input collect/utterances was changed; set that back" in attempt()
    (source / "manifest.json").write_bytes(before)
    other = attempt("tokenize.seed=99")
    [line] = [line for line in other.splitlines() if "begins anew" in line]
    folders = sorted((checkout / ".work" / "tokenize" / "checkpoints").iterdir())
    assert "since seed was 17 and is 99; set that back, or name the checkpoint in trainer.resume_from" in line
    assert "0.00 GB are kept, to delete with rm -r " in line
    assert sum(str(folder) in line for folder in folders) == 2
    attempt("tokenize.seed=99")
    attempt()
    assert resumed == [0, 1, 0, 0, 1, 2]
    run_stage(stage_that(write_tokens), ["tokenize.seed=99"], root=checkout, publish=True)
    left = sorted((checkout / ".work" / "tokenize" / "checkpoints").iterdir())
    assert len(folders) == 3 and len(left) == 2 and set(left) < set(folders)


def test_a_resumed_run_has_the_whole_curve(checkout: Path, stage_that: Any) -> None:
    def first_half(config: Any, inputs: Any, outputs: Any, tracker: Any) -> dict[str, float]:
        (outputs.checkpoints / "step-00000002").mkdir()
        for step in (1, 2, 3):
            tracker.log_metrics({"loss": float(step)}, step)
        raise ConnectionError("preempted")

    def second_half(config: Any, inputs: Any, outputs: Any, tracker: Any) -> dict[str, float]:
        for step in (3, 4):
            tracker.log_metrics({"loss": 10.0 * step, "system/memory": time.time()}, step)
        return {}

    with pytest.raises(ConnectionError):
        run_stage(stage_that(first_half), [], root=checkout, publish=True)
    run_stage(stage_that(second_half), [], root=checkout, publish=True)
    curves = read_json(checkout / "data" / "tokenize" / "curves.json")
    assert curves == {"loss": [[1, 1.0], [2, 2.0], [3, 30.0], [4, 40.0]]}
