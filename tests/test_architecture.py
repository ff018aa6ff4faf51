"""The rules of the house, held against the tree itself: names, imports, graph, weight of a first look."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.config import SCALES, STAGES
from components.shared.fingerprint import GATES, rooms

ROOT = Path(__file__).resolve().parents[1]
COMPONENTS = ROOT / "components"
EVALUATED = ("speech_tokenizer", "text_to_token", "pretrain", "sft", "speech_decoder")
GATED = [stage for stage in STAGES if stage not in ("evaluate", "report")]
TRACKERS_AND_SCHEDULERS = ("mlflow", "great_expectations", "prefect", "dvc")
HEAVY = ("torch", "lightning", "transformers", "mlflow", "great_expectations", "ray", "pandas", "pyarrow", "lhotse")


def python_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """Full names of what a file imports, anywhere in it."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def graph() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


@cache
def params() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


# One word, six places


def test_a_stage_is_a_room_a_section_a_dvc_stage_and_a_test() -> None:
    assert sorted(STAGES) == rooms()
    assert [name for name in params() if name in STAGES] == list(STAGES)
    assert [name for name in graph() if name in STAGES] == list(STAGES)
    assert list(params()["checks"]) == GATED == graph()["check"]["matrix"]["stage"]
    for stage in STAGES:
        assert (ROOT / "tests" / f"test_{stage}.py").is_file()
        assert {"__init__.py", "__main__.py", "config.py", "stage.py"} <= {
            path.name for path in (COMPONENTS / stage).iterdir()
        }


@pytest.mark.parametrize("scale", SCALES)
def test_every_stage_has_a_section_in_every_scale(scale: str) -> None:
    sections = yaml.safe_load((ROOT / "conf" / "scale" / f"{scale}.yaml").read_text(encoding="utf-8"))
    assert list(sections) == list(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_room_opens_with_what_it_reads_writes_does_and_follows(stage: str) -> None:
    docstring = ast.get_docstring(tree(COMPONENTS / stage / "__init__.py")) or ""
    for word in ("Reads", "Writes", "Method", "Source"):
        assert re.search(rf"^{word}\s", docstring, re.MULTILINE), f"{stage}: no {word} in the room's docstring"


# The graph


def dependencies(stage: str) -> set[str]:
    """Data folders that a stage of dvc.yaml depends on, as stage/name; for evaluate those of all its models."""
    entry = graph()[stage]
    found = set(entry.get("do", entry)["deps"])
    if "foreach" in entry:
        for model, others in entry["foreach"].items():
            found |= {f"data/{other}" for other in others} | {f"data/{model}/model"}
    kept = (path.removeprefix("data/") for path in found if "${" not in path)
    return {path for path in kept if path.split("/")[0] in STAGES and "." not in path}


def outputs(stage: str) -> set[str]:
    entry = graph()[stage]
    paths = [path for path in entry.get("do", entry)["outs"] if "." not in path]
    return {path.rsplit("/", 1)[1] for path in paths}


def pairs(path: Path) -> Iterator[tuple[str, ast.expr]]:
    """Neighbouring (stage, name) in calls and tuples, such as inputs.folder("mix", "shards")."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "folder":
            parts: list[ast.expr] = node.args
        elif isinstance(node, ast.Tuple):
            parts = node.elts
        else:
            continue
        if len(parts) == 2 and isinstance(parts[0], ast.Constant) and parts[0].value in STAGES:
            yield parts[0].value, parts[1]


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "report"])
def test_dvc_knows_exactly_what_a_stage_reads(stage: str) -> None:
    read: set[str] = set()
    for path in python_files(COMPONENTS / stage):
        for other, name in pairs(path):
            if isinstance(name, ast.Constant) and f"{other}/{name.value}" in known_tables():
                read.add(f"{other}/{name.value}")
            elif isinstance(name, ast.Name):  # a loop over tables of one stage, spelt out where the loop is called
                words = {node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant)}
                read |= {f"{other}/{table}" for table in outputs(other) if table in words}
    assert dependencies(stage) == read


def test_each_models_evaluation_depends_on_what_its_own_file_reads() -> None:
    (files,) = [
        ast.literal_eval(node.value)
        for node in tree(COMPONENTS / "evaluate" / "stage.py").body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FILES"
    ]
    entry = graph()["evaluate"]
    assert list(files) == list(entry["foreach"]) == list(EVALUATED)
    everyone = {path.removeprefix("data/") for path in entry["do"]["deps"] if "${" not in path}
    for model, file in files.items():
        known = {*everyone, *entry["foreach"][model], f"{model}/model"}
        path = COMPONENTS / "evaluate" / f"{file}.py"
        read = {f"{other}/{name.value}" for other, name in pairs(path) if isinstance(name, ast.Constant)}
        assert read <= known, model
        words = {node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant)}
        tables = {table for table in entry["foreach"][model] if table not in everyone}
        assert all(table.split("/")[1] in words for table in tables), model


@cache
def known_tables() -> set[str]:
    return {f"{stage}/{name}" for stage in STAGES for name in outputs(stage)}


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_knows_exactly_what_a_stage_writes(stage: str) -> None:
    written = {
        node.args[0].value
        for path in python_files(COMPONENTS / stage)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "outputs.folder"
        if isinstance(node.args[0], ast.Constant)
    }
    assert outputs(stage) == written


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_waits_for_the_gates_of_what_it_reads(stage: str) -> None:
    entry = graph()[stage]
    deps = set(entry.get("do", entry)["deps"])
    if stage == "report":
        return
    if stage == "evaluate":
        assert "data/check/${key}/verdict.json" in deps
        return
    gates = {path.split("/")[2] for path in deps if path.startswith("data/check/")}
    assert gates == {table.split("/")[0] for table in dependencies(stage)}


def test_every_stage_depends_on_its_code_its_sections_and_the_seed_alone() -> None:
    for stage in STAGES:
        entry = graph()[stage]
        entry = entry.get("do", entry)
        assert f"data/fingerprint/{stage}.txt" in entry["deps"]
        assert entry["params"] == ["seed", stage, {"conf/scale/${scale}.yaml": [stage]}]
        assert entry["cmd"].startswith(f"python -m components.{stage} --publish")
        assert not [path for path in entry["deps"] if path.startswith("components")]
    written = {Path(path).stem for path in graph()["fingerprint"]["outs"]}
    assert written == {*STAGES, GATES}


def test_outputs_lie_below_the_stages_folder_and_figures_beside_them() -> None:
    for stage in STAGES:
        entry = graph()[stage]
        entry = entry.get("do", entry)
        top = f"data/{stage}/${{key}}" if stage == "evaluate" else f"data/{stage}"
        assert all(path.startswith(f"{top}/") for path in entry["outs"])
        assert entry["metrics"] == [{f"{top}/metrics.json": {"cache": False}}]
        assert f"{top}/curves.json" in entry["outs"]
        assert (f"{top}/stats.parquet" in entry["outs"]) == (stage in GATED)


def test_git_ignores_bulk_and_keeps_figures() -> None:
    def ignored(path: str) -> bool:
        return subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False).returncode == 0

    if not (ROOT / ".git").exists():
        return
    for stage in STAGES:
        folder = f"data/{stage}/sft" if stage == "evaluate" else f"data/{stage}"
        assert ignored(f"{folder}/model/weights") and ignored(f"{folder}/stats.parquet")
        assert not ignored(f"{folder}/metrics.json")


# Imports


@pytest.mark.parametrize("stage", STAGES)
def test_a_room_imports_shared_itself_and_earlier_models_only(stage: str) -> None:
    earlier = STAGES[: STAGES.index(stage)]
    allowed = ("components.shared", f"components.{stage}", *(f"components.{other}.model" for other in earlier))
    config = {"components.config", "components.config.as_dict", "components.config.load_config"}
    also = {"components.entry.main", "components.entry", *config}
    for path in python_files(COMPONENTS / stage):
        for name in imports(path):
            if not name.startswith("components.") or name in also:
                continue
            inside = any(name == door or name.startswith(f"{door}.") for door in allowed)
            packages = any(door.startswith(f"{name}.") for door in allowed)
            assert inside or packages, f"{place(path)} imports {name}"


def test_shared_imports_no_room() -> None:
    late = {"components.config", "components.entry"}
    for path in python_files(COMPONENTS / "shared"):
        for name in imports(path):
            room = name.split(".")[1] if name.startswith("components.") else ""
            assert room not in STAGES, f"{place(path)} imports {name}"
            assert room in ("", "shared") or ".".join(name.split(".")[:2]) in late


def test_trackers_stay_in_shared_and_schedulers_in_flows() -> None:
    for path in [*python_files(COMPONENTS), *python_files(ROOT / "flows"), *python_files(ROOT / "benchmarks")]:
        top = {name.split(".")[0] for name in imports(path)}
        parts = path.relative_to(ROOT).parts
        if parts[:2] != ("components", "shared"):
            assert not top & {"mlflow", "great_expectations"}, place(path)
        if parts[0] != "flows":
            assert not top & {"prefect", "dvc", "flows"}, place(path)


BLOCK = """
import importlib, sys

for name in {blocked!r}:
    sys.modules[name] = None  # as if it were not installed, also to those who only ask
{code}
"""


def run_without(blocked: tuple[str, ...], code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code that may not import some packages."""
    command = [sys.executable, "-c", BLOCK.format(blocked=blocked, code=code)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_models_and_modules_need_no_tracker_and_no_scheduler() -> None:
    files = [path for name in ("model.py", "module.py") for path in sorted(COMPONENTS.glob(f"*/{name}"))]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    code = f"for name in {names!r}:\n    importlib.import_module(name)"
    done = run_without(TRACKERS_AND_SCHEDULERS, code)
    assert done.returncode == 0, done.stderr


def test_stages_need_no_tracker_and_no_scheduler_either() -> None:
    code = f"for name in {STAGES!r}:\n    importlib.import_module(f'components.{{name}}.stage')"
    done = run_without(TRACKERS_AND_SCHEDULERS, code)
    assert done.returncode == 0, done.stderr


def test_help_loads_nothing_heavy_and_shows_every_key() -> None:
    code = f"""
import contextlib, io
from components.entry import main
for stage in {STAGES!r}:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main(stage, ["--help"])
    text = shown.getvalue()
    assert "Reads" in text and "Writes" in text and "Config.seed:" in text, stage
"""
    done = run_without((*HEAVY, *TRACKERS_AND_SCHEDULERS, "hydra", "omegaconf", "numpy"), code)
    assert done.returncode == 0, done.stderr


def test_settings_load_nothing_heavy() -> None:
    modules = ("components.config", "components.shared.checks", "components.shared.tracking", "components.shared.spool")
    heavy = tuple(name for name in HEAVY if name != "pyarrow")  # which manifests need
    done = run_without(heavy, f"import {', '.join(modules)}")
    assert done.returncode == 0, done.stderr


# Style that a reader relies on


def test_configs_say_what_every_field_means() -> None:
    explains_itself = re.compile(r"(Config|Rule)\]?$")
    for path in [*COMPONENTS.glob("*/config.py"), *(COMPONENTS / "shared").glob("*_config.py")]:
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Config"):
                for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                    if isinstance(field, ast.AnnAssign) and not explains_itself.search(ast.unparse(field.annotation)):
                        said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                        assert said, f"{place(path)}: {node.name}.{ast.unparse(field.target)} has no line under it"


def test_files_stay_short_enough_to_read() -> None:
    long = {
        place(path): lines
        for folder in ("components", "flows", "benchmarks")
        for path in python_files(ROOT / folder)
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert long == {}


def test_nothing_is_read_through_pickle() -> None:
    for path in python_files(COMPONENTS):
        assert not {"pickle", "joblib", "dill"} & {name.split(".")[0] for name in imports(path)}, place(path)


def test_no_helper_hides_in_a_drawer() -> None:
    names = {path.name for folder in ("components", "flows", "tests") for path in python_files(ROOT / folder)}
    assert not names & {"utils.py", "common.py", "helpers.py", "misc.py"}


# What the README says


@cache
def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def closure(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """All pairs (earlier, later) that the edges connect."""
    found = set(edges)
    while True:
        more = {(a, d) for a, b in found for c, d in found if b == c} - found
        if not more:
            return found
        found |= more


def test_the_picture_of_the_flow_is_the_graph() -> None:
    picture = readme().split("```mermaid")[1].split("```")[0]
    drawn = set(re.findall(r"^\s*(\w+)(?:\[[^\]]*\])? --> (\w+)", picture, re.MULTILINE))
    real = {(table.split("/")[0], stage) for stage in STAGES if stage != "report" for table in dependencies(stage)}
    assert drawn <= real | {("evaluate", "report")}
    assert closure(drawn) == closure(real | {("evaluate", "report")})


def test_every_command_of_the_readme_exists() -> None:
    text = readme()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)", text)) <= targets
    for module in set(re.findall(r"python -m ([\w.]+\w)(?![\w.<])", text)):
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_every_folder_and_document_that_the_readme_names_is_there() -> None:
    text = readme()
    tree_block = text.split("## The tree")[1].split("```")[1]
    for name in re.findall(r"(?:^|\s{2,}| )([a-z_]+(?:/[a-z_]*)+|[a-z]+\.yaml)(?=\s)", tree_block):
        assert (ROOT / name).exists() or (COMPONENTS / name).exists(), name
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / link).is_file(), link
