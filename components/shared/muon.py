"""Muon and AdamW as one optimizer, for one learning rate and one schedule.

Muon (Jordan et al. 2024) makes the update of a matrix orthogonal. With the step sizes of "Muon is Scalable for LLM
Training" (Liu et al. 2025, section 2.2) it takes AdamW's learning rate and decay as they are. A convolution's kernel is
one matrix by its first dimension, as Jordan et al. train theirs: all that an output sees to the outputs, and in a
transposed convolution the inputs to all that they reach.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for `matrices`, AdamW for `rest`; both are param_groups of this one."""

    def __init__(
        self,
        matrices: Sequence[Tensor],
        rest: Sequence[Tensor],
        *,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
        more: Sequence[dict[str, Any]] = (),
    ) -> None:
        """matrices: of two dimensions, or kernels of convolutions, contiguous and already on their device.

        weight_decay: of the matrices and of what in `rest` has two dimensions. more: further groups of AdamW, each with
        an lr of its own.
        """
        groups = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
            *more,
        ]
        self._kernels = [
            (kernel, nn.Parameter(kernel.detach().view(len(kernel), -1))) for kernel in matrices if kernel.ndim > 2
        ]
        # A kernel's matrix holds the kernel's own numbers in another shape.
        flat = [p for p in matrices if p.ndim == 2] + [matrix for _, matrix in self._kernels]
        self.muon = torch.optim.Muon(flat, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=betas, fused=True)
        others = [p for group in more for p in group["params"]]
        super().__init__([*matrices, *rest, *others], {"lr": lr})
        self._share()

    def _share(self) -> None:
        """Make what a schedule changes here the very groups that the two step with."""
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both; closure: computes loss and gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for kernel, matrix in self._kernels:
            matrix.grad = None if kernel.grad is None else kernel.grad.view_as(matrix)
        self.muon.step()
        self.adamw.step()
        for _, matrix in self._kernels:
            matrix.grad = None  # the kernel's own is what others see and clear
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear all gradients, those of kernels included, which are in no group by themselves."""
        super().zero_grad(set_to_none)
        for kernel, _ in self._kernels:
            kernel.grad = None

    def state_dict(self) -> dict[str, Any]:
        """State of the two, by name."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The counterpart."""
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self._share()
