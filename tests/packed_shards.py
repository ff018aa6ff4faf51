"""A small folder of packed sequences as mix writes it, of any tokens: for the tests of what reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from components.shared.manifest import seal
from components.shared.packed_data import PIECE, write_ids
from components.shared.packing import best_fit

SOURCES = ["text", "speech", "asr"]
LENGTH, PAD, VOCABULARY = 64, 99, 100


def write_shards(
    folder: Path, documents: int = 60, shards: int = 2, longest: int = 40, length: int = LENGTH, bad: int | None = None
) -> Path:
    """documents: of each shard; bad: a token id put into the tenth document of speech-00001."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(documents)
    records = []
    for source, name in enumerate(SOURCES):
        for shard in range(shards):
            lengths = rng.integers(2, longest, documents)
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype("<u8")
            tokens = rng.integers(0, PAD, int(offsets[-1]), dtype=np.uint32)
            if bad is not None and (name, shard) == ("speech", 1):
                tokens[offsets[10] + 1] = bad
            tokens.tofile(folder / f"{name}-{shard:05d}.bin")
            offsets.tofile(folder / f"{name}-{shard:05d}.offsets")
            write_ids(folder / f"{name}-{shard:05d}.ids.parquet", [f"{name}{shard}/{i}" for i in range(documents)])
            found = np.zeros(documents, PIECE)
            found["source"], found["shard"], found["document"] = source, shard, np.arange(documents)
            found["length"] = lengths
            records.append(found)
    together = rng.permutation(np.concatenate(records))
    packed, ends = [], [0]
    for window in np.array_split(together, max(1, len(together) // 5000)):
        for one in best_fit(window["length"], length):
            packed.append(window[one])
            ends.append(ends[-1] + len(one))
    for split in ("train", "validation"):
        np.concatenate(packed).tofile(folder / f"{split}.pieces")
        np.array(ends, "<u8").tofile(folder / f"{split}.sequences")
    extra = {"sources": SOURCES, "sequence_length": length, "pad_id": PAD, "vocabulary_size": VOCABULARY}
    seal(folder, extra=extra)
    return folder


@contextmanager
def served(folder: Path, faults: list[str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """A folder over HTTP on 127.0.0.1: (URI, the paths that were asked for).

    faults: what happens to the first requests for files, one each: "503", "403", "cut" or "flip" (a wrong byte).
    """
    asked: list[str] = []
    left = list(faults or [])

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.path)
            fault = left.pop(0) if left else ""
            path = Path(self.translate_path(self.path))
            if not path.is_file() or fault.isdigit():
                self.send_error(int(fault or 404))
                return
            content = bytearray(path.read_bytes())
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if fault == "flip":
                content[-1] ^= 1
            if fault == "cut":
                content = content[: len(content) // 2]
                self.close_connection = True
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
