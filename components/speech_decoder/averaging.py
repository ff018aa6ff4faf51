"""The running average of the weights, which is what is saved: steadier than any single step's."""

from __future__ import annotations

import torch
from torch import nn


def follow(average: nn.Module, weights: nn.Module, step: int, decay: float) -> None:
    """Move the average towards the weights after step `step`, from 1; decay: what it keeps of itself, 0..1.

    The first steps count little, since they are far from the end. A part of the optimizer's step, so that a checkpoint
    has it.
    """
    kept = min(decay, (1 + step) / (10 + step))
    mean = [value.detach() for value in average.parameters()]
    torch._foreach_lerp_(mean, [value.detach() for value in weights.parameters()], 1.0 - kept)
