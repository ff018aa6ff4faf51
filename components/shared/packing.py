"""Packing of documents into sequences of one length, and what a model must know about the pieces inside.

Documents are kept whole: best-fit-decreasing packing wastes well under 1% of the tokens and cuts none (after Ding et
al. 2024, "Fewer truncations improve language modeling"). Shapes: B sequences, T tokens each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from components.shared.loader_config import LabelsConfig, Learnt

if TYPE_CHECKING:  # it brings transformers, which a worker that reads tokens does not need
    from components.shared.tokens import Vocabulary

IGNORED = -100
"""Label of a position that is not learnt."""
FIELDS = ("token_ids", "labels", "positions", "segments", "sources")
"""What a packed sequence has for every token (see pack)."""


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
    out = np.empty((len(FIELDS), num_tokens), np.int64)
    lengths = np.array([len(piece.token_ids) for piece in pieces], np.int64)
    used = int(lengths.sum())
    assert used <= num_tokens, f"pieces of more than {num_tokens} tokens"
    if pieces:
        np.concatenate([piece.token_ids for piece in pieces], out=out[0, :used], casting="unsafe")
    lay_out(out, lengths, np.array([piece.source for piece in pieces], np.int64), pad_id, attend_across)
    if any(piece.learn is not None for piece in pieces):
        learn = [np.ones(len(p.token_ids), bool) if p.learn is None else p.learn for p in pieces]
        out[1, : used - 1][~np.concatenate(learn)[1:]] = IGNORED
    return dict(zip(FIELDS, out, strict=True))


def lay_out(out: np.ndarray, lengths: np.ndarray, sources: np.ndarray, pad_id: int, attend_across: bool) -> None:
    """Fill the rest of a sequence, in place, whose first row begins with the tokens of its pieces (see pack).

    out: (FIELDS, T), int64; lengths: (pieces,), tokens of each piece, T at most together; sources: (pieces,).
    A dozen calls whatever the number of pieces: at 100 pieces of 80 tokens the calls for each were all the time.
    """
    token_ids, labels, positions, segments, numbers = out
    ends = np.cumsum(lengths)
    used = int(ends[-1]) if len(ends) else 0
    labels[: max(0, used - 1)] = token_ids[1:used]
    numbers[:used] = np.repeat(sources, lengths)
    if attend_across:
        positions[:used] = np.arange(used)
        segments[:used] = 1
        labels[max(0, used - 1) : used] = IGNORED
        numbers[ends[:-1] - 1] = sources[1:]  # with attention across, a document's first token has a past
    else:
        np.subtract(np.arange(used), np.repeat(ends - lengths, lengths), out=positions[:used])
        segments[:used] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
        labels[ends - 1] = IGNORED
    for row, padding in zip(out, (pad_id, IGNORED, 0, 0, -1), strict=True):
        row[used:] = padding


@dataclass(frozen=True)
class LabelRule:
    """Which tokens are learnt, by the source of their document. Arrays are (sources,), bool.

    Speech is a speech token or the end of audio, which says when speech ends; everything else is text.
    """

    text: np.ndarray
    speech: np.ndarray
    first_code: int
    """Id of the first speech token."""
    num_codes: int
    end_of_audio: int

    @classmethod
    def of(cls, config: LabelsConfig, sources: Sequence[str], vocabulary: Vocabulary) -> LabelRule | None:
        """The rule of a config for these sources; None when every token is learnt.

        Raises ValueError for a source that the config does not know, and when nothing at all would be learnt.
        """
        kinds = []
        for source in sources:
            if not hasattr(config, source):
                raise ValueError(f"pretrain.labels: no key for source {source!r}; wanted all, text, speech or none")
            kinds.append(getattr(config, source))
        if all(kind is Learnt.none for kind in kinds):
            raise ValueError(f"pretrain.labels: none for all of {', '.join(sources)}; wanted something to learn")
        if all(kind is Learnt.all for kind in kinds):
            return None
        text, speech = (np.array([kind in (Learnt.all, one) for kind in kinds]) for one in (Learnt.text, Learnt.speech))
        return cls(text, speech, vocabulary.first_audio_id, vocabulary.num_codes, vocabulary.end_of_audio)

    def apply(self, labels: np.ndarray, sources: np.ndarray) -> None:
        """Set labels that are not learnt to IGNORED, in place; both (T,), int64, sources -1 for padding."""
        speech = (labels >= self.first_code) & (labels < self.first_code + self.num_codes)
        speech |= labels == self.end_of_audio
        labels[~np.where(speech, self.speech[sources], self.text[sources])] = IGNORED


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
