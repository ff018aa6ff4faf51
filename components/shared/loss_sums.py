"""Mean losses by modality and by source over many batches and ranks, gathered without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable

import torch

from components.shared.tokens import Vocabulary

Reduce = Callable[[torch.Tensor], torch.Tensor]
"""A tensor -> its sum over all ranks."""


class LossSums:
    """Running sums of label losses and of labels: of all, of text, of speech, and of every source."""

    def __init__(self, vocabulary: Vocabulary, sources: list[str]) -> None:
        """sources: names of the numbers in batch["sources"]."""
        self.first, self.last = vocabulary.first_audio_id, vocabulary.first_audio_id + vocabulary.num_codes
        self.names = ["loss", "loss_text", "loss_speech", *(f"loss_{source}_source" for source in sources)]
        self.totals: torch.Tensor | None = None
        """(2, names), float64: losses in nats, labels; None: nothing was added."""

    def add(self, batch: dict[str, torch.Tensor], nll: torch.Tensor, learnt: torch.Tensor) -> None:
        """Take in a batch: nll (N,), the losses of the labels at `learnt`, (B, T) bool with N set."""
        labels, sources = batch["labels"][learnt], batch["sources"][learnt]
        nll = nll.detach().double()
        speech = (labels >= self.first) & (labels < self.last)
        both = torch.stack([nll, torch.ones_like(nll)])
        found = torch.zeros(2, len(self.names), dtype=torch.float64, device=nll.device)
        found[:, 0] = both.sum(1)
        found[:, 2] = (both * speech).sum(1)
        found[:, 1] = found[:, 0] - found[:, 2]
        for number in range(len(self.names) - 3):
            found[:, 3 + number] = (both * (sources == number)).sum(1)
        self.totals = found if self.totals is None else self.totals.to(found.device) + found

    def means(self, reduce: Reduce) -> dict[str, float]:
        """Mean loss of every part that has labels, over all ranks, in nats a token; then begins anew."""
        totals, self.totals = self.totals, None
        if totals is None:
            return {}
        losses, counts = reduce(totals).tolist()
        return {name: loss / count for name, loss, count in zip(self.names, losses, counts, strict=True) if count >= 1}

    def gather(self, reduce: Reduce, first: bool) -> list[list[float]]:
        """The totals over all ranks, which the first rank takes over: the others begin anew with nothing."""
        totals = torch.zeros(2, len(self.names), dtype=torch.float64) if self.totals is None else self.totals
        gathered = reduce(totals)
        self.totals = gathered if first else torch.zeros_like(gathered)
        return gathered.tolist()

    def restore(self, totals: list[list[float]]) -> None:
        """Go on from what `gather` returned."""
        self.totals = torch.tensor(totals, dtype=torch.float64)
