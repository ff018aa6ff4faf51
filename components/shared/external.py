"""Publish a mix to an object store: shards go there, the schedule and a manifest that says where they are stay.

    python -m components.shared.external data/mix/shards --to s3://bucket/mix --manifest data/mix/external

The folder named by --manifest is read like the one it was made of, through a cache (pretrain.loader.cache). Names in
the store carry the hash of what they hold: publishing again sends only what is not there, and never changes what an
older manifest names.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from components.shared.manifest import EXTERNAL, atomic, inside, link, read_manifest, sha256_of, write_manifest
from components.shared.stores import store_file

ENDINGS = (".bin", ".offsets", ".ids.parquet")
"""Files of a mix that grow with the tokens; the rest is read in order and stays local."""
WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)


def publish(folder: Path, uri: str, out: Path, waits_s: Sequence[float] = WAITS_S) -> tuple[int, int]:
    """Send a mix's shards below a URI and write the folder that stands for it; (files sent, files that were there).

    folder: written by mix; out: must not exist. A broken connection is tried again after each of waits_s.
    Raises ValueError when a shard is not what the manifest says or the store refuses it, ConnectionError when the store
    cannot be reached.
    """
    if out.exists():
        raise ValueError(f"{out}: is there already; wanted a new folder for the schedule and the manifest")
    manifest = read_manifest(folder)
    sent, files = 0, []
    with atomic(out) as temporary:
        temporary.mkdir()
        for entry in manifest.files:
            path = inside(folder, entry.path)
            if not entry.path.endswith(ENDINGS):
                link(path, temporary / entry.path)
                files.append(entry)
                continue
            got = sha256_of(path) if path.is_file() else "no file"
            if got != entry.sha256:
                raise ValueError(f"{path}: got sha256 {got}, wanted {entry.sha256}; make it again with mix")
            name, ending = entry.path.split(".", 1)
            there = f"{uri.rstrip('/')}/{name}.{entry.sha256[:12]}.{ending}"
            sent += _store(path, there, waits_s)
            files.append(replace(entry, uri=there))
        write_manifest(temporary, replace(manifest, files=files, storage=EXTERNAL))
    return sent, sum(1 for entry in files if entry.uri) - sent


def _store(path: Path, uri: str, waits_s: Sequence[float]) -> bool:
    for wait_s in waits_s:
        try:
            return store_file(path, uri)
        except ConnectionError:
            time.sleep(wait_s)
    return store_file(path, uri)


def main() -> None:
    """Parse the command line, publish, and end with the exit codes of entry.py."""
    from components.entry import EXIT_CODES, classify

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="data/mix/shards")
    parser.add_argument("--to", required=True, help="URI in the store, such as s3://bucket/mix or file:///mnt/mix")
    parser.add_argument("--manifest", required=True, type=Path, help="new folder for schedule and manifest")
    options = parser.parse_args()
    try:
        sent, known = publish(options.folder, options.to, options.manifest)
    except Exception as error:
        kind, line = classify(error)
        print(f"external: {line}", file=sys.stderr)
        sys.exit(EXIT_CODES[kind])
    print(f"external: {sent} files sent to {options.to}, {known} were there; manifest in {options.manifest}")


if __name__ == "__main__":
    main()
