"""Muon and AdamW as one optimizer."""

from __future__ import annotations

import copy

import torch

from components.shared.muon import MuonWithAdamW


def _model() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Embedding(7, 8), torch.nn.Linear(8, 12), torch.nn.Linear(12, 7))


def _optimizer(model: torch.nn.Sequential, lr: float = 1e-2) -> MuonWithAdamW:
    rest = [model[0].weight, model[1].bias, model[2].bias]
    return MuonWithAdamW([model[1].weight, model[2].weight], rest, lr=lr, weight_decay=0.1, betas=(0.9, 0.95))


def _train(model: torch.nn.Sequential, optimizer: MuonWithAdamW, stop: int, schedule=None, start=0) -> list[float]:
    losses = []
    for step in range(start, stop):
        ids = (torch.arange(14) * (step + 3)) % 7
        loss = torch.nn.functional.cross_entropy(model(ids), (ids * 3 + 1) % 7)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        losses.append(float(loss.detach()))
    return losses


def test_it_learns_and_each_half_moves_its_own_parameters():
    model = _model()
    start = copy.deepcopy(model.state_dict())
    losses = _train(model, _optimizer(model, lr=5e-2), 60)
    assert losses[-1] < 0.1 * losses[0]
    assert all(not torch.equal(value, start[name]) for name, value in model.state_dict().items())


def test_an_update_of_a_matrix_is_orthogonal_with_the_size_of_adamw():
    """The root mean square of Liu et al. 2025, section 2.2: 0.2 times the learning rate."""
    model = _model()
    before = model[1].weight.detach().clone()
    optimizer = _optimizer(model, lr=1e-2)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    _train(model, optimizer, 1)
    update = (model[1].weight.detach() - before) / 1e-2
    values = torch.linalg.svdvals(update) / (0.2 * 12**0.5)
    assert (values[:5] > 0.6).all() and (values < 1.3).all()  # seven examples of a mean give six directions


def test_one_schedule_moves_both_learning_rates():
    model = _model()
    optimizer = _optimizer(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    _train(model, optimizer, 3, schedule)
    assert {group["lr"] for group in [*optimizer.muon.param_groups, *optimizer.adamw.param_groups]} == {1e-2 / 4}


def test_a_resumed_run_ends_bit_equal():
    whole = _model()
    _train(whole, _optimizer(whole), 8)
    halves = _model()
    optimizer = _optimizer(halves)
    _train(halves, optimizer, 4)
    state = copy.deepcopy(optimizer.state_dict())
    optimizer = _optimizer(halves, lr=5.0)
    optimizer.load_state_dict(state)
    _train(halves, optimizer, 8, start=4)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, halves.state_dict()[name]), name


def test_a_kernel_is_updated_as_the_matrix_of_all_that_an_output_sees():
    torch.manual_seed(0)
    conv, linear = torch.nn.Conv1d(8, 12, 3), torch.nn.Linear(24, 12)
    linear.load_state_dict({"weight": conv.weight.detach().flatten(1), "bias": conv.bias.detach()})
    optimizers = [
        MuonWithAdamW([layer.weight], [layer.bias], lr=1e-2, weight_decay=0.1, betas=(0.9, 0.95))
        for layer in (conv, linear)
    ]
    for step in range(3):
        sound = torch.randn(4, 8, 3, generator=torch.Generator().manual_seed(step))
        for layer, seen, optimizer in zip((conv, linear), (sound, sound.flatten(1)), optimizers, strict=True):
            optimizer.zero_grad()
            (layer(seen).flatten(1).square().mean() + layer(seen).sum() / 100).backward()
            optimizer.step()
    assert torch.allclose(conv.weight.flatten(1), linear.weight, atol=1e-6)
    optimizers[0].zero_grad()
    assert conv.weight.grad is None
