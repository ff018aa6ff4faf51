"""Choosing the next token of every row by its own seed: the same whatever else is in the batch.

A pseudo-random number is a function of (seed, step), not the state of a generator, so nothing has to be kept or
advanced for a request and whole batches are drawn at once.
"""

from __future__ import annotations

import numpy as np
import torch

_HEAD = 128
"""Candidates looked at before a full sort; the top_p mass is nearly always among them."""


def uniforms(seeds: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """One number in [0, 1) for each (seed, step): (n,) int64 twice -> (n,) float64.

    Source: the finaliser of SplitMix64 (Steele et al. 2014, "Fast splittable pseudorandom number generators"), taken
    twice so that neighbouring seeds and steps have nothing in common.
    """
    with np.errstate(over="ignore"):
        state = _mix(seeds.astype(np.uint64) * np.uint64(0xD1342543DE82EF95) + np.uint64(0x9E3779B97F4A7C15))
        state = _mix(state + steps.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def choose(
    logits: torch.Tensor, temperature: torch.Tensor, top_p: torch.Tensor, uniform: torch.Tensor, greedy: bool
) -> torch.Tensor:
    """The next token of each row.

    logits: (n, vocabulary) float32, -inf where a token is not allowed; temperature, top_p, uniform: (n,) float32,
    float32, float64 on the same device; greedy: every temperature is 0, the rest is not looked at.
    Returns (n,) int64.
    """
    best = logits.argmax(-1)
    if greedy:
        return best
    scaled = logits / temperature.clamp_min(1e-6)[:, None]
    probabilities = scaled.softmax(-1)
    sampled = _inverse_cdf(probabilities, uniform)
    if bool((top_p < 1).any()):
        sampled = torch.where(top_p < 1, _nucleus(probabilities, top_p, uniform), sampled)
    return torch.where(temperature > 0, sampled, best)


def _inverse_cdf(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The first column whose cumulative probability exceeds uniform times the row's sum."""
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    target = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp_max_(probabilities.shape[1] - 1)


def _nucleus(probabilities: torch.Tensor, top_p: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Samples among the fewest most likely tokens that hold top_p (Holtzman et al. 2020, nucleus sampling)."""
    size = min(_HEAD, probabilities.shape[1])
    head, ids = probabilities.topk(size, dim=-1)
    if size < probabilities.shape[1] and bool((head.sum(-1) < top_p).any()):
        head, ids = probabilities.sort(dim=-1, descending=True, stable=True)
    before = head.cumsum(-1, dtype=torch.float64) - head
    inside = torch.where(before < top_p[:, None], head, torch.zeros_like(head))
    column = _inverse_cdf(inside, uniform)
    return ids.gather(1, column[:, None]).squeeze(1)
