"""The rows that pass between stages, one dataclass a table, checked on the way in and on the way out.

Tables hold text and code numbers, never LM token ids, so that another base LM re-runs `mix` and nothing before it.
"""

from __future__ import annotations

import math
import types
import typing
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Annotated, Any, ClassVar

import pyarrow as pa

Codes = Annotated[list[int], pa.list_(pa.uint16())]
SPLITS = ("train", "validation", "test")
TEXT_SOURCES = ("human", "pseudo", "none")
ORIGINS = ("recorded", "synthesized", "text_to_token", "written")


@dataclass(kw_only=True)
class Utterance:
    """One recording or synthesised sentence; audio keeps its source rate up to 24 kHz."""

    id: str
    audio: str
    """Path of a FLAC file, relative to the table's folder."""
    duration_s: float
    sample_rate_hz: int
    bandwidth_hz: float
    """Highest frequency that can carry energy, Hz: half of the source's rate or, if less, of the rate that was kept."""
    text: str | None
    text_source: str
    """human | pseudo | none"""
    language: str
    """ISO 639-1: en, zh."""
    speaker: str
    corpus: str
    license: str
    split: str
    """train | validation | test; test also for every utterance that only evaluation speaks."""
    origin: str
    """recorded | synthesized: results of the two are never mixed."""
    rms_dbfs: float
    """Loudness, decibels relative to full scale."""


@dataclass(kw_only=True)
class Text:
    """One document of a text corpus."""

    id: str
    text: str
    language: str
    corpus: str
    license: str
    split: str


@dataclass(kw_only=True)
class Story:
    """A story with a right and a wrong ending; the spoken forms are utterances named by id (split test)."""

    id: str
    language: str
    story: str
    right: str
    wrong: str
    fact: str
    """Id of the fact that makes the right ending right."""
    withheld: bool
    """The fact occurs in no utterance: only texts state it, and the spans that synthesize takes from them."""
    story_utterance: str
    right_utterance: str
    wrong_utterance: str
    split: str
    """validation | test"""


@dataclass(kw_only=True)
class Question:
    """A question with its answer among the objects of its relation."""

    id: str
    language: str
    question: str
    answer: str
    candidates: list[str]
    """Every possible answer of the relation in a fixed order, the right one included."""
    relation: str
    fact: str
    withheld: bool
    question_utterance: str
    candidate_utterances: list[str]
    """Utterance ids of the spoken candidates, in the order of candidates."""
    split: str
    """validation | test"""


@dataclass(kw_only=True)
class Fact:
    """One (subject, relation, object) triple of the closed world and where it may occur."""

    id: str
    language: str
    subject: str
    relation: str
    object: str
    withheld: bool


@dataclass(kw_only=True)
class SpeechTokens:
    """The speech tokens of one utterance and what later stages filter on."""

    id: str
    tokens: Codes
    duration_s: float
    text: str | None
    text_source: str
    language: str
    speaker: str
    corpus: str
    license: str
    split: str
    origin: str


@dataclass(kw_only=True)
class Quarantined:
    """One utterance that has no speech tokens."""

    id: str
    audio: str
    """Path of its recording, relative to the folder of the utterances table."""
    reason: str
    """unreadable_audio: missing, not a sound, empty, not finite, or outside the table's folder."""
    message: str
    """What the reader said."""


@dataclass(kw_only=True)
class Segment:
    """A piece of an interleaved document: text, or text that is said in speech tokens."""

    modality: str
    """text | speech"""
    text: str
    """The text of the span; for speech what the tokens say, as it stood in the document."""
    tokens: Codes
    """Code numbers; empty for text."""
    start: int
    """First character of the span in the document."""
    stop: int
    """One past its last character."""


@dataclass(kw_only=True)
class Interleaved:
    """One document with spans turned to speech tokens (paper section 2.3)."""

    id: str
    language: str
    corpus: str
    segments: list[Segment]
    num_text_chars: int
    num_speech_tokens: int
    engine: str
    """Name and version of what generated the tokens."""
    license: str
    split: str


@dataclass(kw_only=True)
class Turn:
    """One turn of a dialogue in text and in speech tokens."""

    role: str
    """system | user | assistant"""
    text: str
    tokens: Codes
    origin: str
    """recorded | synthesized | text_to_token | written: where the tokens come from; written: no tokens."""


@dataclass(kw_only=True)
class Dialogue:
    """One spoken dialogue."""

    id: str
    language: str
    turns: list[Turn]
    fact: str
    """Id of the fact that the dialogue is about, or an empty string."""
    split: str


@dataclass(kw_only=True)
class ItemScore:
    """How one model did at one item of one task, beside a baseline at the same item.

    A figure is sum(score) / sum(weight) over its items: an accuracy with weight 1, a word error rate with the number of
    reference words as weight.
    """

    id: str
    task: str
    """transcription | generation | story | question | reply | resynthesis | vocoder | original, or a finer name of the
    task's own."""
    mode: str
    """What goes in and what comes out: s_to_s, s_to_t, t_to_t, or what was measured of the sound."""
    groups: list[str]
    """What is reported apart, the main group first: withheld or spoken facts, recorded_seen, synthesized_unseen ..."""
    language: str
    cluster: str
    """Items of one cluster (the fact, else the utterance) are resampled together."""
    score: float
    """Correct (1 or 0), errors in words, tokens, or a judge's grade."""
    baseline: float | None
    """The same of the baseline: question-blind, un-quantised, original audio; None where there is none."""
    weight: float
    """What score is divided by: 1, or reference words or tokens."""
    reference: str
    """The right answer or what was said."""
    answer: str
    """What the model gave."""


@dataclass(kw_only=True)
class SampleText:
    """One text of a sample."""

    label: str
    text: str


@dataclass(kw_only=True)
class SampleSound:
    """One sound of a sample."""

    label: str
    audio: str
    """Path of a FLAC file, relative to the table's folder."""


@dataclass(kw_only=True)
class Sample:
    """Something to read and hear: one item with what went in and what came out."""

    id: str
    shelf: str
    """Which of its model's shelves in the report it stands on; empty for the first."""
    title: str
    language: str
    texts: list[SampleText]
    sounds: list[SampleSound]


Row = typing.TypeVar("Row")


class Schema:
    """Arrow schemas of the row dataclasses, made once each."""

    _made: ClassVar[dict[type, pa.Schema]] = {}

    @classmethod
    def of(cls, row_type: type) -> pa.Schema:
        """The Arrow schema of a row dataclass; only fields that may be None are nullable."""
        if row_type not in cls._made:
            struct = _arrow_struct(row_type)
            cls._made[row_type] = pa.schema(list(struct))
        return cls._made[row_type]


def _arrow_struct(row_type: type) -> pa.StructType:
    hints = typing.get_type_hints(row_type, include_extras=True)
    return pa.struct([_arrow_field(field.name, hints[field.name]) for field in fields(row_type)])


def _arrow_field(name: str, hint: Any) -> pa.Field:
    nullable = isinstance(hint, types.UnionType)
    if nullable:
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    return pa.field(name, _arrow_type(hint), nullable=nullable)


def _arrow_type(hint: Any) -> pa.DataType:
    simple = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    if hint in simple:
        return simple[hint]
    if typing.get_origin(hint) is Annotated:
        return typing.get_args(hint)[1]
    if typing.get_origin(hint) is list:
        return pa.list_(_arrow_type(typing.get_args(hint)[0]))
    return _arrow_struct(hint)


def to_table(rows: list[Any], row_type: type) -> pa.Table:
    """Rows as an Arrow table of the contract's schema.

    Raises ValueError, naming the row's id, when a value does not fit the schema or the contract.
    """
    for row in rows:
        check_row(row)
    schema = Schema.of(row_type)
    try:
        table = pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)
        empty = [field.name for field in schema if not field.nullable and table[field.name].null_count]
        if empty:
            raise TypeError(f"no value in {empty[0]}, which every row must have")
        return table
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise ValueError(f"{row_type.__name__}: {error}; wanted {Schema.of(row_type).names}") from error


def from_table(table: pa.Table, row_type: type[Row]) -> list[Row]:
    """The rows of an Arrow table whose schema must equal the contract's.

    Raises ValueError when a column is missing, foreign or of another type.
    """
    wanted = Schema.of(row_type)
    if not table.schema.equals(wanted, check_metadata=False):
        got = {field.name: str(field.type) for field in table.schema}
        differing = [f.name for f in wanted if got.get(f.name) != str(f.type)] or sorted(set(got) - set(wanted.names))
        raise ValueError(f"{row_type.__name__}: column {differing[:3]} does not fit the contract, got {got}")
    return [_from_dict(row, row_type) for row in table.to_pylist()]


_hints_of = cache(typing.get_type_hints)


def _from_dict(record: dict[str, Any], row_type: Any) -> Any:
    hints = _hints_of(row_type)
    values = {}
    for field in fields(row_type):
        value, hint = record[field.name], hints[field.name]
        args = typing.get_args(hint)
        if typing.get_origin(hint) is list and hasattr(args[0], "__dataclass_fields__"):
            value = [_from_dict(item, args[0]) for item in value]
        values[field.name] = value
    return row_type(**values)


def check_row(row: Any) -> None:
    """Hard rules that hold for every row whatever the data; distribution rules live in checks.py.

    Raises ValueError with table, row id, what was got and what was wanted.
    """
    name = f"{type(row).__name__} {getattr(row, 'id', '?')!r}"
    if not getattr(row, "id", "x"):
        raise ValueError(f"{name}: empty id")
    allowed = {"split": SPLITS, "text_source": TEXT_SOURCES, "origin": ORIGINS}
    for field, values in allowed.items():
        got = getattr(row, field, values[0])
        if got not in values:
            raise ValueError(f"{name}: {field}: got {got!r}, wanted one of {', '.join(values)}")
    duration_s = getattr(row, "duration_s", None)
    if duration_s is not None and not duration_s > 0:
        raise ValueError(f"{name}: duration_s: got {duration_s}, wanted more than 0")
    if isinstance(row, Question) and row.answer not in row.candidates:
        raise ValueError(f"{name}: answer {row.answer!r} is not among its candidates")
    if isinstance(row, Question) and len(row.candidates) != len(row.candidate_utterances):
        raise ValueError(f"{name}: {len(row.candidates)} candidates but {len(row.candidate_utterances)} utterances")
    if isinstance(row, ItemScore) and not (row.weight > 0 and math.isfinite(row.score + (row.baseline or 0.0))):
        raise ValueError(f"{name}: score {row.score}, baseline {row.baseline}, weight {row.weight}: not a finite share")
    if isinstance(row, Interleaved):
        for segment in row.segments:
            if segment.modality not in ("text", "speech"):
                raise ValueError(f"{name}: modality: got {segment.modality!r}, wanted text or speech")
            if (segment.modality == "text") == bool(segment.tokens):
                raise ValueError(f"{name}: a {segment.modality} segment has {len(segment.tokens)} tokens")
