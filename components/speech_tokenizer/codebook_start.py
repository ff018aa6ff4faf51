"""Where the codebook starts: k-means over real hidden states, in the directions that matter.

Half of the variance of a Whisper's middle states tells where in the clip a frame stands, and more tells who speaks.
Plain k-means spends the codes on that. Ours looks only along the directions from which a linear map predicts the final
states of the un-quantised Whisper best, after what position alone predicts is taken out. All codes agree in every other
direction, so that the nearest code by L2 is the nearest along these. Measured on whisper-base, layer 3, 1024 codes, 20
minutes: the code number then explains 0.32 of the variance of the final states instead of 0.14 (layer 4: 0.35, 0.32).
Shapes: N vectors, D width, R directions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.speech_tokenizer.quantizer import nearest_codes

RIDGE = 1e-2
"""Regularisation of the linear map, as a share of the mean variance of a direction."""


@torch.no_grad()
def kmeans(vectors: Tensor, num_codes: int, num_iterations: int, seed: int) -> tuple[Tensor, Tensor]:
    """Lloyd's k-means: (N, D) -> centres (num_codes, D) float32, vectors of each centre (num_codes,) float32.

    Starts from distinct random vectors; a centre that wins nothing moves beside a random vector, so that none is dead
    while there are enough vectors. Deterministic on one device for one seed.
    """
    generator = torch.Generator().manual_seed(seed)
    vectors = vectors.float()
    if len(vectors) == 0:
        raise ValueError("k-means start of the codebook: got no hidden states, wanted some; is the training set empty?")
    start = torch.randperm(len(vectors), generator=generator).to(vectors.device)
    centres = vectors[start[torch.arange(num_codes, device=vectors.device) % len(vectors)]].clone()
    counts = torch.zeros(num_codes, device=vectors.device)
    for iteration in range(num_iterations):
        ids = nearest_codes(vectors, centres)
        counts = torch.bincount(ids, minlength=num_codes).float()
        sums = torch.zeros_like(centres).index_add_(0, ids, vectors)
        centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), centres)
        empty = (counts == 0).nonzero()[:, 0]
        if len(empty) and iteration + 1 < num_iterations:
            drawn = torch.randint(len(vectors), (len(empty),), generator=generator).to(vectors.device)
            centres[empty] = vectors[drawn]
    return centres, counts


@torch.no_grad()
def start_codebook(
    vectors: Tensor, wanted: Tensor | None, positions: Tensor, num_codes: int, rank: int, num_iterations: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Centres (num_codes, D) float32 and how many vectors each holds (num_codes,).

    vectors: (N, D) hidden states; wanted: (N, D) final states of the un-quantised Whisper at the same tokens, or None;
    positions: (N,) int64, each token's place in its clip; rank: directions to look along, 0: all of them.
    """
    vectors = vectors.float()
    if rank <= 0 or wanted is None or len(vectors) <= rank:
        return kmeans(vectors, num_codes, num_iterations, seed)
    mean = vectors.mean(0)
    basis = predictive_directions(vectors - mean, wanted.float(), positions, rank)
    centres, counts = kmeans((vectors - mean) @ basis, num_codes, num_iterations, seed)
    return mean + centres @ basis.T, counts


def predictive_directions(vectors: Tensor, wanted: Tensor, positions: Tensor, rank: int) -> Tensor:
    """Reduced-rank regression: an orthonormal basis (D, R) of the directions of `vectors` that predict `wanted` best.

    vectors, wanted: (N, D) float32, vectors centred; what the position predicts of `wanted` is taken out first.
    """
    residual = wanted - _mean_at(wanted, positions)[positions]
    gram = vectors.T @ vectors
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
    linear = torch.linalg.solve(gram, vectors.T @ residual)
    predicted = vectors @ linear
    strongest = torch.linalg.eigh(predicted.T @ predicted).eigenvectors[:, -rank:]
    return torch.linalg.qr(linear @ strongest).Q


def _mean_at(values: Tensor, positions: Tensor) -> Tensor:
    """The mean of values (N, D) at each position; a position that was seen once then has nothing left to predict."""
    length = int(positions.max()) + 1
    sums = torch.zeros(length, values.shape[1], device=values.device).index_add_(0, positions, values)
    return sums / torch.bincount(positions, minlength=length)[:, None].clamp(min=1)
