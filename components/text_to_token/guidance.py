"""A nudge towards reading the text in order: one attention head is shown early which letters are being said.

A decoder-only model finds the alignment of text and speech by itself, but late; until then it babbles. The alignment
of the training pairs is known (alignment.py), and one head is rewarded for looking at the text token that is being said
while the nudge lasts (after Tachibana et al. 2018, "Efficiently trainable text-to-speech with guided attention", where
an even pace stood for the alignment). The model stays a stock one: nothing of this is left in it.
Shapes: B sequences, T tokens, D a head's width.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

TEXT, SPEECH = 1, 2
"""Roles of positions: a text token; a position from which a speech token is predicted."""


class Guide:
    """Measures how much of one head's attention lies where the text is being said."""

    def __init__(self, model: Any, layer: int, head: int = 0) -> None:
        """Listens to the inputs of self-attention in a layer of a Llama model."""
        self.attention = model.get_decoder().layers[layer].self_attn
        self.head = head
        self.seen: dict[str, Any] = {}
        self.attention.register_forward_pre_hook(self._listen, with_kwargs=True)

    def _listen(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.seen = kwargs

    def loss(self, batch: dict[str, torch.Tensor], mask: torch.Tensor, width: float) -> torch.Tensor:
        """Mean of -log(attention near the right text), in nats, over the predicted speech tokens; a scalar.

        batch: roles (B, T) of TEXT, SPEECH or 0, begins and ends (B, T): from when to when each of them is said, in
        speech tokens; mask: (B, 1, T, T) bool, what a token may see; width: standard deviation of what counts as near
        beyond a text token's own time, in speech tokens.
        """
        weights = self._weights(mask)  # (B, T, T)
        now, roles = batch["begins"][:, :, None], batch["roles"]
        apart = (batch["begins"][:, None, :] - now).clamp_min(0) + (now - batch["ends"][:, None, :]).clamp_min(0)
        near = torch.exp(-0.5 * (apart / width) ** 2) * (mask[:, 0] & (roles == TEXT)[:, None, :])
        mass = (weights * near).sum(-1)[roles == SPEECH]
        return -(mass + 1e-6).log().mean()

    def _weights(self, mask: torch.Tensor) -> torch.Tensor:
        """Attention weights of the head: (B, T, T) float32."""
        hidden, (cos, sin) = self.seen["hidden_states"], self.seen["position_embeddings"]
        width = self.attention.head_dim
        group = self.head // self.attention.num_key_value_groups
        query_rows = self.attention.q_proj.weight[self.head * width : (self.head + 1) * width]
        key_rows = self.attention.k_proj.weight[group * width : (group + 1) * width]
        query = torch.nn.functional.linear(hidden, query_rows)[:, None]
        key = torch.nn.functional.linear(hidden, key_rows)[:, None]
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        scores = (query @ key.transpose(-1, -2)).float() * self.attention.scaling
        return scores.masked_fill(~mask, torch.finfo(torch.float32).min).softmax(-1)[:, 0]
