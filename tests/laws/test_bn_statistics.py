"""Laws of the batch-norm statistics that a device takes anew: whose moments they are, and what stays as it was."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from fedprune.training import evidence, train
from fedprune.types import Sgd

from .test_training import Batch, batches, small_net, state


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
    train(net, batches(2, seed=9), Sgd(0.1))  # so that no statistic is at its start
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


def test_one_example_whose_batch_has_no_spread_gives_the_statistics_that_there_were() -> None:
    """A later batch with a spread gives its own, as if it were the first."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.BatchNorm1d(4), nn.ReLU())
    train(nn.Sequential(net, nn.Linear(4, 5)), batches(2, seed=9), Sgd(0.1))
    mean, variance = net[2].running_mean.numpy().copy(), net[2].running_var.numpy().copy()

    alone = evidence.bn_statistics(net, batches(1, 1))["2"]
    assert (alone.mean.tolist(), alone.variance.tolist(), alone.examples) == (mean.tolist(), variance.tolist(), 1)

    more = batches(1, 6, seed=1)
    assert np.array_equal(evidence.bn_statistics(net, [*batches(1, 1), *more])["2"].mean, _mean_of(net, more))


def _mean_of(net: nn.Module, given: list[Batch]) -> np.ndarray:
    return evidence.bn_statistics(copy.deepcopy(net), given)["2"].mean
