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
            write_json(path, {"step": step, "sequences": self._sequences(spike.batches), **self._figures(spike)})
            self.tracker.log_file(path)
        raise ValueError(
            f"step {step} of the schedule: {spike.reason}; its samples are in {path}. The step was not taken: look at "
            f"them, then run again with pretrain.watch.skip_steps=[{step}] to go on without them"
        )

    def _figures(self, spike: Spike) -> dict[str, str]:
        """As text, since JSON knows neither NaN nor infinity."""
        return {"loss": repr(spike.loss), "gradient_norm": repr(spike.gradient_norm), "reason": spike.reason}

    def _sequences(self, batches: list[int]) -> list[dict[str, object]]:
        numbers = [n * self.batch_sequences + i for n in batches for i in range(self.batch_sequences)]
        return [
            {
                "sequence": number,
                "documents": [
                    {
                        "source": self.data.sources[int(record["source"])],
                        "id": self.data.document_id(record),
                        "start": int(record["start"]),
                        "length": int(record["length"]),
                    }
                    for record in self.data.pieces(number)
                ],
            }
            for number in numbers
            if number < len(self.data)
        ]
