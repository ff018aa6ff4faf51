"""A causal LM that is trained on packed batches: its loss inside its forward, its layers compiled, recomputed, sharded.

The loss is part of the forward pass so that FSDP2, applied to every decoder layer and then to this module, gathers the
embedding, the final norm and the head together and the loss finds the whole head there. Shapes: B sequences, T tokens.
"""

from __future__ import annotations

from functools import partial
from types import MethodType
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from components.shared.linear_cross_entropy import linear_cross_entropy
from components.shared.lm_config import ComputeConfig, Kept
from components.shared.packed_attention import arguments
from components.shared.packing import IGNORED

PRODUCTS = ("mm", "addmm", "bmm", "_scaled_dot_product", "_varlen_attn", "flex_attention")
"""Beginnings of the names of what Kept.products keeps: what costs much more to compute again than to hold."""
POLICIES = {
    "bf16-mixed": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32),
    "bf16-true": MixedPrecisionPolicy(reduce_dtype=torch.float32),
    "32-true": MixedPrecisionPolicy(),
}
"""What ranks exchange under each of Lightning's precisions: gradients are always summed in float32."""


class PackedLM(torch.nn.Module):
    """Wraps a causal LM of Hugging Face; calling it gives the loss of a packed batch."""

    def __init__(self, model: Any, *, num_real: int, chunk: int) -> None:
        """num_real: ids of the vocabulary, without rows that pad the head; chunk: tokens whose logits are held."""
        super().__init__()
        self.model = model
        self.num_real = num_real
        self.chunk = chunk

    @property
    def layers(self) -> torch.nn.ModuleList:
        """The decoder layers."""
        return self.model.get_decoder().layers

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Next-token loss of a packed batch (see packing.pack), every piece blind to the others.

        Returns the mean over the labels, each label's loss without gradient, in nats, and where the labels stand:
        scalar, (N,) float32, (B, T) bool.
        """
        hidden = self.model.get_decoder()(
            input_ids=batch["token_ids"],
            position_ids=batch["positions"],
            use_cache=False,
            **arguments(self.model, batch["segments"]),
        ).last_hidden_state
        learnt = batch["labels"] != IGNORED
        device = hidden.device.type
        product_type = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        chosen = hidden[learnt].to(product_type)
        head = self.model.get_output_embeddings().weight
        with torch.autocast(device, enabled=False):
            loss, nll = linear_cross_entropy(
                chosen, head, batch["labels"][learnt], num_real=self.num_real, chunk=self.chunk
            )
        return loss, nll, learnt


def prepare(packed: PackedLM, compute: ComputeConfig | None) -> None:
    """Fuse the norms; recompute and compile every decoder layer as the settings say. Once more does nothing more.

    Layers of one shape share one compilation, so it takes as long for 40 layers as for 2. Comes before `shard`.
    """
    for module in packed.modules():
        if type(module).__name__.endswith("RMSNorm") and "forward" not in vars(module):
            # A partial would make torch.compile compile every layer anew.
            module.forward = MethodType(_fused_norm, module)
    kept = compute.kept if compute else Kept.everything
    for layer in packed.layers:
        if "forward" in vars(layer):
            continue
        forward = layer.forward
        if kept is not Kept.everything:
            layer.forward = forward = partial(checkpoint, forward, use_reentrant=False, **_contexts(kept))
        if compute and compute.compile:
            layer.forward = torch.compile(forward)


def release(packed: PackedLM) -> None:
    """Undo `prepare`: the layers are Hugging Face's own again, for generation and export."""
    for module in packed.modules():
        vars(module).pop("forward", None)


def _fused_norm(norm: Any, hidden: torch.Tensor) -> torch.Tensor:
    """What Hugging Face's RMSNorm of all our architectures computes, in one kernel; bit-equal in float32 on a CPU.

    At 4096 tokens of width 256 in float32 it took 3.4 ms forward and backward instead of 11.9, on one core of a Zen 5.
    """
    return torch.nn.functional.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


def shard(packed: PackedLM, mesh: DeviceMesh, precision: str) -> None:
    """FSDP2 over a one-dimensional mesh: each layer a group, all else (embedding, norm, head) the root's group.

    precision: Lightning's name of it. Does nothing where it is done already. Raises ValueError for another precision.
    """
    if isinstance(packed, FSDPModule):
        return
    if precision not in POLICIES:
        raise ValueError(f"trainer.precision: got {precision}, wanted one of {', '.join(POLICIES)} with sharded models")
    for layer in packed.layers:
        fully_shard(layer, mesh=mesh, mp_policy=POLICIES[precision])
    fully_shard(packed, mesh=mesh, mp_policy=POLICIES[precision])


def _contexts(kept: Kept) -> dict[str, Any]:
    """What `checkpoint` needs to keep more than a layer's input."""
    if kept is Kept.inputs:
        return {}
    return {"context_fn": partial(create_selective_checkpoint_contexts, _policy)}


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    name = str(getattr(operator, "_opname", operator))
    return CheckpointPolicy.MUST_SAVE if name.startswith(PRODUCTS) else CheckpointPolicy.PREFER_RECOMPUTE
