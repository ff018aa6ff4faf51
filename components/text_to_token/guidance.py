"""A nudge towards reading the text in order: two attention heads are shown early where in the text the speech is.

A decoder-only model finds the alignment of text and speech by itself, but late; until then it babbles. The alignment
of the training pairs is known (alignment.py): while the nudge lasts, one head is rewarded for looking at the text token
that is being said and another for looking at the one that follows (after Tachibana et al. 2018, "Efficiently trainable
text-to-speech with guided attention", where an even pace stood for the alignment). The model stays a stock one: nothing
of this is left in it.
Shapes: B sequences, T tokens, D a head's width.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

NOWHERE = -1
"""In place of a position: there is no such text token."""
HEADS = {"said": 0, "following": 1}
"""Which head looks at what."""


class Guide:
    """Measures how much of two heads' attention lies where it should."""

    def __init__(self, model: Any, layer: int) -> None:
        """Listens to the inputs of self-attention in a layer of a Llama model with at least two heads."""
        self.attention = model.get_decoder().layers[layer].self_attn
        self.seen: dict[str, Any] = {}
        self.attention.register_forward_pre_hook(self._listen, with_kwargs=True)

    def _listen(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.seen = kwargs

    def loss(self, batch: dict[str, torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """Sum over the heads of the mean of -log(attention at the right text token), in nats; a scalar.

        batch: said and following, (B, T) int64, positions in the sequence or NOWHERE; mask: (B, 1, T, T) bool, what a
        token may see.
        """
        total = mask.new_zeros((), dtype=torch.float32)
        for name, head in HEADS.items():
            where = batch[name]
            found = self._weights(head, mask).gather(-1, where.clamp(min=0)[..., None])[..., 0]
            total = total - (found[where != NOWHERE] + 1e-6).log().mean()
        return total

    def _weights(self, head: int, mask: torch.Tensor) -> torch.Tensor:
        """Attention weights of a head: (B, T, T) float32."""
        hidden, (cos, sin) = self.seen["hidden_states"], self.seen["position_embeddings"]
        width = self.attention.head_dim
        group = head // self.attention.num_key_value_groups
        query_rows = self.attention.q_proj.weight[head * width : (head + 1) * width]
        key_rows = self.attention.k_proj.weight[group * width : (group + 1) * width]
        query = torch.nn.functional.linear(hidden, query_rows)[:, None]
        key = torch.nn.functional.linear(hidden, key_rows)[:, None]
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        scores = (query @ key.transpose(-1, -2)).float() * self.attention.scaling
        return scores.masked_fill(~mask, torch.finfo(torch.float32).min).softmax(-1)[:, 0]
