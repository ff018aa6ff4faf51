"""What a reader of the report should read and hear, written beside the scores and shown in the tracker as well."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from components.shared.audio import write_flac
from components.shared.contracts import Sample, SampleSound, SampleText
from components.shared.manifest import Manifest, write_table
from components.shared.tracking import Tracker

Wave = tuple[np.ndarray, int]
"""(samples,), float32, -1..1, and its rate in Hz."""


class SampleBook:
    """Collects samples into a folder; close() makes it a table."""

    def __init__(self, folder: Path, tracker: Tracker) -> None:
        self.folder, self.tracker = folder, tracker
        self.samples: list[Sample] = []

    def add(
        self,
        title: str,
        language: str,
        texts: dict[str, str],
        sounds: dict[str, Wave],
        *,
        key: str | None = None,
        shelf: str = "",
    ) -> None:
        """Keep one item: texts and sounds by their labels; empty waves are left out. shelf: see contracts.Sample."""
        number = f"{len(self.samples):03d}"
        kept = []
        for index, (label, (wave, rate_hz)) in enumerate(sounds.items()):
            if wave.size == 0:
                continue
            name = f"{number}-{index}.flac"
            wave = np.asarray(wave, dtype=np.float32)
            write_flac(self.folder / name, wave, rate_hz)
            self.tracker.log_audio(wave, rate_hz, f"sample-{number}-{label.replace(' ', '-')}")
            kept.append(SampleSound(label=label, audio=name))
        lines = [SampleText(label=label, text=text) for label, text in texts.items()]
        self.samples.append(
            Sample(id=key or number, shelf=shelf, title=title, language=language, texts=lines, sounds=kept)
        )

    def close(self) -> Manifest:
        """Write the table of the samples and the manifest of the folder."""
        listing = "\n\n".join(
            "\n".join([f"{sample.id}: {sample.title}", *(f"  {text.label}: {text.text}" for text in sample.texts)])
            for sample in self.samples
        )
        self.tracker.log_text(listing, "samples.txt")
        return write_table(self.folder, self.samples, Sample)
