"""Checkpoints are whole or not there, kept by a policy, and refused in one line when they do not fit."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from components.shared.checkpoints import Checkpoints, Keeping, check, newest
from components.shared.manifest import write_json
from components.shared.resume import IDENTITY
from tests.training_runs import ROOT, curve, finished, train


def saved(folder: Path, steps: range, keeping: Keeping) -> list[str]:
    """Names of what is left of so many saves."""
    checkpoints = Checkpoints(folder, keeping)
    checkpoints.open()
    for step in steps:
        checkpoints.save(step, {"model/weight": torch.full((4, 3), float(step))}, {"step": step})
    checkpoints.close()
    return sorted(path.name for path in folder.iterdir())


def test_the_last_ones_stay_and_every_so_manieth(tmp_path: Path) -> None:
    left = saved(tmp_path, range(5, 65, 5), Keeping(last=2, every_steps=20))
    assert left == [f"step-{step:08d}" for step in (20, 40, 55, 60)]
    assert newest(tmp_path) == tmp_path / "step-00000060"


def test_what_was_saved_is_what_was_there_at_the_call(tmp_path: Path) -> None:
    """Training goes on in the same memory while the thread writes."""
    checkpoints = Checkpoints(tmp_path, Keeping(last=1, every_steps=0))
    checkpoints.open()
    weight = torch.arange(2_000_000, dtype=torch.float32)
    wanted = weight.clone()
    checkpoints.save(1, {"model/weight": weight}, {"seen": [torch.ones(2)]})
    weight.zero_()
    checkpoints.close()
    checkpoints.open()
    reading = checkpoints.read(tmp_path / "step-00000001")
    room = {"model/weight": torch.empty_like(weight)}
    reading.fill(room)
    assert torch.equal(room["model/weight"], wanted)
    assert torch.equal(reading.own["seen"][0], torch.ones(2))
    checkpoints.close()


def test_an_unfinished_folder_is_not_read_and_is_removed_at_the_next_start(tmp_path: Path) -> None:
    saved(tmp_path, range(1, 2), Keeping(last=1, every_steps=0))
    (tmp_path / ".step-00000002.unfinished").mkdir()
    (tmp_path / ".step-00000002.unfinished" / "__0_0.distcp").write_bytes(b"half")
    assert newest(tmp_path) == tmp_path / "step-00000001"
    Checkpoints(tmp_path, Keeping(last=1, every_steps=0)).open()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_cut_file_is_one_line_that_says_how_to_go_on(tmp_path: Path) -> None:
    train(tmp_path, num_steps=4)
    [name] = finished(tmp_path)
    file = tmp_path / "checkpoints" / name / "__0_0.distcp"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ValueError) as caught:
        train(tmp_path, num_steps=8)
    line = str(caught.value)
    assert "\n" not in line and f"{file}: got {size - 7} bytes, wanted {size}; delete {file.parent}" in line


def test_a_checkpoint_of_another_shape_is_refused_by_the_tensor(tmp_path: Path) -> None:
    train(tmp_path / "small", num_steps=4)
    named = str(tmp_path / "small" / "checkpoints" / "step-00000004")
    with pytest.raises(
        ValueError, match=r"step-00000004: a checkpoint of another config: .* in it and .* in the model"
    ):
        train(tmp_path / "large", num_steps=8, hidden_size=64, resume_from=named)


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    for name, content in (("before", "a" * 64), ("now", "b" * 64)):
        write_json(tmp_path / name / "checkpoints" / IDENTITY, {"inputs": {"mix/shards": content}})
    train(tmp_path / "before", num_steps=4)
    named = str(tmp_path / "before" / "checkpoints" / "step-00000004")
    with pytest.raises(ValueError, match="another config: it was trained on mix/shards aaaaaaaa, now it is bbbbbbbb"):
        train(tmp_path / "now", num_steps=8, resume_from=named)


def test_a_run_goes_on_from_a_checkpoint_that_is_named_until_it_has_its_own(tmp_path: Path) -> None:
    train(tmp_path / "before", num_steps=4)
    named = str(tmp_path / "before" / "checkpoints" / "step-00000004")
    train(tmp_path / "after", num_steps=8, resume_from=named)
    assert min(curve(tmp_path / "after")) == 5
    train(tmp_path / "after", num_steps=9, resume_from=named)
    assert [json.loads(line)[0] for line in (tmp_path / "after" / "curve-0.jsonl").read_text().splitlines()][-1] == 9
    with pytest.raises(
        ValueError, match=r"nowhere: no checkpoint.json in it; wanted the folder of a finished checkpoint"
    ):
        check(Path("nowhere"), {})


class Intruder:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def test_a_foreign_pickle_in_a_checkpoint_runs_nothing(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, Keeping(last=1, every_steps=0))
    checkpoints.open()
    checkpoints.save(1, {}, {"rest": Intruder(tmp_path / "trace")})
    checkpoints.wait()
    [path] = tmp_path.glob("step-*")
    assert sorted(file.name for file in path.iterdir()) == ["__0_0.distcp", "checkpoint.json", "parts.json"]
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        checkpoints.read(path)
    checkpoints.close()
    assert not (tmp_path / "trace").exists()


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_checkpoint_before_it_stays(tmp_path: Path) -> None:
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    disk = tmp_path / "checkpoints"
    disk.mkdir()
    code = (
        "import sys, traceback\nfrom pathlib import Path\nfrom components.entry import classify\n"
        "from tests.training_runs import train, finished\nplace = Path(sys.argv[1])\n"
        "try:\n    train(place, num_steps=400, checkpoint_every_steps=2, keep_last=100)\n"
        "except OSError as error:\n    print(*classify(error), finished(place), sep='|')\n"
    )
    run = 'mount -t tmpfs -o size=2m none "$1" && exec "$2" -c "$3" "$4"'
    given = [str(disk), sys.executable, code, str(tmp_path)]
    done = subprocess.run(
        [*namespace, "sh", "-c", run, "sh", *given],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    kind, line, left = done.stdout.strip().splitlines()[-1].split("|")
    assert kind == "user" and line.startswith("No space left on device: ") and "free some space" in line
    assert "step-00000002" in left, done.stderr
