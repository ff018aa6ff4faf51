"""Muon and AdamW as one optimizer, for one learning rate and one schedule.

Muon (Jordan et al. 2024) makes the update of a matrix orthogonal. With the step sizes of "Muon is Scalable for LLM
Training" (Liu et al. 2025, section 2.2) it takes AdamW's learning rate and decay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for `matrices`, AdamW for `rest`; both are param_groups of this one."""

    def __init__(
        self, matrices: list[Tensor], rest: list[Tensor], *, lr: float, weight_decay: float, betas: tuple[float, float]
    ) -> None:
        """weight_decay: of the matrices and of what in `rest` has two dimensions."""
        groups = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=betas, fused=True)
        super().__init__([*matrices, *rest], {"lr": lr})
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
        self.muon.step()
        self.adamw.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """State of the two, by name."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The counterpart."""
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self._share()
