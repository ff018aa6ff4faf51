"""Pictures of a codebook: how often each code is used, and where the codes lie."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from components.speech_tokenizer.quantizer import code_use


def codebook_figure(codebook: Tensor, counts: Tensor) -> Figure:
    """codebook: (V, D) float32; counts: (V,) float32, how often each code was used.

    Left the use of the codes by rank, right the codes on their two main directions, the used ones dark.
    """
    used, perplexity = code_use(counts)
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(counts.sort(descending=True).values.numpy() + 1)
    left.set(
        xscale="log",
        yscale="log",
        xlabel="code, by rank",
        ylabel="times used + 1",
        title=f"{used:.0%} of {len(counts)} codes used, perplexity {perplexity:.0f}",
    )
    centred = codebook - codebook.mean(0)
    values, directions = torch.linalg.eigh((centred.T @ centred).double())
    places = centred @ directions[:, -2:].float()
    share = float(values[-2:].sum() / values.sum().clamp(min=1e-12))
    dots = right.scatter(places[:, 1], places[:, 0], c=(counts + 1).log10().numpy(), s=6, cmap="viridis_r")
    right.set(xlabel="first direction", ylabel="second", title=f"codes, {share:.0%} of their variance shown")
    figure.colorbar(dots, ax=right, label="log10 of times used + 1")
    return figure
