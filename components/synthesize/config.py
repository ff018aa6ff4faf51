"""Settings of the synthesize stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from components.shared.engine import EngineConfig
from components.shared.executor import ExecutorConfig
from components.shared.identity import FREE


class SpanUnit(Enum):
    """What a span is made of."""

    word = "word"
    """Words, segmented units in Mandarin: a span begins and ends anywhere."""
    sentence = "sentence"
    """Whole sentences: a span begins and ends where sentences do."""


@dataclass(kw_only=True)
class SynthesizeConfig:
    """Section synthesize of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness."""
    span_unit: SpanUnit
    """What spans are made of (paper: words)."""
    mean_span: float
    """Mean length of a span turned to speech, in its units, at least 1 (paper, section 2.3: 10 words)."""
    ratio: float
    """Share of a text's units that is turned to speech, 0..1 (paper, section 2.3: 0.3)."""
    cut_at_sentences: bool
    """Say the sentences of a span one by one: the model learnt sentences and phrases, not what crosses them."""
    name_speaker: bool
    """Ask for each language's main speaker; otherwise the model chooses a voice."""
    temperature: float
    """Sampling temperature of the first attempt; 0 is greedy."""
    retry_temperature: float
    """Of the second attempt, more than 0: greedy tokens would fail again."""
    top_p: float
    """Nucleus of both attempts."""
    language_shares: dict[str, float]
    """Shares of the tokens by language (paper: English 2, Chinese 1), over the languages that can be said."""
    keep_faulty: bool
    """Keep speech that cannot be right: only for a model too little trained to say anything (smoke)."""
    probe_documents: int
    """Documents of each language that are said first, to see whether the language can be said."""
    max_failed_share: float
    """A language of whose probed spans a larger share fails stays text, 0..1; its texts are counted as unsayable."""
    target_tokens: int
    """Tokens of the documents to make, speech and text together, as expected beforehand; texts beyond it are not used
    (paper: 6e11). Text is counted by the text-to-token tokenizer."""
    documents_per_shard: int
    """Documents of one keyed shard on average, the unit of work and of restarts."""
    heard_per_shard: int
    """Spans of each shard that are transcribed."""
    executor: ExecutorConfig = field(metadata=FREE)
    """Where shards are made."""
    engine: EngineConfig
    """What says the spans."""
