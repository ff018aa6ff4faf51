"""Linear layers in oneDNN's layout say the same as torch's, and keep their names."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from components.shared.packed_linear import PackedLinear, linear_gelu, pack_linears


@pytest.fixture
def layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40), nn.Sequential(nn.Linear(40, 24, bias=False), nn.LayerNorm(24)))


@pytest.mark.parametrize("shape", [(24,), (1, 24), (3, 5, 24), (2, 1025, 24), (0, 24)])
def test_packed_layers_say_what_plain_ones_say(layers: nn.Module, shape: tuple[int, ...]) -> None:
    states = torch.randn(shape)
    with torch.no_grad():
        wanted, rounded = layers(states), functional.gelu(layers[0](states))
        pack_linears(layers)
        assert isinstance(layers[0], PackedLinear) and isinstance(layers[1][0], PackedLinear)
        torch.testing.assert_close(layers(states), wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(linear_gelu(layers[0], states), rounded, atol=1e-5, rtol=1e-5)


def test_names_of_weights_stay_and_gradients_flow(layers: nn.Module) -> None:
    before = {name: value.clone() for name, value in layers.state_dict().items()}
    pack_linears(layers)
    after = layers.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    layers(torch.randn(3, 24)).sum().backward()
    assert layers[0].weight.grad is not None and float(layers[0].weight.grad.abs().sum()) > 0


def test_a_moved_or_copied_module_computes_with_the_weights_it_then_has(layers: nn.Module) -> None:
    pack_linears(layers)
    states = torch.randn(4, 24)
    with torch.no_grad():
        before = layers(states)
        copied = copy.deepcopy(layers)
        torch.testing.assert_close(copied(states), before)
        assert layers.to("meta")(states.to("meta")).device.type == "meta"
        rounded = copied.to(torch.bfloat16).to(torch.float32)
        wanted = functional.linear(states, rounded[0].weight, rounded[0].bias)
        torch.testing.assert_close(rounded[0](states), wanted, atol=1e-5, rtol=1e-5)
        assert not torch.equal(rounded(states), before)


def test_another_dtype_stays_as_it_is(layers: nn.Module) -> None:
    layers = layers.to(torch.bfloat16)
    pack_linears(layers)
    assert type(layers[0]) is nn.Linear
    with torch.no_grad():
        assert linear_gelu(layers[0], torch.randn(2, 24, dtype=torch.bfloat16)).dtype is torch.bfloat16
