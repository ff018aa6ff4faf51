"""A scratch checkout for another scale than params.yaml's, so that trying one leaves `git status` clean.

.work/scale/<scale>/ is a copy of the working tree with its own data folder; it shares the DVC cache and the MLflow
store of the checkout it lies in. Brought up to date at every run, so that a second one is as cheap as in place.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

SCALE_LINE = re.compile(r"^scale:[ \t]*(?P<scale>\S+).*$", re.MULTILINE)
CODE = ("components", "flows", "conf", "params.yaml", "dvc.yaml", ".dvcignore", "data/corpora")
CORPORA = ("data", "corpora")
SKIPPED = (".dvc", ".git", "dvc.lock")


def checkout_for(scale: str, root: Path) -> Path:
    """The folder to run a scale in: root itself for its own scale, a scratch checkout for another.

    Raises ValueError when the scale has no file in conf/scale or params.yaml names none.
    """
    params = (root / "params.yaml").read_text(encoding="utf-8") if (root / "params.yaml").is_file() else ""
    own = SCALE_LINE.search(params)
    if own is None:
        raise ValueError(f"params.yaml: no line `scale: ...` in {root}; run from the project's root")
    if scale in ("", own["scale"]):
        return root
    known = sorted(path.stem for path in (root / "conf" / "scale").glob("*.yaml"))
    if scale not in known:
        raise ValueError(f"scale: got {scale!r}, wanted one of {', '.join(known)}")
    scratch = root / ".work" / "scale" / scale
    wanted = _copy(root, scratch)
    _drop_others(scratch, wanted)
    _write(scratch / "params.yaml", SCALE_LINE.sub(f"scale: {scale}", params).encode())
    config = "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
    config += f'[cache]\n    dir = {root / ".dvc" / "cache"}\n    type = "reflink,hardlink,symlink"\n'
    _write(scratch / ".dvc" / "config", config.encode())
    return scratch


def _copy(root: Path, scratch: Path) -> set[Path]:
    """Copy the working tree; returns the relative paths of what was copied."""
    wanted = {path for path in working_tree(root) if path.parts[0] not in SKIPPED and path.name != "metrics.json"}
    for path in wanted:
        if path.parts[:2] == CORPORA:
            _link(root / path, scratch / path)
        else:
            _write(scratch / path, (root / path).read_bytes())
    return wanted


def working_tree(root: Path) -> list[Path]:
    """Every file that git tracks or would track, as it is now; without git, the code and the corpora."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, check=False)
    if listed.returncode == 0 and (root / ".git").exists():
        paths = [Path(name) for name in listed.stdout.decode().split("\0") if name]
    else:
        found = [root / name for name in CODE]
        paths = [path.relative_to(root) for top in found for path in ([top] if top.is_file() else top.rglob("*"))]
        paths = [path for path in paths if "__pycache__" not in path.parts]
    return [path for path in paths if (root / path).is_file()]


def _write(path: Path, content: bytes) -> None:
    """Write a file only when it differs, so that its time stays and DVC need not hash it again."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _link(source: Path, target: Path) -> None:
    """Another name for a recording, or a copy where the file system has no links; corpora may be large."""
    if target.is_file() and target.samefile(source):
        return
    target.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)  # of a symbolic link the recording it names
    except OSError:
        shutil.copyfile(source, target)


def _drop_others(scratch: Path, wanted: set[Path]) -> None:
    """Remove code that the checkout no longer has."""
    for name in ("components", "flows", "conf"):
        for path in (scratch / name).rglob("*"):
            if path.is_file() and path.relative_to(scratch) not in wanted and "__pycache__" not in path.parts:
                path.unlink()
    shutil.rmtree(scratch / "tests", ignore_errors=True)
