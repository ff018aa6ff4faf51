"""One way to train: Lightning with steps as the budget, checkpoints that resume, curves in the tracker."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from components.shared.checkpoints import Checkpoints, Keeping, newest
from components.shared.heap import keep_memory
from components.shared.saving import Saving
from components.shared.strategies import make_strategy, num_ranks, whole
from components.shared.tracking import Tracker
from components.shared.training_config import TrainerConfig

__all__ = ["ClippedModule", "TrainerConfig", "fit", "linear_schedule", "quiet", "seeded"]


def linear_schedule(peak_lr: float, final_lr: float, warmup_steps: int, num_steps: int) -> Callable[[int], float]:
    """Factor on peak_lr at a step: linear warm-up, then linear from peak_lr to final_lr (paper section 2.4)."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
        return 1.0 + (final_lr / peak_lr - 1.0) * done

    return factor


class ClippedModule(lightning.LightningModule):
    """Clips the norm of all gradients and logs it; Lightning's own way refuses fused optimizers in mixed precision."""

    gradient_norm: torch.Tensor
    """Of the step that is being taken, before clipping: scalar."""

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """gradient_clip_val: largest norm, None: only log."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val or float("inf"))
        self.gradient_norm = whole(norm)
        self.log("gradient_norm", self.gradient_norm, batch_size=1)


class _Curves(Callback):
    """Sends what the module logged to the tracker and shows the progress bar."""

    def __init__(self, tracker: Tracker, num_steps: int, every: int, what: str) -> None:
        self.tracker, self.num_steps, self.every, self.what = tracker, num_steps, every, what
        self.bar: Iterator[int] | None = None
        self.seen = -1
        self.validated_at = -1

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        left = range(trainer.global_step, self.num_steps)
        self.seen = trainer.global_step
        self.bar = iter(self.tracker.progress(left, len(left), self.what))
        next(self.bar, None)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self.seen:
            return
        self.seen = step
        if self.bar is not None:
            next(self.bar, None)
        if step % self.every == 0 or step == self.num_steps:
            self._send(trainer, step, validation=False)

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.validated_at = trainer.global_step
        self._send(trainer, trainer.global_step, validation=True)

    def _send(self, trainer: lightning.Trainer, step: int, validation: bool) -> None:
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("validation") == validation}
        self.tracker.log_metrics(values, step)


def fit(
    module: lightning.LightningModule,
    train: Any,
    validation: Any,
    config: TrainerConfig,
    *,
    tracker: Tracker,
    checkpoints: Path,
    what: str,
    callbacks: Sequence[Callback] = (),
) -> dict[str, float]:
    """Train a module for config.num_steps optimizer steps, from the last checkpoint of the folder when there is one.

    train, validation: loaders that know their rank (validation may be None); callbacks: more of Lightning's. What the
    module logs under names that begin with "validation" is a validation curve, everything else a training curve.
    Returns the validation metrics after the last step. All ranks call it.

    Raises ValueError when the checkpoint to go on from is damaged or of another config, OSError when a disk is full.
    """
    quiet()
    keep_memory()
    keeper = Checkpoints(checkpoints, Keeping(last=config.keep_last, every_steps=config.keep_every_steps))
    every = config.validate_every_steps if validation is not None else None
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        num_nodes=num_ranks() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        strategy=make_strategy(config.strategy, keeper),
        max_steps=config.num_steps,
        max_epochs=-1,
        precision=config.precision,  # type: ignore[arg-type]
        gradient_clip_val=config.gradient_clip or None,
        accumulate_grad_batches=config.accumulate_batches,
        val_check_interval=every and every * config.accumulate_batches,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=True,
        callbacks=[
            *callbacks,
            curves := _Curves(tracker, config.num_steps, config.log_every_steps, what),
            Saving(keeper, config.num_steps, config.checkpoint_every_steps, every),
        ],
    )
    start = newest(checkpoints) or (Path(config.resume_from) if config.resume_from else None)
    if start:
        tracker.say(f"{what}: resuming from {start}")
    try:
        trainer.fit(module, train, validation, ckpt_path=start)
    except BaseException:
        with contextlib.suppress(Exception):  # what ended the training says more
            keeper.close()
        raise
    keeper.close()
    if validation is None:
        return {}
    if curves.validated_at != trainer.global_step:
        trainer.validate(module, validation, verbose=False)
    return {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("validation")}


def quiet() -> None:
    """Silence Lightning's advice about workers and checkpoints; errors still show."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning").setLevel(logging.ERROR)
    alone = ".*assuming the intent is to (save|load) in a single process.*"
    ranks = ".*when logging on epoch level in distributed setting.*"  # modules sum over the ranks themselves
    for text in (".*does not have many workers.*", ".*val_dataloader.*", ".*litlogger.*", alone, ranks):
        warnings.filterwarnings("ignore", text)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global generator seeded inside the block and restored after it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
