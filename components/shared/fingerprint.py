"""Fingerprint of a stage's code: a hash of syntax trees, so that a reworded comment never re-runs a stage.

    python -m components.shared.fingerprint [STAGE ...]      writes data/fingerprint/<stage>.txt

A stage's code is every file of its room and, transitively, every `components` module that those import, also inside
functions. Comments, docstrings and layout do not count. How a run is watched, started and resumed (tracking, gates,
entry, launcher, checkpoints, the schema of the whole configuration) does not count either, nor do plans of what a run
costs: they cannot change what a stage writes.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

CODE = Path(__file__).resolve().parents[1]
GATES = "checks"
"""Fingerprint of the data-quality gates, which all stages share: the module components.shared.checks."""
LEFT_OUT = {
    "components.config",
    "components.entry",
    "components.pretrain.footprint",
    "components.pretrain.plan",
    "components.shared.checkpoint_files",
    "components.shared.checkpoints",
    "components.shared.checks",
    "components.shared.curves",
    "components.shared.delivery",
    "components.shared.fingerprint",
    "components.shared.identity",
    "components.shared.launcher",
    "components.shared.launcher_config",
    "components.shared.mlflow_store",
    "components.shared.provenance",
    "components.shared.ranks",
    "components.shared.resume",
    "components.shared.slurm",
    "components.shared.spool",
    "components.shared.tracking",
    "components.synthesize.plan",
}


_WITHOUT_MEANING = (ast.Load, ast.Store, ast.Del)
"""Whether a name is read or written follows from where it stands."""


def rooms() -> list[str]:
    """Names of all stages: the folders of components/ that hold a stage.py or at least a config.py."""
    return sorted(path.parent.name for path in CODE.glob("*/config.py"))


def fingerprint(stage: str) -> str:
    """sha256 of the code that decides what a stage writes (`checks`: of the gates).

    Raises ValueError when there is no such stage, or when a file is not Python.
    """
    if stage == GATES:
        start = {"components.shared.checks": CODE / "shared" / "checks.py"}
    elif (CODE / stage / "config.py").is_file():
        files = {_name(path): path for path in sorted((CODE / stage).rglob("*.py")) if path.name != "__main__.py"}
        start = {name: path for name, path in files.items() if name not in LEFT_OUT}
    else:
        raise ValueError(f"fingerprint: got {stage!r}, wanted one of {', '.join([*rooms(), GATES])}")
    modules = _closure(start)
    lines = [f"{name} {_tree_hash(path)}" for name, path in sorted(modules.items())]
    if stage != GATES:
        lines += [f"{path.relative_to(CODE)} {_file_hash(path)}" for path in _other_files(CODE / stage)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def module_fingerprint(module: str) -> str:
    """sha256 of the code of one module and of all that it imports: part of the key of a shard that it makes.

    Raises ValueError when there is no such module below components.
    """
    path = _file(module)
    if path is None:
        raise ValueError(f"fingerprint: got {module!r}, wanted a module such as components.shared.audio")
    lines = [f"{name} {_tree_hash(source)}" for name, source in sorted(_closure({module: path}).items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _closure(start: dict[str, Path]) -> dict[str, Path]:
    """The modules themselves and all that they import from components: name -> file."""
    found: dict[str, Path] = {}
    waiting = dict(start)
    while waiting:
        name, path = waiting.popitem()
        found[name] = path
        for imported in _imports(path):
            source = _file(imported)
            if source is not None and imported not in found and imported not in LEFT_OUT:
                waiting[imported] = source
    return found


def _name(path: Path) -> str:
    parts = path.relative_to(CODE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _file(module: str) -> Path | None:
    """The source file of a components module, or None when the name is not a module."""
    path = CODE.parent.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def _imports(path: Path) -> frozenset[str]:
    """Every components module that a file may import, with the packages above it."""
    package = _name(path) if path.name == "__init__.py" else _name(path).rpartition(".")[0]
    found: set[str] = set()
    for node in _import_statements(_tree(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    inside = {name for name in found if name.split(".")[0] == "components"}
    for name in list(inside):
        parts = name.split(".")
        inside.update(".".join(parts[:length]) for length in range(2, len(parts)))
    return frozenset(inside)


def _import_statements(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All import statements except those under `if TYPE_CHECKING`, which never run."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, (ast.stmt, ast.mod, ast.excepthandler, ast.match_case)):
            waiting.extend(ast.iter_child_nodes(node))


@cache
def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), str(path))
    except SyntaxError as error:
        raise ValueError(f"{path}:{error.lineno}: not Python: {error.msg}") from error


@cache
def _tree_hash(path: Path) -> str:
    pieces: list[str] = []
    _spell(_tree(path), pieces)
    return hashlib.sha256(" ".join(pieces).encode()).hexdigest()


def _spell(value: object, pieces: list[str]) -> None:
    """Append a syntax tree as text, without positions, lone strings and empty fields: Python 3.11 and 3.12 agree."""
    if isinstance(value, ast.AST):
        pieces.append(f"({type(value).__name__}")
        for field in value._fields:
            inner = getattr(value, field, None)
            if inner is not None and inner != [] and type(inner) not in _WITHOUT_MEANING:
                pieces.append(field)
                _spell(inner, pieces)
        pieces.append(")")
    elif isinstance(value, list):
        pieces.append("[")
        for inner in value:
            if not _is_docstring(inner):
                _spell(inner, pieces)
        pieces.append("]")
    else:
        pieces.append(repr(value))


def _is_docstring(node: object) -> bool:
    """A string that stands alone: the docstring of a module, class or function, or the line under a field."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _other_files(room: Path) -> list[Path]:
    """Data that a room keeps beside its code, such as a page template."""
    files = (path for path in sorted(room.rglob("*")) if path.is_file())
    return [path for path in files if path.suffix not in (".py", ".pyc") and not path.name.startswith(".")]


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(stages: list[str]) -> None:
    """Write the fingerprints of the given stages, or of all and of the gates."""
    folder = Path("data") / "fingerprint"
    folder.mkdir(parents=True, exist_ok=True)
    for stage in stages or [*rooms(), GATES]:
        (folder / f"{stage}.txt").write_text(fingerprint(stage) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        print(f"fingerprint: {error}", file=sys.stderr)
        sys.exit(2)
