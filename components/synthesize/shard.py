"""One shard: plan the spans of its documents, say them, say once more what failed, write the rows and the counts."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from components.shared.contracts import Interleaved, Text, to_table
from components.shared.engine import Engine, EngineConfig, Request, identity, make_engine
from components.shared.fingerprint import fingerprint
from components.shared.manifest import hash_of, read_manifest
from components.shared.speakable import speakable
from components.shared.words import ends_sentence, words
from components.synthesize.config import SynthesizeConfig
from components.synthesize.interleave import interleave, plan_spans
from components.text_to_token.model import FAULTS, TextToToken, count_words, load

RECORD = b"synthesize"
"""Key of the counts in a shard's Parquet metadata."""
DROPPED_SPANS = ("foreign", *FAULTS)
"""Why a span stays text."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a shard is made of; plain data, so that it travels to any worker."""

    documents: list[Text]
    model: str
    """Folder of the text-to-token model."""
    config: SynthesizeConfig


@dataclass
class Piece:
    """A part of a span that is said at once, and what came of it."""

    key: str
    text: str
    language: str
    codes: list[int] = field(default_factory=list)
    fault: str = ""


@dataclass
class Span:
    """Characters start..stop of a document, said in pieces."""

    start: int
    stop: int
    num_words: int
    pieces: list[Piece]

    @property
    def fault(self) -> str:
        """Why the span stays text, or an empty string."""
        return next((piece.fault for piece in self.pieces if piece.fault), "")

    @property
    def codes(self) -> list[int]:
        """Codes of all pieces, none when one of them failed."""
        return [] if self.fault else [code for piece in self.pieces for code in piece.codes]


@dataclass
class Plan:
    """A document and what of it is to be said."""

    document: Text
    num_words: int
    spans: list[Span]


def keyed(parts: list[list[Text]], folder: Path, config: SynthesizeConfig) -> dict[str, Job]:
    """A shard of each part by its key: a hash of the documents, the model, the code and the settings that matter."""
    config = replace(
        config, target_tokens=0, language_shares={}, heard_per_shard=0, probe_documents=0, max_failed_share=1.0
    )
    settings = {name: value for name, value in asdict(config).items() if name != "executor"}
    settings["engine"] = identity(config.engine)
    same_for_all = [settings, read_manifest(folder).content_hash, fingerprint("synthesize")]
    return {
        hash_of([same_for_all, [asdict(document) for document in part]]): Job(
            documents=part, model=str(folder), config=config
        )
        for part in parts
    }


def make(job: Job, path: Path) -> None:
    """Write the shard's Interleaved rows, with its counts in the Parquet metadata."""
    config, model = job.config, _model(job.model)
    engine = _engine(config.engine, job.model)
    plans = [plan(document, config, model) for document in job.documents]
    counts = say(plans, config, model, engine)
    rows = [row for row in (_row(plan, engine.name) for plan in plans) if row is not None]
    counts["dropped_no_speech"] = len(plans) - len(rows)
    record = json.dumps({"counts": counts, "exact": engine.exact}, sort_keys=True)
    pq.write_table(to_table(rows, Interleaved).replace_schema_metadata({RECORD: record}), path, compression="zstd")


def read_record(path: Path) -> tuple[Counter[str], bool]:
    """(counts, whether the tokens are exact) that `make` kept with a shard."""
    record = json.loads(pq.read_schema(path).metadata[RECORD])
    return Counter(record["counts"]), record["exact"]


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


def seed_of(*parts: object) -> int:
    """A seed from anything printable: the same on every machine and for any number of workers."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")


def plan(document: Text, config: SynthesizeConfig, model: TextToToken) -> Plan:
    """Draw the spans of a document and cut them into what is said at once."""
    places = words(document.text)
    rng = np.random.default_rng(seed_of(config.seed, document.id))
    spans = []
    for first, last in plan_spans(len(places), config.mean_span, config.ratio, rng):
        parts = [document.text[start:stop] for start, stop in places[first:last]]
        pieces: list[Piece] = []
        for text in _sentences(parts) if config.cut_at_sentences else ["".join(parts)]:
            if speakable(text, document.language):
                key = f"{document.id}:{places[first][0]}:{len(pieces)}"
                fault = "" if model.can_say(text, document.language) else "foreign"
                pieces.append(Piece(key, text, document.language, fault=fault))
        if pieces:
            spans.append(Span(places[first][0], places[last - 1][1], last - first, pieces))
    return Plan(document, len(places), spans)


def _sentences(parts: list[str]) -> list[str]:
    """Words put together up to every end of a sentence."""
    texts, current = [], ""
    for word in parts:
        current += word
        if ends_sentence(word):
            texts.append(current)
            current = ""
    return [*texts, current] if current else texts


def say(plans: list[Plan], config: SynthesizeConfig, model: TextToToken, engine: Engine) -> Counter[str]:
    """Fill in the codes of every piece. What fails is said once more with another seed, then its span stays text."""
    spans = [span for plan in plans for span in plan.spans]
    waiting = [piece for span in spans for piece in span.pieces if not span.fault]
    counts: Counter[str] = Counter(documents=len(plans), spans=len(spans), pieces=len(waiting))
    for attempt, temperature in enumerate((config.temperature, config.retry_temperature)):
        requests = [_request(piece, attempt, temperature, config, model) for piece in waiting]
        for piece, completion in zip(waiting, engine.generate_all(requests), strict=True):
            fault = model.fault(piece.text, piece.language, completion)
            piece.codes = model.codes(completion.token_ids)
            piece.fault = "" if config.keep_faulty and piece.codes else fault
            counts["generated_tokens"] += len(piece.codes)
        waiting = [piece for piece in waiting if piece.fault]
        counts["said_again"] += len(waiting) if attempt == 0 else 0
    counts["words"] = sum(plan.num_words for plan in plans)
    for span in spans:
        if span.fault:
            counts[f"dropped_{span.fault}"] += 1
            continue
        counts["speech_words"] += span.num_words
        counts["said_words"] += sum(count_words(speakable(piece.text, piece.language)) for piece in span.pieces)
        counts["speech_tokens"] += len(span.codes)
    return counts


def _request(piece: Piece, attempt: int, temperature: float, config: SynthesizeConfig, model: TextToToken) -> Request:
    speaker = model.main_speakers[piece.language] if config.name_speaker else None
    seed = seed_of(config.seed, piece.key, attempt)
    return model.request(piece.key, piece.text, piece.language, speaker, seed, temperature, config.top_p)


def _row(plan: Plan, engine: str) -> Interleaved | None:
    """The document with its speech, None when no span of it could be said."""
    document, spans = plan.document, plan.spans
    segments = interleave(document.text, [(span.start, span.stop) for span in spans], [span.codes for span in spans])
    num_tokens = sum(len(segment.tokens) for segment in segments)
    if not num_tokens:
        return None
    return Interleaved(
        id=document.id,
        language=document.language,
        corpus=document.corpus,
        segments=segments,
        num_text_chars=sum(len(segment.text) for segment in segments if segment.modality == "text"),
        num_speech_tokens=num_tokens,
        engine=engine,
        license=document.license,
        split=document.split,
    )
