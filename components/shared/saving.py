"""When a training saves: every so many steps, at its end, and when it is told to end (SIGTERM, as Slurm does)."""

from __future__ import annotations

import signal
import threading
from typing import Any

import lightning
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from components.shared.checkpoints import Checkpoints
from components.shared.strategies import WholeStrategy, set_random_state


class Saving(Checkpoint):
    """Saves behind optimizer steps, after everything that belongs to the step: its curves, its validation.

    Lightning calls callbacks of this kind last.
    """

    def __init__(self, checkpoints: Checkpoints, num_steps: int, every: int, validates_every: int | None) -> None:
        """every: steps between saves; validates_every: steps between validations, None: none."""
        self.checkpoints, self.num_steps, self.every = checkpoints, num_steps, every
        self.validates_every = validates_every
        self.seen = -1
        """The last step whose end was seen."""
        self.told_to_end = False
        self._before: Any = None
        self._ranks: dist.ProcessGroup | None = None

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Listen for SIGTERM, in the place of Lightning's handler, which would talk to the other ranks at once."""
        self.seen = trainer.global_step
        if dist.is_initialized() and self._ranks is None:
            self._ranks = dist.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: Any) -> None:
        """The first signal ends the run after the step; a second one does what it did before."""
        self.told_to_end = True
        signal.signal(signal.SIGTERM, self._before)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Random numbers of the checkpoint, set now, since setting up has used some that an undisturbed run did not."""
        strategy = trainer.strategy
        assert isinstance(strategy, WholeStrategy)
        if strategy.random_state is not None:
            set_random_state(strategy.random_state)
            strategy.random_state = None

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time, but not before the validation that follows this step."""
        self.checkpoints.check()
        if trainer.global_step == self.seen:
            return  # gradients are still being accumulated
        self.seen = trainer.global_step
        if self.validates_every is None or self.seen % self.validates_every:
            self._consider(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """The rest of the step."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._consider(trainer)

    def _consider(self, trainer: lightning.Trainer) -> None:
        step, ends = trainer.global_step, self._any_told_to_end()
        if ends or step % self.every == 0 or step == self.num_steps:
            trainer.save_checkpoint(self.checkpoints.path(step))
        if ends:
            self.checkpoints.wait()
            raise SystemExit(128 + signal.SIGTERM)

    def _any_told_to_end(self) -> bool:
        """Whether any rank was; the same answer on all."""
        if self._ranks is None:
            return self.told_to_end
        told = torch.tensor(int(self.told_to_end))
        dist.all_reduce(told, dist.ReduceOp.MAX, group=self._ranks)
        return bool(told)
