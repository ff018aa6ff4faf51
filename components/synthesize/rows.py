"""Documents with their speech as an Arrow table, column by column: rows of Python objects would cost more than to make
the tokens on a GPU does."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa

from components.shared.contracts import Interleaved, Schema
from components.synthesize.spans import Plan, Span

TEXT, SPEECH = "text", "speech"


def to_rows(plans: list[Plan], engine: str) -> tuple[pa.Table, list[Plan]]:
    """(rows of contracts.Interleaved, the plans that they are of): documents in which something could be said.

    The text of every document reads as before: its segments joined are the document, each with where it stood.
    """
    kept = [plan for plan in plans if any(not span.fault for span in plan.spans)]
    cuts = [_segments(plan) for plan in kept]
    segments = [(plan.document.text, *cut) for plan, own in zip(kept, cuts, strict=True) for cut in own]
    codes = [
        np.concatenate([piece.codes for piece in span.pieces]) if span else np.empty(0, np.uint16)
        for *_, span in segments
    ]
    lengths = [len(own) for own in codes]
    schema = Schema.of(Interleaved)
    item = schema.field("segments").type.value_field
    tokens = pa.ListArray.from_arrays(
        _offsets(lengths),
        pa.array(np.concatenate([np.empty(0, np.uint16), *codes]), pa.uint16()),
        type=item.type.field("tokens").type,
    )
    columns = {
        "modality": [SPEECH if span else TEXT for *_, span in segments],
        "text": [text[start:stop] for text, start, stop, _ in segments],
        "tokens": tokens,
        "start": [start for _, start, _, _ in segments],
        "stop": [stop for _, _, stop, _ in segments],
    }
    struct = pa.StructArray.from_arrays(
        [_column(columns[field.name], field) for field in item.type], fields=list(item.type)
    )
    of_row = np.repeat(np.arange(len(cuts)), [len(own) for own in cuts])
    chars = np.array([0 if span else stop - start for _, start, stop, span in segments], np.int64)
    table = {
        "id": [plan.document.id for plan in kept],
        "language": [plan.document.language for plan in kept],
        "corpus": [plan.document.corpus for plan in kept],
        "segments": pa.ListArray.from_arrays(
            _offsets([len(own) for own in cuts]), struct, type=schema.field("segments").type
        ),
        "num_text_chars": _sum_by(of_row, chars, len(kept)),
        "num_speech_tokens": _sum_by(of_row, np.array(lengths, np.int64), len(kept)),
        "engine": [engine] * len(kept),
        "license": [plan.document.license for plan in kept],
        "split": [plan.document.split for plan in kept],
    }
    return pa.table([_column(table[field.name], field) for field in schema], schema=schema), kept


def _segments(plan: Plan) -> list[tuple[int, int, Span | None]]:
    """(start, stop, what is said there) of all characters of a document, in order; a span that failed is text."""
    found: list[tuple[int, int, Span | None]] = []
    end = 0
    for span in plan.spans:
        if span.fault:
            continue
        if span.start > end:
            found.append((end, span.start, None))
        found.append((span.start, span.stop, span))
        end = span.stop
    if end < len(plan.document.text):
        found.append((end, len(plan.document.text), None))
    return found


def _column(values: Any, field: pa.Field) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, field.type)


def _offsets(lengths: list[int]) -> pa.Array:
    return pa.array(list(accumulate(lengths, initial=0)), pa.int32())


def _sum_by(owner: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Sum of the values of each owner: (count,) int64; owner: (values,) int64."""
    return np.bincount(owner, values, count).astype(np.int64)
