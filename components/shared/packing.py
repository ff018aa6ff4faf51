"""Packing of documents into sequences of one length, and what a model must know about the pieces inside.

Documents are kept whole: best-fit-decreasing packing wastes well under 1% of the tokens and cuts none (after Ding et
al. 2024, "Fewer truncations improve language modeling"). Shapes: B sequences, T tokens each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

IGNORED = -100
"""Label of a position that is not learnt."""


@dataclass(frozen=True)
class Piece:
    """A stretch of one document inside a sequence."""

    token_ids: np.ndarray
    """(length,), any integer type."""
    source: int
    """Number of the source that the document comes from."""
    learn: np.ndarray | None = None
    """(length,), bool: which tokens are predicted; None: every one."""


def best_fit(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Bins of document numbers, each bin's lengths summing to at most capacity (best fit, longest first).

    lengths: (documents,), 1..capacity. Equal lengths keep their order, so the result depends on nothing else.
    Raises ValueError when a document is longer than the capacity.
    """
    order, ends = best_fit_bins(lengths, capacity)
    return [one.tolist() for one in np.split(order, ends[:-1])] if len(ends) else []


def best_fit_bins(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """The same bins in a row: (documents,), document numbers bin after bin, and (bins,), where each bin ends; int64.

    Documents of one length go into a bin until no more fit, and into all bins of one room at a time: the outcome is
    that of one document after the other, at a cost of pairs (length, room), not of documents.
    Raises ValueError when a document is longer than the capacity.
    """
    if len(lengths) and int(lengths.max()) > capacity:
        raise ValueError(f"packing: a document of {int(lengths.max())} tokens, wanted at most {capacity}")
    longest_first = np.argsort(-lengths.astype(np.int64), kind="stable")
    values, counts = np.unique(lengths, return_counts=True)
    bin_of: list[int] = []  # of the documents, longest first
    with_room: dict[int, list[int]] = {}
    occupied = 0  # bit r is set when some bin has r tokens left
    num_bins = 0
    for length, left in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while left:
            fitting = occupied >> length
            if fitting:
                room = length + (fitting & -fitting).bit_length() - 1
                bins = with_room[room]
                each = room // length  # of these documents fill one such bin
                used = min(len(bins), -(-left // each))
                chosen = bins[: -used - 1 : -1]
                del bins[-used:]
                if not bins:
                    occupied &= ~(1 << room)
            else:
                room, each = capacity, capacity // length
                used = -(-left // each)
                chosen = list(range(num_bins, num_bins + used))
                num_bins += used
            in_last = min(left - (used - 1) * each, each)
            bin_of += chosen if each == 1 else [place for place in chosen for _ in range(each)][:left]
            left -= (used - 1) * each + in_last
            last = room - in_last * length
            for rest, places in ((room - each * length, chosen[:-1]), (last, chosen[-1:])):
                if rest and places:
                    with_room.setdefault(rest, []).extend(places)
                    occupied |= 1 << rest
    bins_in_order = np.array(bin_of, np.int64)
    order = longest_first[np.argsort(bins_in_order, kind="stable")]
    return order, np.cumsum(np.bincount(bins_in_order, minlength=num_bins))


def pack(pieces: Sequence[Piece], num_tokens: int, pad_id: int, attend_across: bool) -> dict[str, np.ndarray]:
    """One sequence of num_tokens tokens from its pieces, padded at the end. All arrays are (T,), int64.

    token_ids; labels (the next token, IGNORED where there is none); positions (from 0 in every piece, or through the
    whole sequence with attend_across); segments (1, 2, ... for the pieces, 0 for padding; all 1 with attend_across);
    sources (of the label's document, -1 for padding).
    """
    out = {
        "token_ids": np.full(num_tokens, pad_id, dtype=np.int64),
        "labels": np.full(num_tokens, IGNORED, dtype=np.int64),
        "positions": np.zeros(num_tokens, dtype=np.int64),
        "segments": np.zeros(num_tokens, dtype=np.int64),
        "sources": np.full(num_tokens, -1, dtype=np.int64),
    }
    at = 0
    for number, piece in enumerate(pieces, start=1):
        stop = at + len(piece.token_ids)
        assert stop <= num_tokens, f"pieces of more than {num_tokens} tokens"
        out["token_ids"][at:stop] = piece.token_ids
        target = piece.token_ids if piece.learn is None else np.where(piece.learn, piece.token_ids, IGNORED)
        first = at - 1 if attend_across and at else at  # with attention across, a document's first token has a past
        out["labels"][first : stop - 1] = target[1 - (at - first) :]
        out["sources"][first:stop] = piece.source
        out["positions"][at:stop] = np.arange(at, stop) if attend_across else np.arange(stop - at)
        out["segments"][at:stop] = 1 if attend_across else number
        at = stop
    return out


def collate(sequences: Sequence[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Packed sequences as one batch of (B, T) tensors."""
    return {name: torch.from_numpy(np.stack([s[name] for s in sequences])) for name in sequences[0]}


def attention_mask(segments: torch.Tensor) -> torch.Tensor:
    """segments: (B, T), 0 for padding -> mask: (B, 1, T, T), bool, True where a query (third axis) sees a key.

    A token sees itself and what stands before it in its own piece. Padding sees padding, which keeps its rows finite.
    """
    same = segments[:, :, None] == segments[:, None, :]
    past = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool, device=segments.device).tril()
    return (same & past)[:, None]
