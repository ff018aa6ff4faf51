"""The vector-quantised bottleneck: nearest codes, EMA codebook, restart of dead codes.

Everything is float32 and counts over all ranks of a process group when there is one; without one it is the same code.
Shapes: N vectors, D width, V codes.
Source  van den Oord et al. 2017, appendix A.1 (EMA); public code of the GLM-4-Voice tokenizer for smoothing and restart
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributed, nn

SMOOTHING = 1e-5
"""Laplace smoothing of the counts (published)."""
ROWS_AT_ONCE = 2048
"""Vectors whose distances to all codes are held in memory together."""


class NearestCode(nn.Module):
    """The code of each vector by squared L2 distance; keeps what depends on the codebook alone.

    Measured from the middle of the codes: what all states have in common would take the digits of the products.
    """

    def __init__(self, codebook: Tensor) -> None:
        """codebook: (V, D)."""
        super().__init__()
        num_codes, width = codebook.shape
        codebook = codebook.detach().float()
        self.middle = codebook.mean(0)
        codebook = codebook - self.middle
        self.distance = nn.utils.skip_init(nn.Linear, width, num_codes, device=codebook.device)
        self.distance.weight.data, self.distance.bias.data = -2 * codebook, codebook.square().sum(1)

    @torch.no_grad()
    def forward(self, vectors: Tensor) -> Tensor:
        """vectors: (N, D) -> (N,) int64, the lowest number on a tie."""
        found = [torch.empty(0, dtype=torch.int64, device=vectors.device)]
        with torch.autocast(vectors.device.type, enabled=False):
            for rows in vectors.split(ROWS_AT_ONCE):
                found.append(self.distance(rows.float() - self.middle).argmin(1))
        return torch.cat(found)


def nearest_codes(vectors: Tensor, codebook: Tensor) -> Tensor:
    """The code of each vector by squared L2 distance, the lowest number on a tie: (N, D), (V, D) -> (N,) int64."""
    return NearestCode(codebook)(vectors)


def all_sum(value: Tensor) -> Tensor:
    """The sum of a tensor over all ranks; the tensor itself without a process group."""
    if distributed.is_available() and distributed.is_initialized():
        value = value.clone()
        distributed.all_reduce(value)
    return value


def gather(vectors: Tensor) -> Tensor:
    """The rows of all ranks in the order of the ranks: (N of this rank, D) -> (N of all, D)."""
    if world_size() == 1:
        return vectors
    sizes = [torch.zeros((), dtype=torch.int64, device=vectors.device) for _ in range(world_size())]
    distributed.all_gather(sizes, torch.tensor(len(vectors), device=vectors.device))
    longest = int(max(sizes))
    padded = torch.zeros(longest, vectors.shape[1], dtype=vectors.dtype, device=vectors.device)
    padded[: len(vectors)] = vectors
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded)
    return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)])


def broadcast(value: Tensor) -> Tensor:
    """The tensor of rank 0."""
    if world_size() > 1:
        distributed.broadcast(value, src=0)
    return value


def world_size() -> int:
    """Ranks that train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def global_mean(total: Tensor, count: Tensor) -> Tensor:
    """total / count, both summed over all ranks: a loss whose averaged gradients are those of one big batch."""
    return total * world_size() / all_sum(count.detach().float()).clamp(min=1.0)


@torch.no_grad()
def ema_update(
    codebook: Tensor, ema_count: Tensor, ema_weight: Tensor, vectors: Tensor, ids: Tensor, decay: float
) -> Tensor:
    """Move the codebook towards the mean of the vectors each code won, in place.

    vectors: (N, D) valid ones only; ids: (N,) their codes; codebook, ema_weight: (V, D); ema_count: (V,), smoothed.
    Returns how many vectors each code won, (V,) float32, over all ranks.
    """
    sums = torch.zeros_like(ema_weight).index_add_(0, ids, vectors.float())
    counts = all_sum(torch.bincount(ids, minlength=len(codebook)).float())
    ema_count.mul_(decay).add_(counts, alpha=1 - decay)
    total = ema_count.sum()
    ema_count.copy_((ema_count + SMOOTHING) / (total + len(codebook) * SMOOTHING) * total)
    ema_weight.mul_(decay).add_(all_sum(sums), alpha=1 - decay)
    codebook.copy_(ema_weight / ema_count[:, None])
    return counts


@torch.no_grad()
def restart_dead_codes(
    codebook: Tensor, ema_count: Tensor, ema_weight: Tensor, vectors: Tensor, threshold: float, seed: int
) -> int:
    """Replace every code whose count fell below the threshold by a random vector of the batch, in place.

    vectors: (N, D) valid ones of this rank. All ranks draw from all vectors with one seed, so that they agree; when
    more codes are dead than there are vectors each vector is used again as rarely as possible. Returns the number
    replaced.
    """
    dead = (ema_count < threshold).nonzero()[:, 0]
    sizes = torch.zeros(world_size(), dtype=torch.int64, device=vectors.device)
    rank = distributed.get_rank() if len(sizes) > 1 else 0
    sizes[rank] = len(vectors)
    sizes = all_sum(sizes)
    total = int(sizes.sum())
    if len(dead) == 0 or total == 0:
        return 0
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).to(vectors.device)
    drawn = order[torch.arange(len(dead), device=vectors.device) % total] - int(sizes[:rank].sum())
    mine = (drawn >= 0) & (drawn < len(vectors))
    fresh = torch.zeros(len(dead), vectors.shape[1], device=vectors.device)
    fresh[mine] = vectors[drawn[mine]].float()
    fresh = all_sum(fresh)
    codebook[dead], ema_weight[dead], ema_count[dead] = fresh, fresh, 1.0
    return len(dead)


def commitment(hidden: Tensor, codes: Tensor, valid: Tensor) -> Tensor:
    """Masked mean squared distance of hidden states to their codes, gradient to the states only.

    hidden, codes: (B, K, D); valid: (B, K) bool -> scalar float32, a mean over the valid positions of all ranks.
    """
    squared = (hidden.float() - codes.detach().float()).square().mean(-1) * valid
    return global_mean(squared.sum(), valid.sum())


def code_use(counts: Tensor) -> tuple[float, float]:
    """(share of codes used at least once, perplexity of the use) of how often each code was used, (V,)."""
    total = float(counts.sum())
    if total == 0:
        return 0.0, 0.0
    shares = (counts / total).double()
    entropy = -float((shares * shares.clamp(min=1e-300).log()).sum())
    return float((counts > 0).double().mean()), math.exp(entropy)
