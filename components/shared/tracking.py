"""What a stage says about itself while it runs: metrics, figures, sounds, texts, progress.

    python -m components.shared.tracking send       sends what is still queued on disk

A stage gets a Tracker and never asks where its records go. They are appended to a spool on disk and taken to MLflow by
a process of its own (delivery.py), so that a server that is down never costs a finished run and no stage waits for
MLflow's import.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from components.shared.curves import Curves
    from components.shared.places import Inputs, Outputs
    from components.shared.spool import Spool

Item = TypeVar("Item")
Progress = Callable[[Iterable[Any], int], Iterable[Any]]
"""(items, how many) -> the same items, shown while they pass: Tracker.progress without its text."""


def no_progress(items: Iterable[Any], total: int) -> Iterable[Any]:
    """Progress that shows nothing."""
    return items


class Tracker(Protocol):
    """The door through which a stage is watched; rank 0 alone tracks."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Numbers, on a step axis when step is given."""

    def log_figure(self, figure: Figure, name: str) -> None:
        """A matplotlib figure, kept as <name>.png."""

    def log_audio(self, wave: np.ndarray, sample_rate_hz: int, name: str) -> None:
        """A wave, (samples,), float32, -1..1, kept as <name>.wav with its spectrogram <name>.png beside it."""

    def log_text(self, text: str, name: str) -> None:
        """A text, kept as <name>."""

    def log_file(self, path: Path) -> None:
        """A small file, kept under its own name."""

    def log_dataset(self, folder: Path, name: str, context: str) -> None:
        """A table that was read; context: train, validation, test."""

    def log_model(self, folder: Path, name: str) -> None:
        """A finished model folder; it is pointed to, not uploaded."""

    def say(self, line: str) -> None:
        """One line for whoever watches the terminal, kept in the run's log as well."""

    def progress(
        self,
        items: Iterable[Item],
        total: int | None,
        what: str,
        *,
        unit: str = "it",
        size: Callable[[Item], int] | None = None,
    ) -> Iterator[Item]:
        """The items, with a bar and the time left; size: of an item in the unit that total counts, 1 without it."""


class TerminalTracker:
    """A tracker that shows progress and lines and keeps nothing: for tests, benchmarks and machines without MLflow."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Not kept."""

    def log_figure(self, figure: Figure, name: str) -> None:
        """Not kept."""

    def log_audio(self, wave: np.ndarray, sample_rate_hz: int, name: str) -> None:
        """Not kept."""

    def log_text(self, text: str, name: str) -> None:
        """Not kept."""

    def log_file(self, path: Path) -> None:
        """Not kept."""

    def log_dataset(self, folder: Path, name: str, context: str) -> None:
        """Not kept."""

    def log_model(self, folder: Path, name: str) -> None:
        """Not kept."""

    def say(self, line: str) -> None:
        """Print the line above any progress bar."""
        from tqdm import tqdm

        tqdm.write(line)
        sys.stdout.flush()

    def progress(
        self,
        items: Iterable[Item],
        total: int | None,
        what: str,
        *,
        unit: str = "it",
        size: Callable[[Item], int] | None = None,
    ) -> Iterator[Item]:
        """The items, with a bar and the time left when they take longer than a second; rare lines in a log file."""
        from tqdm import tqdm

        watched = sys.stderr.isatty()
        with tqdm(
            total=total,
            desc=what,
            unit=unit,
            unit_scale=size is not None,
            delay=1.0,
            mininterval=0.5 if watched else 15.0,
            dynamic_ncols=watched,
        ) as bar:
            for item in items:
                yield item
                bar.update(1 if size is None else size(item))


class SilentTracker(TerminalTracker):
    """The tracker of every rank but the first."""

    def say(self, line: str) -> None:
        """Not shown."""

    def progress(
        self,
        items: Iterable[Item],
        total: int | None,
        what: str,
        *,
        unit: str = "it",
        size: Callable[[Item], int] | None = None,
    ) -> Iterator[Item]:
        """The items, without a bar."""
        yield from items


class SpoolTracker(TerminalTracker):
    """Shows progress and lines, and appends every record to the run's spool on disk."""

    def __init__(self, spool: Spool, curves: Curves) -> None:
        self.spool, self.curves = spool, curves
        self.models: dict[str, str] = {}
        """Name of a model's out folder -> name of the model, for provenance.py."""
        self.datasets: set[Path] = set()

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Numbers, on a step axis when step is given."""
        if step is not None and metrics:
            self.curves.add(metrics, step)
        self.spool.metrics(metrics, step or 0)

    def log_figure(self, figure: Figure, name: str) -> None:
        """Kept as artifact figures/<name>.png."""
        with self.spool.file(f"figures/{name}.png") as path:
            figure.savefig(path, dpi=120, bbox_inches="tight", format="png")

    def log_audio(self, wave: np.ndarray, sample_rate_hz: int, name: str) -> None:
        """Kept as artifacts audio/<name>.wav and audio/<name>.png."""
        import soundfile

        with self.spool.file(f"audio/{name}.wav") as path:
            soundfile.write(path, wave, sample_rate_hz, format="WAV", subtype="PCM_16")
        with self.spool.file(f"audio/{name}.png") as path:
            spectrogram(wave, sample_rate_hz).savefig(path, dpi=100, bbox_inches="tight", format="png")

    def log_text(self, text: str, name: str) -> None:
        """Kept as artifact <name>."""
        with self.spool.file(name) as path:
            path.write_text(text, encoding="utf-8")

    def log_file(self, path: Path) -> None:
        """Kept as artifact files/<its name>."""
        with self.spool.file(f"files/{path.name}") as copy:
            copy.write_bytes(path.read_bytes())

    def log_dataset(self, folder: Path, name: str, context: str) -> None:
        """Recorded with the content hash of its manifest as digest."""
        self.datasets.add(folder.resolve())
        self.spool.dataset(folder, name, context)

    def log_model(self, folder: Path, name: str) -> None:
        """Recorded when the run ends, with its final place and content hash."""
        self.models[folder.name] = name

    def say(self, line: str) -> None:
        """Print the line and keep it in the run's log.txt."""
        super().say(line)
        self.spool.log_line(line)

    def finish(self, kind: str, line: str, inputs: Inputs, outputs: Outputs) -> None:
        """End the run: content hashes of what was read and written, models, status; then see to the delivery.

        kind: done, user, quality, transient or bug (entry.py). Never raises: tracking must not cost a finished run.
        """
        from components.shared.provenance import describe

        try:
            describe(self, inputs, outputs if kind == "done" else None)
            self.spool.end(kind, line)
        except Exception as error:
            print(f"tracking: run not recorded completely: {type(error).__name__}: {error}", file=sys.stderr)


def spectrogram(wave: np.ndarray, sample_rate_hz: int) -> Figure:
    """Log-magnitude spectrogram of a wave (samples,), in decibels over seconds and kHz."""
    import numpy as np
    from matplotlib.figure import Figure

    size, hop = 512, 128
    padded = np.pad(np.asarray(wave, np.float32), (0, max(0, size - len(wave))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]  # (frames, size)
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2
    figure = Figure(figsize=(7, 2.6))
    axes = figure.subplots()
    extent = (0.0, len(padded) / sample_rate_hz, 0.0, sample_rate_hz / 2000)
    axes.imshow(10 * np.log10(power.T + 1e-8), origin="lower", aspect="auto", extent=extent, cmap="magma")
    axes.set_xlabel("seconds")
    axes.set_ylabel("kHz")
    return figure


if __name__ == "__main__":
    from components.shared.delivery import main

    main(sys.argv[1:])
