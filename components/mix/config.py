"""Settings of the mix stage."""

from __future__ import annotations

from dataclasses import dataclass, field

from components.shared.executor import ExecutorConfig
from components.shared.identity import FREE


@dataclass(kw_only=True)
class MaxEpochs:
    """How often a source may be seen; a plan that needs more is refused."""

    text: float
    """Epochs of the texts (paper scale: less than one)."""
    interleaved: float
    """Epochs of the interleaved documents (paper scale: one)."""


@dataclass(kw_only=True)
class Epochs:
    """How often a source is seen, whatever the total."""

    speech: float
    """Epochs of unsupervised speech: one (paper, section 2.4)."""
    asr: float
    """Epochs of the supervised pairs as speech -> text: one (paper, section 2.4)."""
    tts: float
    """Epochs of the supervised pairs as text -> speech: one (paper, section 2.4)."""


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
    """Repeats allowed for the sources that fill their budgets."""
    spoken_share: float
    """Share of the interleaved documents that keep their speech; the rest becomes the same documents in text, so that
    an ablation sees every fact equally often. 1 is the method."""
    held_out_share: float
    """Share of every source's training documents that only validation sees, beside the rows of split validation."""
    validation_tokens: int
    """Most tokens of a source in the validation sequences."""
    window_sequences: int
    """Sequences that are planned and packed together; every window holds the sources in their shares."""
    executor: ExecutorConfig = field(metadata=FREE)
    """How the token shards are spread over workers."""
