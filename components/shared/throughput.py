"""How fast training goes: tokens a second, and the share of the devices' arithmetic that the model uses (MFU)."""

from __future__ import annotations

import time
from typing import Any

import torch

from components.shared.flops import TokenCost, visible_pairs
from components.shared.loss_sums import Reduce


class Throughput:
    """Counts tokens and pairs of tokens since the last look; on the device, without waiting for it."""

    def __init__(self, cost: TokenCost) -> None:
        """cost: of the model whose batches are counted."""
        self.cost = cost
        self.peak_flops = float("inf")
        """FLOP/s of all devices together."""
        self.sequences_read = 0.0
        """Sequences of the schedule up to and with the last batch."""
        self.restart()

    def restart(self) -> None:
        """Begin to count anew."""
        self._since = time.perf_counter()
        self._counts: torch.Tensor | None = None

    def add(self, batch: dict[str, Any]) -> None:
        """Count a batch (see packing.pack; `number`: its place in the schedule)."""
        found = torch.stack([(batch["segments"] > 0).sum(), visible_pairs(batch)]).double()
        self._counts = found if self._counts is None else self._counts + found
        self._last = (int(batch["number"]), len(batch["segments"]))

    def take(self, reduce: Reduce, world_size: int = 1) -> dict[str, float]:
        """tokens_per_s without padding, mfu (0..1) and sequences_read, over all ranks; then begins anew."""
        assert self._counts is not None, "nothing was counted"
        tokens, pairs = reduce(self._counts).tolist()
        seconds = time.perf_counter() - self._since
        self.restart()
        number, sequences = self._last
        return {
            "tokens_per_s": tokens / seconds,
            "mfu": self.cost.train_flops(tokens, pairs) / seconds / self.peak_flops,
            "sequences_read": float((number + 1) * sequences * world_size),
        }
