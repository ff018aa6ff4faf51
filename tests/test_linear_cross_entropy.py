"""The loss of a linear head: right in value and gradient, without the logits of all tokens at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from components.shared.linear_cross_entropy import linear_cross_entropy


def test_chunked_loss_and_gradients_equal_the_plain_ones() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(37, 16), torch.randn(50, 16)
    labels = torch.randint(0, 45, (37,))
    grads = []
    for chunked in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if chunked:
            loss, nll = linear_cross_entropy(h, w, labels, num_real=45, chunk=8)
            assert nll.shape == (37,) and not nll.requires_grad
        else:
            loss = F.cross_entropy(h @ w[:45].t(), labels)
        (3 * loss).backward()
        grads.append((loss.detach(), h.grad, w.grad))
    for ours, plain in zip(*grads, strict=True):
        torch.testing.assert_close(ours, plain)
    assert not grads[0][2][45:].any()  # rows that pad the matrix learn nothing
