"""Cross-entropy of a linear head that never holds the logits of all tokens.

The logits of one chunk of tokens are made, turned into the loss and its gradients, and dropped; the backward pass only
scales what the forward pass has already accumulated. Memory is (chunk x vocabulary), whatever the number of tokens.
After the idea of Liger Kernel (Hsu et al. 2024), in plain torch. Shapes: N tokens, D hidden, V rows of the head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        num_real: int,
        chunk: int,
        needs_gradient: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        nll = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        head = weight[:num_real].to(hidden.dtype)
        # The head's gradient is summed in the head's own dtype: float32 under autocast; bfloat16 where FSDP2 has
        # gathered it so, and then a product adds to it with float32 inside and rounds once a chunk.
        grad_hidden = torch.empty_like(hidden) if needs_gradient else None
        grad_weight = torch.zeros_like(weight) if needs_gradient else None
        scale = 1.0 / max(1, len(hidden))
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            h, label = hidden[part], labels[part, None]
            logits = h @ head.t()
            log_p = F.log_softmax(logits, dim=-1, dtype=torch.float32)
            nll[part] = -log_p.gather(1, label)[:, 0]
            if grad_hidden is not None and grad_weight is not None:
                grad = log_p.exp_()
                grad.scatter_add_(1, label, torch.full_like(label, -1, dtype=grad.dtype))
                torch.mul(grad, scale, out=logits)  # scaled and rounded in one pass, into memory that is there
                torch.mm(logits, head, out=grad_hidden[part])
                real = grad_weight[:num_real]
                if real.dtype == h.dtype:
                    real.addmm_(logits.t(), h)
                else:
                    real += logits.t() @ h
        ctx.gradients = (grad_hidden, grad_weight)  # not saved tensors: the backward pass scales them where they are
        ctx.mark_non_differentiable(nll)
        return nll.sum() * scale, nll

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor, _: torch.Tensor) -> tuple[Any, ...]:
        assert ctx.gradients is not None, "a second backward pass through one loss"
        grad_hidden, grad_weight = ctx.gradients
        ctx.gradients = None
        return grad_hidden.mul_(grad_loss), grad_weight.mul_(grad_loss), None, None, None, None


def linear_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, *, num_real: int, chunk: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean loss, per-token loss without gradient), in nats, of predicting labels from hidden @ weight.T.

    hidden: (N, D), the dtype of the products; weight: (V, D), also float32 beside bfloat16; labels: (N,), int64,
    0..num_real-1. num_real: rows of the head that stand for a token; the rest only pads the matrix and gets no
    probability. chunk: tokens whose logits are held at a time. Held until the backward pass: the gradients of hidden
    and weight, which it hands over; it can run once.
    """
    return _LinearCrossEntropy.apply(hidden, weight, labels, num_real, chunk, torch.is_grad_enabled())
