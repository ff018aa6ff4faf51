"""A small mixture of the tables of speech_rows, and what its schedule shows, for the tests of mix."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from components.mix.config import Epochs, MaxEpochs, MixConfig
from components.mix.order import Documents, SourceStream
from components.mix.stage import run
from components.shared.executor import ExecutorConfig, ExecutorKind
from components.shared.packed_data import PackedData
from components.shared.tracking import TerminalTracker
from tests.speech_rows import places

CONFIG = MixConfig(
    seed=17,
    base="",
    vocab_size=300,
    total_tokens=12_000,
    sequence_length=96,
    text_share=0.3,
    epochs=Epochs(speech=1, asr=1, tts=1, interleaved=None),
    max_epochs=MaxEpochs(text=10, speech=1, asr=1, tts=1, interleaved=20, filler=20),
    filler=[],
    spoken_share=1.0,
    held_out_share=0.0,
    validation_tokens=500,
    window_sequences=32,
    shuffle_shards=0,
    executor=ExecutorConfig(kind=ExecutorKind.local, num_workers=1),
)


def made(root: Path, config: MixConfig = CONFIG) -> tuple[PackedData, dict[str, float]]:
    """The training sequences that mix makes of root/data, and its metrics."""
    inputs, outputs = places(root, "mix")
    metrics = run(config, inputs, outputs, TerminalTracker())
    outputs.publish(metrics)
    return PackedData(root / "data" / "mix" / "shards", "train"), metrics


def shown(data: PackedData) -> dict[str, Counter[str]]:
    """Source -> how often the whole schedule shows each document, by id; every piece must be there as often."""
    tokens: dict[str, Counter[str]] = {source: Counter() for source in data.sources}
    times: dict[str, Counter[str]] = {source: Counter() for source in data.sources}
    length: dict[tuple[str, str], int] = {}
    names: dict[tuple[int, int, int], str] = {}
    for number in range(len(data)):
        for record in data.pieces(number):
            place = (int(record["source"]), int(record["shard"]), int(record["document"]))
            if place not in names:
                names[place] = data.document_id(record)
            source, name = data.sources[place[0]], names[place]
            tokens[source][name] += int(record["length"])
            times[source][name] += int(record["start"] == 0)
            end = int(record["start"]) + int(record["length"])
            length[source, name] = max(end, length.get((source, name), 0))
    for source, counts in times.items():
        for name, count in counts.items():
            assert tokens[source][name] == count * length[source, name], f"{source} {name}: pieces are missing"
    return times


def stream_of(
    folder: Path, shards: list[list[int]], budget: int, length: int, shuffle_shards: int = 0, source: int = 0
) -> SourceStream:
    """A source whose shards hold documents of these lengths, on disk as mix leaves them; length: of a sequence."""
    folders = []
    for number, lengths in enumerate(shards):
        folders.append(folder / f"{source}-{number}")
        folders[-1].mkdir(parents=True)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype("<u8")
        (folders[-1] / "tokens.offsets").write_bytes(offsets.tobytes())
    counts = np.array([len(lengths) for lengths in shards])
    documents = Documents(folders, np.zeros(len(shards), np.int64), counts, sum(map(sum, shards)))
    return SourceStream(source, documents, budget, 17, length, shuffle_shards)
