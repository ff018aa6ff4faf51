"""What is left behind when the loss of a step says that something is wrong: the samples of its batches, by name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from components.shared.lm_module import Spike
from components.shared.manifest import write_json
from components.shared.packed_data import PackedData
from components.shared.tracking import Tracker


@dataclass(frozen=True)
class SpikeReport:
    """Called with a spike: writes the step's documents to the work folder and ends the run in one line."""

    data: PackedData
    batch_sequences: int
    """Sequences of a batch, over all ranks."""
    accumulate_batches: int
    work: Path
    tracker: Tracker

    def __call__(self, spike: Spike) -> None:
        """Raises ValueError with what was seen, where the samples are written down and how to go on without them."""
        step = spike.batches[0] // self.accumulate_batches
        path = self.work / f"spike-of-step-{step}.json"
        if int(os.environ.get("RANK", "0")) == 0:
            size = self.batch_sequences
            numbers = [n for batch in spike.batches for n in range(batch * size, (batch + 1) * size)]
            write_json(path, {"step": step, **self._figures(spike), "sequences": self.data.describe(numbers)})
            self.tracker.log_file(path)
        raise ValueError(
            f"step {step} of the schedule: {spike.reason}; its samples are in {path}. The step was not taken: look at "
            f"them, then run again with pretrain.watch.skip_steps=[{step}] to go on without them"
        )

    def _figures(self, spike: Spike) -> dict[str, str]:
        """As text, since JSON knows neither NaN nor infinity."""
        return {"loss": repr(spike.loss), "gradient_norm": repr(spike.gradient_norm), "reason": spike.reason}
