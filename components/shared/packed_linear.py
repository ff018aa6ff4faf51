"""Linear layers whose weights lie in oneDNN's own layout: float32 inference on CPUs at twice the speed or more.

torch gives float32 matrix products to MKL, which runs on AMD processors at a fraction of what they can do. oneDNN does
not, but wants weights in blocks; laid out once, they also let GELU ride along in the product for nothing. The results
differ from MKL's by the order of the sums only. Measured in docs/results.md, "Encoding".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

ROWS = 1024
"""Rows that the layout is chosen for; it serves any number."""


class PackedLinear(nn.Module):
    """An nn.Linear for inference in float32 on a CPU; elsewhere, and where gradients are recorded, it is a plain one.

    Holds its weights twice from the first call on. A module that is moved or copied packs them anew.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self._packed: Tensor | None = None

    def forward(self, states: Tensor) -> Tensor:
        """states: (..., in) -> (..., out)."""
        packed = self._weights_for(states)
        if packed is None:
            return functional.linear(states, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(states, packed, self.bias, "none", [], "")

    def gelu(self, states: Tensor) -> Tensor:
        """gelu(forward(states)), exact, in one pass."""
        packed = self._weights_for(states)
        if packed is None:
            return functional.gelu(self(states))
        return torch.ops.mkldnn._linear_pointwise(states, packed, self.bias, "gelu", [], "none")

    def _weights_for(self, states: Tensor) -> Tensor | None:
        """The weights in oneDNN's layout; None where it does not serve."""
        if torch.is_grad_enabled() or not (_serves(states) and _serves(self.weight)):
            return None
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), ROWS)
        return self._packed

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._packed = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}


def _serves(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.dtype is torch.float32


def linear_gelu(linear: nn.Module, states: Tensor) -> Tensor:
    """gelu(linear(states)), in one pass where the layer is packed."""
    return linear.gelu(states) if isinstance(linear, PackedLinear) else functional.gelu(linear(states))


def pack_linears(module: nn.Module) -> None:
    """Replace every float32 nn.Linear of a module on a CPU by its packed form, in place; names of weights stay.

    Leaves the module as it is where torch was built without oneDNN or the layers are elsewhere. Weights that change in
    place after the first call are not seen.
    """
    if not torch.backends.mkldnn.is_available():
        return
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and _serves(child.weight):
                setattr(parent, name, PackedLinear(child))
