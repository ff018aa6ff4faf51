"""A fingerprint changes with the code that decides what a stage writes, and with nothing else."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.shared import fingerprint as module
from components.shared.fingerprint import fingerprint, rooms


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the code that may be edited; the functions under test look at it."""
    code = tmp_path / "components"
    shutil.copytree(module.CODE, code, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "CODE", code)
    return code


def edit(path: Path, old: str, new: str) -> None:
    """Change a file, which the functions under test read once a process."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    for cached in (module._imports, module._tree, module._tree_hash):
        cached.cache_clear()


def changed(before: dict[str, str]) -> set[str]:
    return {stage for stage, value in before.items() if fingerprint(stage) != value}


def everything() -> dict[str, str]:
    return {stage: fingerprint(stage) for stage in [*rooms(), module.GATES]}


def test_comments_docstrings_and_layout_do_not_count(copy: Path) -> None:
    before = everything()
    path = copy / "shared" / "manifest.py"
    edit(path, '"""Tables and folders', '"""Reworded: tables and folders')
    edit(path, "NAME = ", "# a new comment\n\n\nNAME  =  ")
    edit(copy / "shared" / "contracts.py", '"""ISO 639-1: en, zh."""', '"""Language."""')
    assert changed(before) == set()


def test_a_changed_line_of_a_shared_module_changes_all_that_import_it(copy: Path) -> None:
    before = everything()
    edit(copy / "shared" / "manifest.py", 'NAME = "manifest.json"', 'NAME = "Manifest.json"')
    assert changed(before) == set(before)


def test_a_changed_line_of_a_room_changes_that_room(copy: Path) -> None:
    before = everything()
    edit(copy / "report" / "stage.py", "def run(", "SPARE = 1\n\n\ndef run(")
    assert changed(before) == {"report"}


def test_an_import_inside_a_function_counts(copy: Path) -> None:
    (copy / "shared" / "extra.py").write_text("VALUE = 1\n")
    edit(copy / "report" / "stage.py", "def run(", "def late():\n    from components.shared import extra\n\n\ndef run(")
    before = everything()
    edit(copy / "shared" / "extra.py", "1", "2")
    assert changed(before) == {"report"}


def test_how_a_run_is_watched_and_started_does_not_count(copy: Path) -> None:
    before = everything()
    for name in ("shared/tracking.py", "shared/spool.py", "shared/launcher.py", "entry.py", "config.py"):
        edit(copy / name, "from __future__ import annotations", "from __future__ import annotations\n\nSPARE = 1")
    assert changed(before) == set()


def test_gates_have_a_fingerprint_of_their_own(copy: Path) -> None:
    before = everything()
    edit(copy / "shared" / "checks.py", 'CHECK = "check"', 'CHECK = "gate"')
    assert changed(before) == {module.GATES}


def test_data_beside_the_code_counts(copy: Path) -> None:
    before = everything()
    (copy / "mix" / "names.txt").write_text("new")
    assert changed(before) == {"mix"}


def test_an_unknown_stage_and_a_broken_file_are_one_line(copy: Path) -> None:
    with pytest.raises(ValueError, match="got 'pretrian', wanted one of"):
        fingerprint("pretrian")
    edit(copy / "mix" / "stage.py", "def run(", "def run((")
    with pytest.raises(ValueError, match=r"stage\.py:\d+: not Python"):
        fingerprint("mix")


def test_the_command_writes_one_file_a_stage_in_about_a_second(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    command = [sys.executable, "-m", "components.shared.fingerprint"]
    subprocess.run(command, cwd=tmp_path, check=True, env={"PYTHONPATH": str(module.CODE.parent)})
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1.5
    written = {path.stem: path.read_text().strip() for path in (tmp_path / "data" / "fingerprint").iterdir()}
    assert written == everything()
