"""Laws of local training and of the evidence that needs a model: what moves, what must not, and by how much."""

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from fedprune import training
from fedprune.models import build
from fedprune.training import Optimiser, Outcome, evidence, train
from fedprune.types import Masks

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


def unchanged(net: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


# against torch


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("optimiser", [Optimiser(0.1), Optimiser(0.05, 0.0), Optimiser(0.1, 0.8, 0.05)])
def test_training_is_torchs_sgd_with_decay_on_weights_alone(masked: bool, optimiser: Optimiser) -> None:
    mine, theirs = small_net(), small_net()
    masks, _ = (masks_for(mine), masks_for(theirs)) if masked else ({}, None)
    train(mine, batches(), optimiser, masks)

    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": optimiser.weight_decay},
        {"params": [p for p in theirs.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    sgd = torch.optim.SGD(groups, lr=optimiser.learning_rate, momentum=optimiser.momentum)
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
        Optimiser(learning_rate=0.1, momentum=0.5, weight_decay=1.0),
        after_step=lambda p: seen.append((p["weight"].detach().numpy().copy(), p["bias"].detach().numpy().copy())),
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
    assert outcome == Outcome(pytest.approx(math.log(2) + math.log(1 + math.exp(-0.6)), rel=1e-6), 2, 2)


# masks


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pruned_weights_are_exactly_0_after_every_step(memory_format: torch.memory_format) -> None:
    net = small_net().to(memory_format=memory_format)  # type: ignore[call-overload]
    masks, steps = masks_for(net), []

    def look(params: training.Named) -> None:
        steps.append(1)
        for name, mask in masks.items():
            pruned = params[name].detach().numpy()[~mask]
            assert pruned.tobytes() == bytes(4 * pruned.size)  # +0, not −0

    start = state(net)
    train(
        net,
        batches(),
        Optimiser(0.5, 0.9, 0.1),
        masks,
        penalty=lambda params: sum(p.abs().sum() + p.sum() for p in params.values()),
        after_backward=lambda params, grads: [grad.add_(1.0) for grad in grads.values()],
        after_step=look,
    )
    assert len(steps) == 4
    for name, mask in masks.items():  # and what is kept moved
        assert (net.state_dict()[name].numpy()[mask] != start[name].numpy()[mask]).all()


def test_layers_without_a_mask_train_dense() -> None:
    net = small_net()
    masks = {"0.weight": masks_for(net)["0.weight"]}
    before = state(net)
    train(net, batches(), Optimiser(0.1), masks)
    assert (net.state_dict()["6.weight"] != before["6.weight"]).any()
    assert not net.state_dict()["0.weight"].numpy()[~masks["0.weight"]].any()


# the three openings


def test_a_squared_penalty_is_weight_decay() -> None:
    plain, penalised = small_net(), small_net()
    train(plain, batches(), Optimiser(0.1, 0.9, 0.02))
    train(
        penalised,
        batches(),
        Optimiser(0.1, 0.9),
        penalty=lambda params: 0.01 * sum((p**2).sum() for p in params.values() if p.ndim > 1),
    )
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(penalised.state_dict()[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_the_reported_loss_leaves_the_penalty_out() -> None:
    outcome = train(small_net(), batches(1), Optimiser(0.1))
    with_penalty = train(small_net(), batches(1), Optimiser(0.1), penalty=lambda p: 100 * p["0.weight"].abs().sum())
    assert with_penalty == outcome


def test_after_backward_decides_the_gradients() -> None:
    net, calls = small_net(), []
    before = state(net)

    def freeze(params: training.Named, grads: training.Named) -> None:
        assert list(params) == list(grads) == [name for name, _ in net.named_parameters()]
        assert all(params[name].shape == grad.shape for name, grad in grads.items())
        calls.append(sum(float(grad.abs().sum()) for grad in grads.values()))
        for grad in grads.values():
            grad.zero_()

    train(net, batches(), Optimiser(0.1), after_backward=freeze)
    assert len(calls) == 4
    assert min(calls) > 0
    assert all(torch.equal(parameter, before[name]) for name, parameter in net.named_parameters())


def test_after_step_may_change_parameters() -> None:
    net = small_net()
    train(net, batches(), Optimiser(0.1), after_step=lambda params: params["6.bias"].fill_(7.0))
    assert (net.state_dict()["6.bias"] == 7).all()


def test_no_batches_train_nothing() -> None:
    net = small_net()
    before = state(net)
    assert train(net, [], Optimiser(0.1)) == Outcome(0.0, 0, 0)
    assert training.evaluate(net, []) == Outcome(0.0, 0, 0)
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
    trained, evaluated = train(net, given, Optimiser(1e-30)), training.evaluate(net, given)
    assert trained.loss == pytest.approx(evaluated.loss, rel=1e-6)
    assert trained[1:] == evaluated[1:]


def test_training_is_deterministic_and_leaves_its_inputs() -> None:
    one, other, given = small_net(), small_net(), batches()
    masks = masks_for(one)
    masks_for(other)
    copies = copy.deepcopy((given, masks))
    results = [train(net, given, Optimiser(0.1, 0.9, 0.01), masks) for net in (one, other)]
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


# batch-norm statistics


def moments_of_inputs(net: nn.Module, layer: nn.Module, given: list[Batch]) -> tuple[np.ndarray, np.ndarray]:
    """Mean over batches of the mean and the unbiased variance of what reaches ``layer``, batch norms as in training."""
    caught: list[np.ndarray] = []
    hook = layer.register_forward_pre_hook(lambda _, args: caught.append(args[0].numpy()))
    with torch.no_grad():
        for inputs, _ in given:
            net(torch.from_numpy(inputs))
    hook.remove()
    axes = (0, 2, 3)
    return np.mean([x.mean(axes) for x in caught], axis=0), np.mean([x.var(axes, ddof=1) for x in caught], axis=0)


def test_statistics_are_the_moments_of_each_layers_inputs() -> None:
    net, given = small_net(), batches(3)
    train(net, batches(2, seed=9), Optimiser(0.1))  # so that no statistic is at its start
    reference = copy.deepcopy(net).train()
    before = state(net)

    found = evidence.bn_statistics(net, given)

    assert evidence.statistics_names(net) == tuple(found) == ("1", "4")
    for name, moments in found.items():
        mean, variance = moments_of_inputs(reference, reference.get_submodule(name), given)
        np.testing.assert_allclose(moments.mean, mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(moments.variance, variance, rtol=1e-4, atol=1e-6)
        assert moments.examples == 18
        np.testing.assert_array_equal(net.get_submodule(name).running_mean, moments.mean)
        np.testing.assert_array_equal(net.get_submodule(name).running_var, moments.variance)
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {
        f"{layer}.{kind}" for layer in ("1", "4") for kind in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_the_first_layers_mean_is_that_of_all_examples_together() -> None:
    net, given = small_net(), batches(3)
    together = np.concatenate([inputs for inputs, _ in given])
    with torch.no_grad():
        reaching = net[0](torch.from_numpy(together)).numpy()
    found = evidence.bn_statistics(net, given)["1"]
    np.testing.assert_allclose(found.mean, reaching.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)


def test_statistics_do_not_depend_on_earlier_ones_and_training_goes_on_as_before() -> None:
    net = small_net()
    first = evidence.bn_statistics(net, batches(2))
    evidence.bn_statistics(net, batches(2, seed=5))
    again = evidence.bn_statistics(net, batches(2))
    assert all(np.array_equal(first[name].mean, again[name].mean) for name in first)
    assert not any(module.training for module in net.modules())
    assert [net[i].momentum for i in (1, 4)] == [0.1, 0.1]


@pytest.mark.parametrize("make", [lambda: nn.BatchNorm2d(2, track_running_stats=False), nn.Identity])
def test_layers_without_running_statistics_are_left_out(make: Callable[[], nn.Module]) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), make())
    assert evidence.statistics_names(net) == ()
    assert evidence.bn_statistics(net, batches(1)) == {}
