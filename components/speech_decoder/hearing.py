"""Validation speech is decoded and heard while the flow trains; a run that stays unintelligible ends with a hint.

Losses of a flow fall whatever it learns: "only noise" after days is the commonest report about training such decoders
from scratch. What falls only when tokens have become words is the word error rate of the decoded speech.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from components.shared.tracking import Tracker
from components.speech_decoder.config import HearingConfig


class Hearing(Callback):
    """Measures the word error rate every so many steps, keeps the curve and ends a run whose rate does not fall."""

    def __init__(
        self,
        config: HearingConfig,
        phase: str,
        listen: Callable[[int], float],
        explain: Callable[[], str],
        tracker: Tracker,
    ) -> None:
        """listen: step -> word error rate of speech decoded by the averaged weights; explain: why it may not fall.

        Raises ValueError for a patience or an interval below 1, a fall outside 0..1 or a rate below 0.
        """
        if config.patience < 1 or config.every_steps < 1 or not 0 <= config.least_fall < 1 or config.enough < 0:
            wanted = "every_steps and patience of 1 or more, least_fall of 0..1, enough of 0 or more"
            raise ValueError(f"speech_decoder.hearing: got {vars(config)}; wanted {wanted}")
        self.config, self.phase, self._listen, self._explain = config, phase, listen, explain
        self._tracker = tracker
        self.best, self.best_step = float("inf"), 0
        self.missed = 0
        self.heard_at = 0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Listen after every `every_steps` optimizer steps.

        Raises ValueError, with a hint, when the rate has not fallen for `patience` times.
        """
        step = trainer.global_step
        if step % self.config.every_steps or step == self.heard_at:
            return
        self.heard_at = step
        rate = self._listen(step)
        self._tracker.log_metrics({f"validation/{self.phase}/wer": rate}, step)
        self.look(rate, step)

    def look(self, rate: float, step: int) -> None:
        """Take a rate into account. Raises ValueError as on_train_batch_end does."""
        if rate <= self.best * (1 - self.config.least_fall):
            self.best, self.best_step, self.missed = rate, step, 0
            return
        self.missed += 1
        if self.missed >= self.config.patience and rate > self.config.enough:
            raise ValueError(
                f"speech_decoder, phase {self.phase}, step {step}: word error rate {rate:.2f} of decoded validation "
                f"speech, {self.best:.2f} at step {self.best_step} and no fall since; wanted {self.config.enough:.2f} "
                f"or a fall of {self.config.least_fall:.0%} in {self.config.patience} hearings; {self._explain()}"
            )

    def state_dict(self) -> dict[str, float]:
        """What has been heard so far: a part of the checkpoint."""
        return {"best": self.best, "best_step": self.best_step, "missed": self.missed, "heard_at": self.heard_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best, self.best_step = float(state_dict["best"]), int(state_dict["best_step"])
        self.missed, self.heard_at = int(state_dict["missed"]), int(state_dict["heard_at"])
