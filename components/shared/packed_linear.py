"""Linear layers whose weights lie in oneDNN's own layout: float32 inference on CPUs at twice the speed or more.

torch gives float32 matrix products to MKL, which runs on AMD processors at a fraction of what they can do. oneDNN does
not, but wants weights in blocks; laid out once, they also let GELU ride along in the product for nothing. The results
differ from MKL's by the order of the sums only. Measured in docs/results.md, "Encoding".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

ROWS = 1024
"""Rows that the layout is chosen for; it serves any number."""


class PackedLinear(nn.Module):
    """An nn.Linear in float32 on a CPU, for inference; where gradients are recorded it computes as nn.Linear does."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)

    def forward(self, states: Tensor) -> Tensor:
        """states: (..., in) float32 -> (..., out)."""
        if torch.is_grad_enabled() or states.dtype is not torch.float32:
            return functional.linear(states, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(states, self._packed, self.bias, "none", [], "")

    def gelu(self, states: Tensor) -> Tensor:
        """gelu(forward(states)), exact, in one pass."""
        if torch.is_grad_enabled() or states.dtype is not torch.float32:
            return functional.gelu(self(states))
        return torch.ops.mkldnn._linear_pointwise(states, self._packed, self.bias, "gelu", [], "none")


def linear_gelu(linear: nn.Module, states: Tensor) -> Tensor:
    """gelu(linear(states)), in one pass where the layer is packed."""
    return linear.gelu(states) if isinstance(linear, PackedLinear) else functional.gelu(linear(states))


def pack_linears(module: nn.Module) -> None:
    """Replace every float32 nn.Linear of a module on a CPU by its packed form, in place; names of weights stay.

    Leaves the module as it is where torch was built without oneDNN or the layers are elsewhere. Later changes of the
    weights are not seen.
    """
    if not torch.backends.mkldnn.is_available():
        return
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child.weight.device.type == "cpu" and child.weight.dtype is torch.float32:
                setattr(parent, name, PackedLinear(child))
