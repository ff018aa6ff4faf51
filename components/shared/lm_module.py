"""The LightningModule of speech-text LMs: packed batches, losses by modality and by source, a watch on every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from components.shared.causal_lm_module import CausalLMModule
from components.shared.flops import TokenCost, peak_flops
from components.shared.lm_config import ComputeConfig, OptimizerConfig
from components.shared.loss_guard import LossGuard
from components.shared.loss_sums import LossSums
from components.shared.strategies import among_ranks
from components.shared.throughput import Throughput
from components.shared.tokens import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Spike:
    """A step that was not taken, because its loss or its gradient was not what a step's is."""

    batches: list[int]
    """Numbers of the step's batches in the schedule."""
    loss: float
    """Nats a token, over all ranks."""
    gradient_norm: float
    reason: str


class LanguageModelModule(CausalLMModule):
    """Trains a causal LM on packed batches; knows neither rooms nor trackers."""

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: Vocabulary,
        optimizer: OptimizerConfig,
        *,
        num_steps: int,
        sources: list[str],
        chunk: int,
        log_every_steps: int,
        compute: ComputeConfig | None = None,
        guard: LossGuard | None = None,
        on_spike: Callable[[Spike], None] | None = None,
    ) -> None:
        """sources: names of the numbers in batch["sources"]; for the rest see CausalLMModule.

        guard: judges every step before it is taken; on_spike: called on every rank with a step that it refuses, raises.
        """
        super().__init__(
            model,
            vocabulary,
            optimizer,
            num_steps=num_steps,
            chunk=chunk,
            log_every_steps=log_every_steps,
            compute=compute,
        )
        self.guard, self.on_spike = guard, on_spike
        self.last: dict[str, float] = {}
        """What was logged last: loss and its parts, tokens_per_s, mfu, learning_rate, sequences_read."""
        self._sums, self._held_out = LossSums(vocabulary, sources), LossSums(vocabulary, sources)
        self._step = LossSums(vocabulary, [])
        self._batches: list[int] = []
        self._throughput = Throughput(TokenCost.of(model))

    def on_train_start(self) -> None:
        """Start the clock of the throughput."""
        dtype = torch.bfloat16 if str(self.trainer.precision).startswith("bf16") else torch.float32
        self._throughput.peak_flops = peak_flops(self.device, dtype) * self.trainer.world_size
        self._throughput.restart()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        """Mean loss over the labels that all ranks have in this batch: the same on any number of ranks."""
        loss, nll, learnt = self.packed(batch)
        for sums in (self._sums, self._step):
            sums.add(batch, nll, learnt)
        self._throughput.add(batch)
        self._batches.append(int(batch["number"]))
        return among_ranks(loss, learnt.sum())

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip, judge the step that is about to be taken, and log: here alone its gradient is known and it can stop."""
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        batches, self._batches = self._batches, []
        if self.guard is not None:
            loss, norm = self._step.means(self._over_ranks).get("loss", 0.0), float(self.gradient_norm)
            if (reason := self.guard.look(loss, norm)) and self.on_spike is not None:
                self.on_spike(Spike(batches=batches, loss=loss, gradient_norm=norm, reason=reason))
        if (self.global_step + 1) % self.log_every_steps == 0:
            self.last = self._sums.means(self._over_ranks) | {"learning_rate": float(optimizer.param_groups[0]["lr"])}
            self.last |= self._throughput.take(self._over_ranks, self.trainer.world_size)
            self.log_dict(self.last, batch_size=1)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Losses of held-out sequences."""
        self._held_out.add(batch, *self.packed(batch)[1:])

    def on_validation_epoch_end(self) -> None:
        """Mean losses over all held-out labels, by modality and by source."""
        for name, value in self._held_out.means(self._over_ranks).items():
            self.log(f"validation_{name}", value, batch_size=1)

    def on_validation_end(self) -> None:
        """Leave the time of validation out of the throughput."""
        self._throughput.restart()

    def summary(self) -> dict[str, float]:
        """train_loss, tokens_per_s (without padding and validation) and mfu as they were logged last."""
        names = {"train_loss": "loss", "tokens_per_s": "tokens_per_s", "mfu": "mfu"}
        return {name: self.last[logged] for name, logged in names.items()} if self.last else {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What the curves and the guard remember, so that a run that goes on draws and judges the same."""
        first = self.trainer.global_rank == 0
        checkpoint["watch"] = {"sums": self._sums.gather(self._over_ranks, first), "last": self.last}
        if self.guard is not None:
            checkpoint["watch"]["guard"] = self.guard.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The counterpart; rank 0 alone takes over the sums."""
        state = checkpoint["watch"]
        self.last = state["last"]
        if self.trainer.global_rank == 0:
            self._sums.restore(state["sums"])
        if self.guard is not None and "guard" in state:
            self.guard.load_state_dict(state["guard"])

    def _over_ranks(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all ranks."""
        return self.trainer.strategy.reduce(value.clone(), reduce_op="sum")  # type: ignore[return-value]
