"""What a training step costs in arithmetic, and what a device can do: the two sides of model FLOPs utilisation (MFU).

Counted after Chowdhery et al. 2022 (PaLM, appendix B): 6 FLOPs a token for every weight of a matrix product, forward
and backward, and the two products of attention. Recomputed activations do not count. Attention is counted where it
looks: pairs of tokens of one document, so that packing and causality make the utilisation smaller, not larger.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

DENSE_BFLOAT16 = {"H200": 989e12, "H100": 989e12, "H800": 989e12, "A100": 312e12, "A800": 312e12}
"""FLOP/s of matrix products without sparsity (NVIDIA's data sheets, SXM modules)."""
_PRODUCT = 2048


@dataclass(frozen=True, kw_only=True)
class TokenCost:
    """Arithmetic of one model."""

    matmul_parameters: int
    """Weights that multiply every token: all matrices and the head; the embedding is only looked up."""
    attention_width: int
    """Layers x heads x width of a head: what a pair of tokens costs in each of attention's two products."""

    @classmethod
    def of(cls, model: Any) -> TokenCost:
        """The cost of a causal LM of Hugging Face; also on the meta device, before it is sharded."""
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        outer = {id(embedding), id(head)}
        inner = sum(p.numel() for p in model.parameters() if p.ndim == 2 and id(p) not in outer)
        config = model.config
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(matmul_parameters=inner + head.numel(), attention_width=config.num_hidden_layers * heads * width)

    def train_flops(self, num_tokens: float, num_pairs: float) -> float:
        """FLOPs of a forward and backward pass.

        num_tokens: without padding; num_pairs: (query, key) pairs that see each other, see visible_pairs.
        """
        return 6.0 * self.matmul_parameters * num_tokens + 12.0 * self.attention_width * num_pairs


def visible_pairs(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Pairs of a query and a key that it sees in a packed batch (see packing.pack): scalar, int64, on its device."""
    return (batch["positions"] + 1)[batch["segments"] > 0].sum()


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of matrix products: the data sheet's for a known GPU (bfloat16), else what one large product reaches."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        for model, flops in DENSE_BFLOAT16.items():
            if model in name:
                return flops
    return _measured(device, dtype)


def _measured(device: torch.device, dtype: torch.dtype) -> float:
    left, right = (torch.ones(_PRODUCT, _PRODUCT, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(4):  # the first one warms up
        started = time.perf_counter()
        float((left @ right)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * _PRODUCT**3 / best
