"""Settings of the pretrain stage."""

from __future__ import annotations

from dataclasses import dataclass, field

from components.shared.identity import FREE
from components.shared.launcher import LauncherConfig
from components.shared.lm_config import ComputeConfig, LmShapeConfig, OptimizerConfig
from components.shared.loader_config import LabelsConfig, LoaderConfig
from components.shared.loss_guard import WatchConfig
from components.shared.training_config import TrainerConfig


@dataclass(kw_only=True)
class PretrainConfig:
    """Section pretrain of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness."""
    base: str
    """Hub id or folder of the text LM to start from, the one of mix.base; empty: a random start."""
    shape: LmShapeConfig
    """The model of a random start."""
    batch_sequences: int
    """Packed sequences of a batch, over all ranks; a step is accumulate_batches of these."""
    attend_across: bool
    """Let a token see the documents before its own in the sequence."""
    labels: LabelsConfig
    """Which tokens of each source are learnt (paper: every token)."""
    loader: LoaderConfig = field(metadata=FREE)
    """How the sequences are read."""
    loss_chunk: int = field(metadata=FREE)
    """Tokens whose logits are held at a time."""
    compute: ComputeConfig = field(metadata=FREE)
    """Compilation and what is computed again."""
    optimizer: OptimizerConfig
    """AdamW and its schedule."""
    trainer: TrainerConfig
    """Budget and machinery; num_steps 0 reads the whole schedule of mix once."""
    watch: WatchConfig = field(metadata=FREE)
    """When a run stops by itself, and what it leaves out when it goes on."""
    num_threads: int = field(metadata=FREE)
    """CPU threads; not used on a GPU."""
    launcher: LauncherConfig = field(metadata=FREE)
    """How the ranks are started."""
