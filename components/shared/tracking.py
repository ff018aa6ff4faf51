"""What a stage says about itself while it runs: metrics, figures, sounds, texts, progress.

A stage gets a Tracker and never asks where its records go. Records are spooled to disk first and sent to MLflow from
there, so that a server that is down never costs a finished run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

Item = TypeVar("Item")


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

    def progress(self, items: Iterable[Item], total: int | None, what: str) -> Iterator[Item]:
        """The items, with a bar and the time left."""


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

    def progress(self, items: Iterable[Item], total: int | None, what: str) -> Iterator[Item]:
        """The items, with a bar and the time left when they take longer than a second."""
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=what, delay=1.0, mininterval=0.5, dynamic_ncols=True)


def make_tracker(stage: str, item: str, config: dict[str, Any], root: Path) -> TerminalTracker:
    """The tracker of one stage run."""
    return TerminalTracker()
