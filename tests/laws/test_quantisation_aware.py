"""Quantisation-aware training computes what the int8 file computes, and changes nothing but what is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedprune import graph as graphs
from fedprune import training
from fedprune.export import litert
from fedprune.export.litert.numbers import Integers
from fedprune.training.lean import PLAIN, Lean, SubModel
from fedprune.training.quantised import on_grid, on_weight_grid, quantisation_aware, quantised
from fedprune.types import Local, Masks, Params, Sgd

ROWS = st.tuples(st.integers(1, 5), st.integers(1, 6), st.sampled_from([(), (1,), (3,), (3, 3)]))


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    block = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        block,
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, 3),
    )


def batches(count: int = 4, size: int = 12, seed: int = 1) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((size, 2, 10, 10)).astype(np.float32), rng.integers(0, 3, size)) for _ in range(count)]


def masks_of(model: nn.Module, density: float = 0.3, seed: int = 2) -> Masks:
    rng = np.random.default_rng(seed)
    return {name: rng.random(model.get_parameter(name).shape) < density for name in ("1.0.weight", "3.weight")}


def trained(aware: bool, lean: Lean = PLAIN, inner: bool = False, pruned: bool = True) -> Params:
    model = net()
    masks = masks_of(model) if pruned else {}
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name)[torch.from_numpy(~mask)] = 0
    few = {name: mask & (np.arange(mask.size).reshape(mask.shape) % 2 == 0) for name, mask in masks.items()}
    smaller = [SubModel(few, {name: value.clone() for name, value in model.named_buffers()})] if inner else []
    training.train(
        model, batches(), Sgd(0.05, weight_decay=1e-3), masks, lean=lean, inner=smaller,
        turn=(lambda step: step % 2) if inner else None, local=quantisation_aware(Local()) if aware else Local(),
    )  # fmt: skip
    return training.state_of(model)


def same(one: Params, other: Params) -> bool:
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


@given(rows=ROWS, seed=st.integers(0, 99), scale=st.floats(-12, 6))
def test_weights_are_rounded_as_the_exporter_rounds_them(
    rows: tuple[int, int, tuple[int, ...]], seed: int, scale: float
) -> None:
    shape = (*rows[:2], *rows[2])
    weight = (np.random.default_rng(seed).standard_normal(shape) * 2.0**scale).astype(np.float32)
    # an output so fine that no row is too small to move it, for which the exporter has a scale of its own
    grids = {"from": litert.Affine(0.01, 3), "to": litert.Affine(1e-6, -7)}
    bias = np.zeros(len(weight), np.float32)
    file = Integers(grids).constants(weight, bias, 0, "from", "to").weight
    assert file.data is not None
    assert file.scales is not None
    expected = file.data * file.scales.reshape(-1, *[1] * (weight.ndim - 1)).astype(np.float32)
    found = on_weight_grid(torch.from_numpy(weight)).numpy()
    assert found.tobytes() == expected.astype(np.float32).tobytes()


@given(rows=ROWS, seed=st.integers(0, 99))
def test_a_factor_for_each_row_such_as_a_batch_norms_may_come_before_or_after_rounding(
    rows: tuple[int, int, tuple[int, ...]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(rng.standard_normal((*rows[:2], *rows[2])).astype(np.float32))
    # powers of two, so that the factor itself rounds nothing; a batch norm's sign may be negative
    factor = torch.from_numpy(np.exp2(rng.integers(-6, 6, len(weight))) * rng.choice([-1, 1], len(weight))).float()
    factor = factor.reshape(-1, *[1] * (weight.ndim - 1))
    assert torch.equal(on_weight_grid(weight * factor), on_weight_grid(weight) * factor)


def test_a_row_that_pruning_has_emptied_stays_empty() -> None:
    weight = torch.randn(4, 3, 3, 3)
    weight[1] = 0
    assert not on_weight_grid(weight)[1].any()
    assert torch.isfinite(on_weight_grid(weight)).all()


@given(
    values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20),
    low=st.floats(-1e4, 0),
    high=st.floats(0, 1e4),
)
def test_activations_are_rounded_as_the_runtime_rounds_them(values: list[float], low: float, high: float) -> None:
    given_values = np.array(values, np.float32)
    grid = litert.quantise.affine(low, high)
    expected = litert.to_float(litert.to_int8(given_values, grid), grid)
    assert np.array_equal(on_grid(torch.from_numpy(given_values), low, high).numpy(), expected)


def test_what_the_model_computes_is_what_its_file_computes() -> None:
    model = net()
    training.train(model, batches(6), Sgd(0.05))
    model.eval()
    inputs = np.concatenate([some for some, _ in batches(40, seed=5)])
    graph = graphs.inference(graphs.trace(model, inputs))
    file = litert.write_int8(graph, litert.calibrate(graph, inputs))
    grid = litert.quantisation(file).output.grid
    assert grid is not None
    expected = litert.to_int8(litert.run(file, inputs, reference=True), grid).astype(int)

    def steps_off() -> float:
        with torch.no_grad():
            found = model(torch.from_numpy(inputs)).numpy()
        return float(np.abs(litert.to_int8(found, grid) - expected).mean())

    plain = steps_off()
    with quantised(model):
        assert steps_off() < 0.75 * plain
    assert steps_off() == plain


def test_training_moves_full_precision_weights_and_leaves_pruned_ones_at_zero() -> None:
    aware, plain = trained(True), trained(False)
    assert not same(aware, plain)
    for name, mask in masks_of(net()).items():
        assert not aware[name][~mask].any()
        weight = torch.from_numpy(aware[name])
        assert not torch.equal(on_weight_grid(weight), weight)
    for name, value in aware.items():
        np.testing.assert_allclose(value, plain[name], atol=0.05, err_msg=name)  # the gradients are hardly others


def test_what_a_method_does_around_training_is_rounded_too() -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    @contextmanager
    def halved(model: nn.Module) -> Iterator[None]:
        layer = model[1]
        forward = layer.forward

        def put(inputs: torch.Tensor) -> torch.Tensor:
            vars(layer)["weight"] = 0.5 * layer._parameters["weight"]
            result = forward(inputs)
            seen.append((vars(layer).pop("weight").detach(), result.detach()))
            return result

        vars(layer)["forward"] = put
        yield
        vars(layer)["forward"] = forward

    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False))
    inputs = np.array([[[1.27, 0.5, 0.11]]], np.float32)
    local = quantisation_aware(Local(around=halved))
    training.train(model, [(inputs, np.array([0]))], Sgd(0.1), local=local)
    [(weight, result)] = seen
    expected = on_grid(torch.from_numpy(inputs[:, 0]), 0, 1.27) @ on_weight_grid(weight).T
    torch.testing.assert_close(result, expected)
    assert "forward" not in vars(model[1])


def test_it_is_the_same_bit_for_bit() -> None:
    assert same(trained(True), trained(True))
    assert same(trained(True, inner=True), trained(True, inner=True))


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("lean", [Lean(sparse=True), Lean(recompute=True), Lean(sparse=True, recompute=True)])
def test_lean_training_ends_in_the_same_bits(lean: Lean, inner: bool) -> None:
    assert same(trained(True, lean, inner), trained(True, inner=inner))


def test_micro_batches_train_too() -> None:
    some, whole = trained(True, Lean(micro_batch=4), pruned=False), trained(True, pruned=False)
    assert all(np.isfinite(value).all() for value in some.values())
    assert not same(some, trained(False, Lean(micro_batch=4), pruned=False))
    np.testing.assert_allclose(some["0.0.weight"], whole["0.0.weight"], atol=0.05)


def test_the_gradient_passes_straight_through() -> None:
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.27, 0.333, -0.501], [0.127, 0.0, 0.01249]]))  # steps of 0.01 and 0.001
    inputs = torch.tensor([[2.55, 1.004, 0.0]], requires_grad=True)  # steps of 0.01
    with quantised(model):
        model(inputs).sum().backward()
    rounded = torch.tensor([[1.27, 0.33, -0.5], [0.127, 0.0, 0.012]])
    assert inputs.grad is not None
    torch.testing.assert_close(inputs.grad, rounded.sum(0, keepdim=True))
    torch.testing.assert_close(model[0].weight.grad, torch.tensor([[2.55, 1.0, 0.0]] * 2))


def test_a_range_grows_with_each_batch() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    nn.init.ones_(model[0].weight)
    value = torch.tensor([[0.3]])
    with torch.no_grad(), quantised(model):
        torch.testing.assert_close(model(value), value)  # the end of its own range
        model(torch.tensor([[255.0]]))
        assert model(value).item() == 0.0  # steps of 1 by now
    with torch.no_grad(), quantised(model):
        torch.testing.assert_close(model(value), value)  # the next context begins anew


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_has_diverged_says_so_itself(value: float) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad(), quantised(model):
        assert not torch.isfinite(model(torch.tensor([[value, 1.0]]))).any()
        assert torch.isfinite(model(torch.tensor([[2.0, 1.0]]))).all()  # and spoils no range


def everything(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for path, module in model.named_modules():
        yield from ((f"{path} {key}", value) for key, value in vars(module).items())


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails: bool) -> None:
    model = net()
    before = dict(everything(model))

    def broken(step: int) -> None:
        if fails:
            raise RuntimeError("the step fails")

    local = quantisation_aware(Local())
    with pytest.raises(RuntimeError, match="the step fails") if fails else nullcontext():
        training.train(model, batches(1), Sgd(0.01), lean=Lean(recompute=True), local=local, before_step=broken)
    after = dict(everything(model))
    assert after.keys() == before.keys()
    assert all(after[key] is before[key] for key in after if not key.endswith(" training"))


def test_only_layers_with_a_grid_of_weights_are_touched() -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    with quantised(model):
        assert ["forward" in vars(layer) for layer in model] == [True, False, False, False, True]
