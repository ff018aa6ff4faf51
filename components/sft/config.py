"""Settings of the sft stage."""

from __future__ import annotations

from dataclasses import dataclass, field

from components.shared.identity import FREE
from components.shared.lm_config import ComputeConfig, OptimizerConfig
from components.shared.training_config import TrainerConfig


@dataclass(kw_only=True)
class SftConfig:
    """Section sft of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness."""
    system: str
    """What stands in <|system|> of every chat; the model hears it again when it answers."""
    written_share: float
    """Share of the dialogues whose user writes instead of speaking."""
    num_epochs: int
    """Passes over the dialogues, each packed in another order (paper: 10)."""
    sequence_length: int
    """Tokens of a packed sequence (paper: 4096); a longer dialogue is dropped and counted."""
    batch_sequences: int
    """Packed sequences of a batch; a step is accumulate_batches of these (paper: 64 a step)."""
    loss_chunk: int = field(metadata=FREE)
    """Tokens whose logits are held at a time."""
    compute: ComputeConfig = field(metadata=FREE)
    """Compilation and what is computed again."""
    optimizer: OptimizerConfig
    """AdamW and its schedule (paper: 5e-5 to 5e-6)."""
    trainer: TrainerConfig
    """Budget and machinery; num_steps 0 trains for num_epochs."""
    num_threads: int = field(metadata=FREE)
    """CPU threads; not used on a GPU."""
