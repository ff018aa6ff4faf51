"""A watch on the loss: a step that is not finite, or far above those before it, ends the run before it is taken.

What is found is said with the samples of the batch, so that somebody can look at them, and the same run can go on
without them. Nothing of the kind is published for the method's own run; OPT's and PaLM's logs (Zhang et al. 2022;
Chowdhery et al. 2022, section 5.1) did it by hand: go back to a checkpoint, skip the batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(kw_only=True)
class WatchConfig:
    """When a run stops by itself, and what it leaves out when it goes on."""

    spike_nats: float
    """A step's loss this far above the running mean is a spike, in nats a token; 0: only what is not finite stops."""
    memory_steps: int
    """Steps that the running mean remembers; as many pass before it is trusted."""
    skip_steps: list[int]
    """Steps of the schedule, from 0, whose batches are not read: what a spike's report names."""


class LossGuard:
    """The running mean of the loss and the verdict on each step; its state belongs to the checkpoint."""

    def __init__(self, config: WatchConfig) -> None:
        """Raises ValueError for a negative limit, memory or step."""
        if config.spike_nats < 0 or config.memory_steps < 1 or any(step < 0 for step in config.skip_steps):
            got = f"spike_nats {config.spike_nats}, memory_steps {config.memory_steps}, skip_steps {config.skip_steps}"
            raise ValueError(f"watch: got {got}; wanted numbers of 0 or more and a memory of at least 1")
        self.config = config
        self.mean = 0.0
        self.num_seen = 0

    def look(self, loss: float, gradient_norm: float) -> str:
        """What is wrong with a step that is about to be taken, or an empty string; a good one enters the mean.

        loss: nats a token over the step's whole batch, equal on all ranks; gradient_norm: before clipping.
        """
        if not math.isfinite(loss) or not math.isfinite(gradient_norm):
            return f"loss {loss:.4g} with gradient norm {gradient_norm:.4g} is not finite"
        limit, memory = self.config.spike_nats, self.config.memory_steps
        if limit and self.num_seen >= memory and loss > self.mean + limit:
            return f"loss {loss:.4g} stands {loss - self.mean:.4g} nats above the mean {self.mean:.4g} (limit {limit})"
        self.num_seen += 1
        self.mean += (loss - self.mean) / min(self.num_seen, memory)
        return ""

    def state_dict(self) -> dict[str, float]:
        """The mean and how many steps made it."""
        return {"mean": self.mean, "num_seen": self.num_seen}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a state."""
        self.mean, self.num_seen = float(state["mean"]), int(state["num_seen"])
