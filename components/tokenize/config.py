"""Settings of the tokenize stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from components.shared.executor import ExecutorConfig
from components.shared.identity import FREE


class Dtype(Enum):
    """Number format of the encoder."""

    float32 = "float32"
    """Byte-identical on CPUs, for any number of workers."""
    bfloat16 = "bfloat16"
    """For GPUs; a few tokens differ from float32."""


@dataclass(kw_only=True)
class TokenizeConfig:
    """Section tokenize of params.yaml and conf/scale."""

    seed: int
    """Root of the stage's randomness; encoding draws nothing."""
    utterances_per_shard: int
    """Utterances of one shard, the unit of restart and of parallel work."""
    dtype: Dtype
    """Number format of the encoder."""
    threads_per_worker: int
    """CPU threads of each worker; part of the arithmetic, since sums are split over them."""
    readers_per_worker: int
    """Threads of each worker that read and resample the next recordings while it encodes; no part of the result."""
    executor: ExecutorConfig = field(metadata=FREE)
