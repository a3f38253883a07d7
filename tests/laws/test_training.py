"""Laws of local training: what moves, what must not, and by how much."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedprune import training
from fedprune.models import build
from fedprune.training import Outcome, train
from fedprune.training.losses import plain_loss
from fedprune.training.optimisers import plain_sgd
from fedprune.types import Local, Loss, Masks, Now, Optimiser, Sgd

torch.set_num_threads(1)

Batch = tuple[np.ndarray, np.ndarray]


def small_net() -> nn.Module:
    """Convolution, batch norm, dropout at 0, linear: weights of 1, 2 and 4 dimensions."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.BatchNorm2d(3), nn.Flatten(),
        nn.Linear(27, 5),
    )  # fmt: skip


def batches(number: int = 4, size: int = 6, seed: int = 0) -> list[Batch]:
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=(size, 1, 6, 6)).astype(np.float32), rng.integers(0, 5, size)) for _ in range(number)]


def penalised(penalty: Callable[[training.Named], torch.Tensor]) -> Loss:
    """Cross-entropy and a penalty of the parameters."""
    return lambda net, params, *rest: plain_loss(net, params, *rest) + penalty(params)


def after(look: Callable[[training.Named, training.Named], object]) -> Optimiser:
    """Plain SGD, and then ``look(what is trained, its gradients)``."""
    plain = plain_sgd()

    def update(trained: training.Named, grads: training.Named, state: dict[str, Any], now: Now) -> None:
        plain.update(trained, grads, state, now)
        look(trained, grads)

    return Optimiser(plain.init, update)


def masks_for(net: nn.Module, density: float = 0.4) -> Masks:
    rng = np.random.default_rng(3)
    found = {n: rng.random(tuple(p.shape)) < density for n, p in net.named_parameters() if p.ndim > 1}
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name in found:
                parameter[torch.from_numpy(~found[name])] = 0
    return found


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().copy()


def unchanged(net: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


# against torch


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("settings", [Sgd(0.1), Sgd(0.05, 0.0), Sgd(0.1, 0.8, 0.05)])
def test_training_is_torchs_sgd_with_decay_on_weights_alone(masked: bool, settings: Sgd) -> None:
    mine, theirs = small_net(), small_net()
    masks, _ = (masks_for(mine), masks_for(theirs)) if masked else ({}, None)
    train(mine, batches(), settings, masks)

    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in theirs.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    sgd = torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    theirs.train()
    for inputs, labels in batches():
        sgd.zero_grad()
        nn.functional.cross_entropy(theirs(torch.from_numpy(inputs)), torch.from_numpy(labels)).backward()
        for name, parameter in theirs.named_parameters():
            if name in masks:
                parameter.grad *= torch.from_numpy(masks[name])
        sgd.step()

    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_two_steps_worked_by_hand() -> None:
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.zero_()
        net.bias.zero_()
    batch = (np.array([[1.0, 2.0]], np.float32), np.array([0]))
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    outcome = train(
        net,
        [batch, batch],
        Sgd(learning_rate=0.1, momentum=0.5, weight_decay=1.0),
        local=Local(optimiser=after(lambda p, _: seen.append((array(p["weight"]), array(p["bias"]))))),
    )

    # step 1: p = (1/2, 1/2), g = (p − y) xᵀ; no decay of zeros
    np.testing.assert_allclose(seen[0][0], [[0.05, 0.1], [-0.05, -0.1]], rtol=1e-6)
    np.testing.assert_allclose(seen[0][1], [0.05, -0.05], rtol=1e-6)
    # step 2: logits ±0.3, p₀ = 1/(1 + e^−0.6); the bias knows no decay
    g = 1 - 1 / (1 + math.exp(-0.6))
    velocity = 0.5 * np.array([-0.5, -1.0]) + np.array([-g, -2 * g]) + np.array([0.05, 0.1])
    np.testing.assert_allclose(seen[1][0], [[0.05, 0.1] - 0.1 * velocity, -(np.array([0.05, 0.1]) - 0.1 * velocity)])
    bias = 0.05 - 0.1 * (0.5 * -0.5 - g)
    np.testing.assert_allclose(seen[1][1], [bias, -bias], rtol=1e-6)
    assert outcome == Outcome(pytest.approx(math.log(2) + math.log(1 + math.exp(-0.6)), rel=1e-6), {"correct": 2}, 2)


# masks


UNRULY = Local(
    loss=penalised(lambda params: sum(p.abs().sum() + p.sum() for p in params.values())),  # type: ignore[arg-type,return-value]
    optimiser=after(lambda params, grads: [tensor.sub_(grads[name] + 1) for name, tensor in params.items()]),
)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("local", [Local(), UNRULY, UNRULY._replace(optimiser=None)])
def test_pruned_weights_are_exactly_0_after_every_step(memory_format: torch.memory_format, local: Local) -> None:
    net = small_net().to(memory_format=memory_format)  # type: ignore[call-overload]
    masks, steps = masks_for(net), []

    def look(*_: object) -> None:
        steps.append(1)
        for name, mask in masks.items():
            pruned = array(net.get_parameter(name))[~mask]
            assert pruned.tobytes() == bytes(4 * pruned.size)  # +0, not −0

    start = state(net)
    hook = net.register_forward_pre_hook(look)
    train(net, batches(), Sgd(0.5, 0.9, 0.1), masks, local=local)
    hook.remove()
    look()
    assert len(steps) == 5
    for name, mask in masks.items():  # and what is kept moved
        assert (net.state_dict()[name].numpy()[mask] != start[name].numpy()[mask]).all()


def test_layers_without_a_mask_train_dense() -> None:
    net = small_net()
    masks = {"0.weight": masks_for(net)["0.weight"]}
    before = state(net)
    train(net, batches(), Sgd(0.1), masks)
    assert (net.state_dict()["6.weight"] != before["6.weight"]).any()
    assert not net.state_dict()["0.weight"].numpy()[~masks["0.weight"]].any()


# the openings


def test_a_squared_penalty_is_weight_decay() -> None:
    plain, other = small_net(), small_net()
    train(plain, batches(), Sgd(0.1, 0.9, 0.02))
    loss = penalised(lambda params: 0.01 * sum((p**2).sum() for p in params.values() if p.ndim > 1))  # type: ignore[return-value]
    train(other, batches(), Sgd(0.1, 0.9), local=Local(loss=loss))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_the_reported_loss_leaves_the_penalty_out() -> None:
    outcome = train(small_net(), batches(1), Sgd(0.1))
    loss = penalised(lambda params: 100 * params["0.weight"].abs().sum())
    assert train(small_net(), batches(1), Sgd(0.1), local=Local(loss=loss)) == outcome


def test_an_optimiser_may_freeze() -> None:
    net, calls = small_net(), []
    before = state(net)

    def freeze(trained: training.Named, grads: training.Named, state: dict[str, Any], now: Now) -> None:
        assert list(trained) == list(grads) == [name for name, _ in net.named_parameters()]
        assert all(trained[name].shape == grad.shape for name, grad in grads.items())
        assert (now.round, now.sgd) == (3, Sgd(0.1))
        calls.append((now.step, sum(float(grad.abs().sum()) for grad in grads.values())))

    train(net, batches(), Sgd(0.1), local=Local(optimiser=Optimiser(lambda trained: {}, freeze)), round=3)
    assert [step for step, _ in calls] == [0, 1, 2, 3]
    assert min(size for _, size in calls) > 0
    assert all(torch.equal(parameter, before[name]) for name, parameter in net.named_parameters())


def test_an_optimiser_may_set_parameters() -> None:
    net = small_net()
    train(net, batches(), Sgd(0.1), local=Local(optimiser=after(lambda params, _: params["6.bias"].fill_(7.0))))
    assert (net.state_dict()["6.bias"] == 7).all()


def test_no_batches_train_nothing() -> None:
    net = small_net()
    before = state(net)
    assert train(net, [], Sgd(0.1)) == Outcome(0.0, {"correct": 0}, 0)
    assert training.evaluate(net, []) == Outcome(0.0, {"correct": 0}, 0)
    assert unchanged(net, before)


# outcomes and evaluation


def test_outcomes_are_sums_over_examples_of_unequal_batches() -> None:
    net, given = small_net().eval(), [*batches(1, 7), *batches(2, 3, seed=1)]
    before = state(net)
    outcome, logits = training.evaluate(net, given), training.predict(net, given)
    labels = np.concatenate([labels for _, labels in given])
    shifted = logits - logits.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(13), labels]
    assert logits.dtype == np.float32
    assert outcome.loss == pytest.approx(losses.sum(), rel=1e-5)
    assert (outcome.correct, outcome.examples) == (int((logits.argmax(1) == labels).sum()), 13)
    assert unchanged(net, before)
    assert not net.training


def test_a_still_model_trains_with_the_loss_that_evaluation_gives() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 5))
    given = [*batches(1, 7), *batches(2, 3, seed=1)]
    trained, evaluated = train(net, given, Sgd(1e-30)), training.evaluate(net, given)
    assert trained.loss == pytest.approx(evaluated.loss, rel=1e-6)
    assert trained[1:] == evaluated[1:]


def test_training_is_deterministic_and_leaves_its_inputs() -> None:
    one, other, given = small_net(), small_net(), batches()
    masks = masks_for(one)
    masks_for(other)
    copies = copy.deepcopy((given, masks))
    results = [train(net, given, Sgd(0.1, 0.9, 0.01), masks) for net in (one, other)]
    assert results[0] == results[1]
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert all(
        np.array_equal(a, b) for new, old in zip(given, copies[0], strict=True) for a, b in zip(new, old, strict=True)
    )
    assert all(np.array_equal(mask, copies[1][name]) for name, mask in masks.items())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_state_returns(memory_format: torch.memory_format) -> None:
    net, other = build("digits_cnn", (1, 8, 8), 10), build("digits_cnn", (1, 8, 8), 10, seed=1)
    net = net.to(memory_format=memory_format)  # type: ignore[call-overload]
    given = training.state_of(net)
    training.load_state(other, given)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())
    assert all(value.flags.c_contiguous for value in given.values())
    given["head.2.weight" if "head.2.weight" in given else next(iter(given))][:] = 9  # type: ignore[index]
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())  # copies
    with pytest.raises(RuntimeError):
        training.load_state(other, dict(list(given.items())[1:]))


@pytest.mark.parametrize(("count", "size"), [(0, 4), (1, 4), (4, 4), (5, 4), (13, 4), (13, 1), (13, 100)])
def test_batches_are_nearly_equal_and_hold_each_example_once(count: int, size: int) -> None:
    order = np.random.default_rng(0).permutation(count)
    labels = np.arange(count) * 10
    found = list(training.in_batches(lambda part: part.astype(np.float32), labels, order, size))
    lengths = [len(part) for _, part in found]
    assert len(found) == math.ceil(count / size)
    assert not lengths or (max(lengths) <= size and max(lengths) - min(lengths) <= 1)
    assert [int(i) for inputs, _ in found for i in inputs] == order.tolist()
    assert all(np.array_equal(labels_, inputs.astype(int) * 10) for inputs, labels_ in found)


def flat_net() -> nn.Module:
    """Batch norm over the examples alone, so that one example has no spread."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.BatchNorm1d(4), nn.Linear(4, 5))


def test_a_batch_of_one_goes_by_running_statistics_and_the_next_by_its_own() -> None:
    one, more, plain = batches(1, 1), batches(1, 6, seed=1), Sgd(0.1, momentum=0.0)
    alone, both = flat_net(), flat_net()
    statistics = {name: value.clone() for name, value in alone.named_buffers()}
    weight = alone[1].weight.detach().clone()
    train(alone, one, plain)
    assert all(torch.equal(value, statistics[name]) for name, value in alone.named_buffers())
    assert not torch.equal(alone[1].weight, weight)  # it is trained all the same
    train(both, [*one, *more], plain)
    train(alone, more, plain)
    assert int(both[2].num_batches_tracked) == int(alone[2].num_batches_tracked) == 1
    for name, value in both.state_dict().items():
        assert torch.equal(value, alone.state_dict()[name]), name
