"""Settings of reading packed data; apart from what reads it, so that a room's config.py stays light."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Learnt(Enum):
    """Which tokens of a source's documents are labels."""

    all = "all"
    """Every token (paper)."""
    text = "text"
    """All but speech: also control tokens and the beginning of audio."""
    speech = "speech"
    """Speech tokens and the end of audio."""
    none = "none"
    """No token: the documents are context alone."""


@dataclass(kw_only=True)
class LabelsConfig:
    """What is learnt of each source in training; validation measures every token whatever stands here."""

    text: Learnt
    """Texts."""
    speech: Learnt
    """Unsupervised speech."""
    asr: Learnt
    """Supervised pairs as speech -> text."""
    tts: Learnt
    """Supervised pairs as text -> speech."""
    interleaved: Learnt
    """Interleaved documents."""
    filler: Learnt
    """Texts that fill the total where interleaved documents are fewer than it asks for."""


class Verify(Enum):
    """How the shards are held against their manifest before training."""

    hashes = "hashes"
    """Sizes and sha256, each file once for as long as it is not touched (shard_check.py says what it costs)."""
    sizes = "sizes"
    """Sizes alone."""


@dataclass(kw_only=True)
class LoaderConfig:
    """How packed sequences are read; changes neither what is read nor its order."""

    num_workers: int
    """Processes that make batches ahead, for each rank; 0: the training process itself."""
    verify: Verify
    """What is verified of local files at the start; a file from a store is always hashed when it comes."""
    cache: str
    """Folder on a local disk for shards that lie in a store; empty: in the stage's work folder."""
    cache_gb: float
    """Most that all processes of a machine keep there, in 10^9 bytes."""
    prefetch_sequences: int
    """Sequences of the schedule, over all ranks, whose shards are fetched from a store ahead of time."""
