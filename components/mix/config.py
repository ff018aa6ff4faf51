"""Settings of the mix stage."""

from __future__ import annotations

from dataclasses import dataclass, field

from components.shared.executor import ExecutorConfig
from components.shared.identity import FREE

FILLER = "filler"
"""The source that fills what is left when every other source has a fixed size."""
SOURCES = ("text", "speech", "asr", "tts", "interleaved")
"""The sources of the paper, in the order of their numbers; the filler follows when corpora are named for it."""


@dataclass(kw_only=True)
class Epochs:
    """How often the documents of a source are seen, whatever the total; 0 leaves the source out."""

    speech: float
    """Epochs of unsupervised speech: one (paper, section 2.4)."""
    asr: float
    """Epochs of the supervised pairs as speech -> text: one (paper, section 2.4)."""
    tts: float
    """Epochs of the supervised pairs as text -> speech: one (paper, section 2.4)."""
    interleaved: float | None
    """Epochs of the interleaved documents; null: they fill what is left of the total (paper, section 2.4). A number
    makes the filler fill it, so that every fact is seen equally often whatever share of the documents is spoken."""


@dataclass(kw_only=True)
class MaxEpochs:
    """How often the documents of each source may be seen; a plan that needs more is refused."""

    text: float
    """Of the texts (paper scale: less than one epoch)."""
    speech: float
    """Of unsupervised speech."""
    asr: float
    """Of the pairs as speech -> text."""
    tts: float
    """Of the pairs as text -> speech."""
    interleaved: float
    """Of the interleaved documents (paper scale: one)."""
    filler: float
    """Of the texts that fill the rest; not used without mix.filler."""


@dataclass(kw_only=True)
class MixConfig:
    """Section mix of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness."""
    base: str
    """Hub id or folder of the text LM whose tokenizer is used; empty: a byte-level BPE made of the collected texts."""
    vocab_size: int
    """Text tokens of that BPE, at least 256; not used with a base."""
    total_tokens: int
    """Tokens of pre-training, without padding (paper: 1e12)."""
    sequence_length: int
    """Tokens of a packed sequence (paper: 8192)."""
    text_share: float
    """Share of the tokens that are text documents, 0..1 (paper: 0.3)."""
    epochs: Epochs
    """Sources that are seen a fixed number of times."""
    max_epochs: MaxEpochs
    """Repeats that are allowed, by source."""
    filler: list[str]
    """Corpora of texts that fill what is left when epochs.interleaved is a number; none: the method of the paper."""
    spoken_share: float
    """Share of the interleaved training documents that keep their speech, 0..1, picked by id; the rest becomes the same
    documents in text, for an ablation. 1 is the method."""
    held_out_share: float
    """Share of every source's training documents that only validation sees, beside the rows of split validation."""
    validation_tokens: int
    """Most tokens of a source in the validation sequences."""
    window_sequences: int
    """Sequences that are planned and packed together; every window holds the sources in their shares."""
    shuffle_shards: int
    """Shards of a source whose documents are shuffled together, in an order of the shards that changes every epoch, so
    that a stretch of the run reads few of them; 0: all."""
    executor: ExecutorConfig = field(metadata=FREE)
    """How the token shards are spread over workers."""


def sources_of(config: MixConfig) -> tuple[str, ...]:
    """The sources of a run, in the order of their numbers."""
    return (*SOURCES, FILLER) if config.filler else SOURCES
