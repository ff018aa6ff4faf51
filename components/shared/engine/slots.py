"""Memory of the sequences that are decoded together: keys and values in slots, live slots always in front.

Slots hold sequences of different lengths. A decoding step writes each slot at its own position and attends to its own
past through a mask, so a sequence can leave and another take its place at any step (Yu et al. 2022, Orca).
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PretrainedConfig

_GROWTH = 64
"""Positions are allocated in multiples of this."""


class SlotCache:
    """Keys and values of the live sequences, used by the model as its cache while decoding.

    kv: (layers, 2, slots, kv_heads, positions, head_dim), grown as sequences get longer.
    """

    def __init__(self, config: PretrainedConfig, max_slots: int, dtype: torch.dtype, device: torch.device) -> None:
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        self.shape = (config.num_hidden_layers, 2, max_slots, kv_heads, head_dim)
        self.dtype, self.device = dtype, device
        self.kv = torch.empty(*self.shape[:4], 0, head_dim, dtype=dtype, device=device)
        self.rows = torch.arange(max_slots, device=device)
        self.num_live = 0
        self.window = 0
        self.positions = self.rows

    def begin_step(self, positions: torch.Tensor, window: int) -> torch.Tensor:
        """Prepare a decoding step of the live slots and return its mask.

        positions: (live,) int64, where each slot's new token goes; window: largest position + 1.
        Returns (live, 1, 1, window) bool, true where a slot's past is.
        """
        self.reserve(window)
        self.num_live, self.window, self.positions = len(positions), window, positions
        columns = torch.arange(window, device=self.device)
        return (columns[None, :] <= positions[:, None])[:, None, None]

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the model calls in each layer: keep the new token's keys and values, return the whole past.

        keys, values: (live, kv_heads, 1, head_dim); returns two of (live, kv_heads, window, head_dim).
        """
        live = self.num_live
        rows = self.rows[:live]
        k, v = self.kv[layer, 0], self.kv[layer, 1]
        k[rows, :, self.positions] = keys[:, :, 0]
        v[rows, :, self.positions] = values[:, :, 0]
        return k[:live, :, : self.window], v[:live, :, : self.window]

    def store(self, slot: int, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put a prefilled layer into neighbouring slots; keys, values: (n, kv_heads, length, head_dim)."""
        count, length = keys.shape[0], keys.shape[2]
        self.kv[layer, 0, slot : slot + count, :, :length] = keys
        self.kv[layer, 1, slot : slot + count, :, :length] = values

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot over another."""
        self.kv[:, :, target, :, :length] = self.kv[:, :, source, :, :length]

    def reserve(self, length: int) -> None:
        """Make room for sequences of this length; what is stored stays."""
        have = self.kv.shape[4]
        if length <= have:
            return
        room = -(-max(length, have + have // 2) // _GROWTH) * _GROWTH
        layers, two, slots, heads, head_dim = self.shape
        grown = torch.zeros(layers, two, slots, heads, room, head_dim, dtype=self.dtype, device=self.device)
        grown[:, :, :, :, :have] = self.kv
        self.kv = grown
