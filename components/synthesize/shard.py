"""One shard: plan the spans of its documents, say them, write the rows, and keep what is to be known of them.

Documents pass in windows of a bounded size, so that a shard takes no more memory for being larger.
"""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from components.shared.contracts import Interleaved, Schema, Text
from components.shared.engine import Engine, EngineConfig, EngineKind, identity, make_engine
from components.shared.executor import has_gpu
from components.shared.fingerprint import module_fingerprint
from components.shared.manifest import hash_of, read_manifest
from components.shared.recognizer import normalize_text
from components.synthesize.config import SynthesizeConfig
from components.synthesize.rows import to_rows
from components.synthesize.saying import DROPPED_SPANS, say
from components.synthesize.seeds import seed_of
from components.synthesize.spans import Plan, Span, plan
from components.synthesize.survey import Chunk, documents
from components.text_to_token.model import TextToToken, load

RECORD = b"synthesize"
"""Key of a shard's record in its Parquet metadata."""
WINDOW_CHARS = 2_000_000
"""Text whose spans are said together: enough that the engine seldom waits for the last of them, 50 MB at most."""
MAX_ROWS = 100
"""Documents of a shard that its statistics describe."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a shard is made of; plain data, so that it travels to any worker."""

    chunk: Chunk
    model: str
    """Folder of the text-to-token model."""
    config: SynthesizeConfig


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A span that was said."""

    language: str
    text: str
    tokens: list[int]


@dataclass(kw_only=True)
class Record:
    """What is known of a finished shard without reading its rows."""

    counts: Counter[str] = field(default_factory=Counter)
    exact: bool
    """Whether the tokens would be made again byte by byte."""
    samples: list[Sample] = field(default_factory=list)
    """Spans to be heard, config.heard_per_shard of them."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """Statistics of some documents."""


def keyed(chunks: Iterable[Chunk], folder: Path, config: SynthesizeConfig) -> dict[str, Job]:
    """A shard of each chunk by its key: a hash of the documents, the model, the code and the settings that matter."""
    config = replace(config, target_tokens=0, language_shares={}, probe_documents=0, max_failed_share=1.0)
    settings = {name: value for name, value in asdict(config).items() if name != "executor"}
    settings["engine"] = identity(config.engine)
    settings["span_unit"] = config.span_unit.value
    same_for_all = [settings, read_manifest(folder).content_hash, module_fingerprint(__name__)]
    return {
        hash_of([same_for_all, chunk.content, chunk.num_documents]): Job(chunk=chunk, model=str(folder), config=config)
        for chunk in chunks
    }


def make(job: Job, path: Path) -> None:
    """Write the shard's Interleaved rows, with its record in the Parquet metadata."""
    config, chunk, model = job.config, job.chunk, _model(job.model)
    engine = _engine(config.engine, job.model)
    troubles = Counter(engine.counts)
    record = Record(exact=engine.exact)
    _relax_collector()
    listener = Listener(config.heard_per_shard, seed_of(config.seed, "heard", chunk.content))
    own = islice(documents(chunk, config.documents_per_shard, config.seed), chunk.num_documents)
    with pq.ParquetWriter(path, Schema.of(Interleaved), compression="zstd") as writer:
        for window in _windows(own):
            plans = [plan(document, config) for document in window]
            counts = say(plans, chunk.language, config, model, engine)
            rows, kept = to_rows(plans, engine.name)
            counts["dropped_no_speech"] = len(plans) - len(kept)
            record.counts += counts
            record.rows += [_statistics(plan) for plan in kept[: MAX_ROWS - len(record.rows)]]
            listener.offer(kept)
            writer.write_table(rows)
        record.counts += Counter({f"engine_{name}": count for name, count in (engine.counts - troubles).items()})
        record.samples = listener.samples
        fields = {**vars(record), "samples": [asdict(sample) for sample in record.samples]}
        writer.add_key_value_metadata({RECORD: json.dumps(fields, sort_keys=True)})


@lru_cache(maxsize=1)
def _relax_collector() -> None:
    """Once a process, let the garbage collector look seldom, and not at all through what is there already.

    Lists without cycles pile up in a window; to look through them and all of torch again and again takes a third of the
    time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)


def placement(config: SynthesizeConfig) -> dict[str, Any]:
    """What map_shards must know of where `make` computes: on_gpu and num_threads. Servers do the work of a client."""
    if config.engine.kind is not EngineKind.transformers:
        return {"on_gpu": False, "num_threads": 1}
    return {"on_gpu": has_gpu(config.executor), "num_threads": config.engine.num_threads}


def read_record(path: Path) -> Record:
    """What `make` kept with a shard."""
    record: dict[str, Any] = json.loads(pq.read_metadata(path).metadata[RECORD])
    return Record(
        counts=Counter(record["counts"]),
        exact=record["exact"],
        samples=[Sample(**sample) for sample in record["samples"]],
        rows=record["rows"],
    )


def failed_share(counts: Counter[str]) -> float:
    """Share of the spans that stay text, 0..1."""
    return sum(counts[f"dropped_{reason}"] for reason in DROPPED_SPANS) / max(1, counts["spans"])


@lru_cache(maxsize=1)
def _model(folder: str) -> TextToToken:
    return load(folder)


_ENGINES: dict[str, Engine] = {}


def _engine(config: EngineConfig, folder: str) -> Engine:
    """The engine of this process, kept from shard to shard."""
    config = replace(config, model=folder)
    if repr(config) not in _ENGINES:
        _ENGINES.clear()
        _ENGINES[repr(config)] = make_engine(config)
    return _ENGINES[repr(config)]


def _windows(texts: Iterable[Text]) -> Iterator[list[Text]]:
    """Neighbouring documents, WINDOW_CHARS of text or one document together."""
    window: list[Text] = []
    chars = 0
    for text in texts:
        if window and chars + len(text.text) > WINDOW_CHARS:
            yield window
            window, chars = [], 0
        window.append(text)
        chars += len(text.text)
    if window:
        yield window


def _statistics(plan: Plan) -> dict[str, float]:
    """What the gate looks at in a document."""
    spans = [span for span in plan.spans if not span.fault]
    per_char = [sum(len(piece.codes) for piece in span.pieces) / (span.stop - span.start) for span in spans]
    return {
        "speech_share": sum(span.stop - span.start for span in spans) / len(plan.document.text),
        "num_speech_spans": float(len(spans)),
        "tokens_per_char": float(np.mean(per_char)),
    }


class Listener:
    """Keeps a few of the spans of which an ear would write something, every one as likely as any other."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.rng = count, np.random.default_rng(seed)
        self.kept: list[tuple[float, Sample]] = []

    @property
    def samples(self) -> list[Sample]:
        """What is kept of all that was offered."""
        return [sample for _, sample in self.kept]

    def offer(self, plans: list[Plan]) -> None:
        """Spans that were said, once each."""
        spans = [(plan.document, span) for plan in plans for span in plan.spans if not span.fault]
        draws = self.rng.random(len(spans))
        written = (place for place in np.argsort(draws).tolist() if _is_written(*spans[place]))
        for place in islice(written, self.count):
            document, span = spans[place]
            tokens = [code for piece in span.pieces for code in piece.codes.tolist()]
            sample = Sample(language=document.language, text=document.text[span.start : span.stop], tokens=tokens)
            self.kept.append((float(draws[place]), sample))
        self.kept = sorted(self.kept, key=lambda kept: kept[0])[: self.count]


def _is_written(document: Text, span: Span) -> bool:
    """Whether a normaliser leaves something of what is said; nothing of "hmm", which has no error rate then."""
    return bool(normalize_text(document.text[span.start : span.stop], document.language))
