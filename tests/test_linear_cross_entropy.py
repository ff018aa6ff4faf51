"""The loss of a linear head: right in value and gradient, without the logits of all tokens at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from components.shared.linear_cross_entropy import linear_cross_entropy
from tests.live_bytes import LiveBytes


def peak_bytes(num_tokens: int, num_rows: int, width: int, chunk: int) -> int:
    """Of the loss and its backward pass, without its inputs and without the head's gradient."""
    hidden = torch.randn(num_tokens, width, requires_grad=True)
    weight = torch.randn(num_rows, width, requires_grad=True)
    labels = torch.randint(0, num_rows, (num_tokens,))
    with LiveBytes() as live:
        loss, _ = linear_cross_entropy(hidden, weight, labels, num_real=num_rows, chunk=chunk)
        loss.backward()
    assert weight.grad is not None
    return live.peak - weight.grad.nbytes


@pytest.mark.parametrize(("hidden_type", "weight_type", "atol"), [
    (torch.float32, torch.float32, 1e-6),
    (torch.bfloat16, torch.float32, 1e-2),
    (torch.bfloat16, torch.bfloat16, 2e-2),
])  # fmt: skip
def test_chunked_loss_and_gradients_equal_the_plain_ones(hidden_type, weight_type, atol) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(37, 16).to(hidden_type), torch.randn(50, 16).to(weight_type)
    labels = torch.randint(0, 45, (37,))
    grads = []
    for chunked in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if chunked:
            loss, nll = linear_cross_entropy(h, w, labels, num_real=45, chunk=8)
            assert nll.shape == (37,) and not nll.requires_grad
        else:
            loss = F.cross_entropy(h.float() @ w.float()[:45].t(), labels)
        (3 * loss).backward()
        assert h.grad is not None and h.grad.dtype == hidden_type
        assert w.grad is not None and w.grad.dtype == weight_type
        grads.append((loss.detach(), h.grad.float(), w.grad.float()))
    for ours, plain in zip(*grads, strict=True):
        torch.testing.assert_close(ours, plain, atol=atol, rtol=atol)
    assert not grads[0][2][45:].any()  # rows that pad the matrix learn nothing


def test_a_batch_without_a_label_costs_nothing_and_teaches_nothing() -> None:
    hidden, weight = torch.randn(0, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    loss, nll = linear_cross_entropy(hidden, weight, torch.empty(0, dtype=torch.int64), num_real=9, chunk=4)
    loss.backward()
    assert float(loss.detach()) == 0 and len(nll) == 0 and weight.grad is not None and not weight.grad.any()


def test_only_a_chunk_of_logits_is_ever_held() -> None:
    width, chunk = 8, 32
    small, wide = (peak_bytes(512, rows, width, chunk) for rows in (500, 4000))
    per_logit = (wide - small) / (chunk * 3500)
    assert per_logit < 13  # logits and their gradient in float32, and a float32 temporary of the head's gradient
    long = peak_bytes(8 * 512, 500, width, chunk)
    assert long - small < 7 * 512 * (2 * width * 4 + 16)  # what grows with the tokens is as wide as a hidden state
