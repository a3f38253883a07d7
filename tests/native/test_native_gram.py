"""Gram matrices and moments of what layers read, beside torch's in float64 sums."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from natively import batch_of, masked
from test_gradients import NETS, convolutions
from torch import nn

from fedprune import training
from fedprune.graph import trace
from fedprune.native import library
from fedprune.training import gram, native, native_gram
from fedprune.training.input_moments import input_moments
from fedprune.training.native_input_moments import input_moments as natively_moved
from fedprune.types import Tensor

pytestmark = pytest.mark.skipif(library.library() is None, reason="the compiled trainer is not installed")
_CLOSE = 1e-5


def layers_of(model: nn.Module) -> list[str]:
    kinds = nn.Linear | nn.Conv1d | nn.Conv2d
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}
    return [f"{name}.weight" for name, layer in layers.items() if getattr(layer, "groups", 1) == 1]


def natively(model: nn.Module, inputs: Tensor, examples: int) -> Mapping[str, tuple[Tensor, int]]:
    own = native.Model(trace(model, inputs, dropout=True), training.state_of(model))
    batches = [(inputs[first : first + examples], np.zeros(0)) for first in range(0, len(inputs), examples)]
    return native_gram.gram(own, batches, layers_of(model), examples)


def held(model: nn.Module, inputs: Tensor, examples: int) -> None:
    with torch.no_grad():
        model.train()(torch.from_numpy(inputs))  # statistics that tell its norms apart
    found = natively(model, inputs, examples)
    right = gram.gram(model, [(inputs, np.zeros(0))], layers_of(model))
    assert found.keys() == right.keys()
    for name, (expected, rows) in right.items():
        assert found[name][0].dtype == np.float64
        assert found[name][1] == rows
        norms = np.sqrt(np.diag(expected))
        assert (np.abs(found[name][0] - expected) <= _CLOSE * np.outer(norms, norms) + 1e-9).all(), name


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("density", [0.3, 1.0])
def test_they_are_those_of_torch(name: str, density: float) -> None:
    torch.manual_seed(3)
    make, shape, classes = NETS[name]
    model = make()
    masked(model, density)
    for examples in (3, 20, 37):
        held(model, batch_of(shape, classes, 37)[0], examples)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("density", [0.3, 1.0])
def test_moments_are_those_of_torch_of_layers_with_groups_as_well(name: str, density: float) -> None:
    torch.manual_seed(3)
    make, shape, classes = NETS[name]
    model = make()
    masked(model, density)
    inputs = batch_of(shape, classes, 37)[0] + 1
    kinds = nn.Linear | nn.Conv1d | nn.Conv2d
    layers = [f"{layer}.weight" for layer, module in model.named_modules() if isinstance(module, kinds)]
    own = native.Model(trace(model, inputs, dropout=True), training.state_of(model))
    right = input_moments(model, [(inputs, np.zeros(0))], layers)
    for examples in (3, 20, 37):
        batches = [(inputs[first : first + examples], np.zeros(0)) for first in range(0, len(inputs), examples)]
        found = natively_moved(own, batches, layers, examples)
        for layer, expected in right.items():
            assert found[layer].examples == expected.examples
            scale = np.sqrt(expected.variance + expected.mean**2).max()
            np.testing.assert_allclose(found[layer].mean, expected.mean, atol=1e-5 * scale, err_msg=layer)
            np.testing.assert_allclose(found[layer].variance, expected.variance, atol=1e-5 * scale**2, err_msg=layer)


@settings(max_examples=25, deadline=None)
@given(convolutions(), st.integers(2, 19), st.integers(0, 99))
def test_of_any_convolution(net: tuple[nn.Module, tuple[int, ...]], examples: int, seed: int) -> None:
    torch.manual_seed(seed)
    model, shape = net
    held(model, batch_of(shape, 3, 19, seed)[0] + 1, examples)


def test_the_same_bits_each_time_and_nothing_is_dropped() -> None:
    torch.manual_seed(0)
    parts = nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(150, 3)
    model, inputs = nn.Sequential(*parts), batch_of((2, 5, 6), 3, 21)[0]
    one, other = (natively(model, inputs, 16) for _ in range(2))
    assert all(np.array_equal(one[name][0], other[name][0]) for name in one)
    held(model, inputs, 16)


def test_what_is_no_layer_of_one_group_is_refused() -> None:
    model, inputs = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(48, 3)), np.zeros((1, 2, 5, 6))
    own = native.Model(trace(model, inputs), training.state_of(model))
    for name in ("0.weight", "2.bias", "nothing"):
        with pytest.raises(ValueError, match="is no weight of a linear layer or of a convolution of one group"):
            native_gram.gram(own, [], [name], 8)
