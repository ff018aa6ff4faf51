"""Settings of the dialogues stage."""

from __future__ import annotations

from dataclasses import dataclass

from components.shared.engine import EngineConfig


@dataclass(kw_only=True)
class DialoguesConfig:
    """Section dialogues of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness."""
    closed_world: str
    """Name of the closed world's corpus in the texts."""
    open_domain: list[str]
    """Names of the corpora whose passages are conversations: a line and the reply to it."""
    files: list[str]
    """JSONL files of written dialogues: {"id", "language", "turns": [{"role", "text"}, ...]} in each line."""
    num_closed_world: int
    """Dialogues about spoken facts, every fact about equally often."""
    num_open_domain: int
    """Dialogues from the open-domain corpora."""
    second_exchange_share: float
    """Share of the closed-world dialogues with a second question about the same subject."""
    max_turn_chars: int
    """Dialogues with a longer turn are dropped; speech of it would not be an answer to listen to."""
    validation_share: float
    """Share of the dialogues, picked by id, for validation."""
    temperature: float
    """Sampling temperature of the text-to-token model."""
    keep_faulty: bool
    """Keep speech that cannot be right: only for a model too little trained to say anything (smoke)."""
    engine: EngineConfig
    """What says the turns that no utterance says."""
