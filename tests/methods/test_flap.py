"""FLAP's claims: what does not vary goes without a loss, and what goes is made up for in the mean."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from central_runs import digits, lenet, load, paired
from digits_runs import experiment
from digits_runs import run as run_fleet
from test_recovered import SHAPES, channels_of, compacted, lost, size, teacher
from torch import nn

from fedprune import models, training
from fedprune.data.loading import in_order
from fedprune.methods import build
from fedprune.pruning.parts import view
from fedprune.training.input_moments import input_moments
from fedprune.types import Method, Model, Params, Tensor

SEEDS = range(8)


def flap(net: nn.Module, shape: tuple[int, ...], **given: Any) -> Method:
    return build({"name": "flap", **given}, {}, 0, channels=channels_of(net, shape))


def cut(method: Method, net: nn.Module, inputs: Tensor) -> Model:
    """With what devices would answer."""
    names = method.asks(Model({}), 0, {})["inputs"].args
    found: dict[str, Tensor] = {"examples": np.asarray(len(inputs))}
    for name, each in input_moments(net, [(inputs, np.zeros(len(inputs)))], names).items():
        found |= {f"{name}/mean": each.mean[None], f"{name}/variance": each.variance[None]}
    return method.act(method.start(training.state_of(net)), {"inputs": found}, 0)


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_removed_of_a_shipped_net_compacts_exactly_and_meets_the_budget(name: str) -> None:
    shape = SHAPES[name]
    net = models.build(name, shape, 10, seed=1).eval()
    inputs = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    model = cut(flap(net, shape, keep=0.4), net, inputs)
    matrices = {key: value.size for key, value in model.params.items() if value.ndim > 1}
    kept = model.parts["narrow"].masks
    left = sum(int(kept[key].sum()) if key in kept else many for key, many in matrices.items())
    assert 0.36 < left / sum(matrices.values()) <= 0.4
    few, narrow = compacted(net, shape, model, inputs)
    assert few <= narrow < 0.45 * size(net)


POOLED = nn.AdaptiveAvgPool2d(1), nn.Flatten()
NETS = {
    "linear": (nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 5)),
    "convolution": (nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=2), *POOLED),
    "of a signal": (
        nn.Flatten(2), nn.Conv1d(1, 6, 3), nn.ReLU(), nn.Conv1d(6, 5, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten()
    ),
    "with batch norm": (
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), *POOLED
    ),
    "after a depthwise one": (
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 2, groups=6), nn.Conv2d(6, 5, 3), *POOLED
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_channels_that_are_constant_go_without_an_error(name: str) -> None:
    """Two of the first layer's, whatever they read: they are the first to go, and nothing is lost with them."""
    torch.manual_seed(1)
    net = copy.deepcopy(nn.Sequential(*NETS[name])).eval()
    for layer in net:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    first = next(layer for layer in net if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d))
    with torch.no_grad():
        first.weight[[1, 4]] = 0
        first.bias[[1, 4]] = torch.tensor([3.0, 0.7])
    inputs = np.random.default_rng(0).normal(size=(40, 1, 8, 8)).astype(np.float32)
    (group,) = channels_of(net, (1, 8, 8))()[0]
    ends = {}
    for compensate in (True, False):
        model = cut(flap(net, (1, 8, 8), keep=0.67, compensate=compensate), net, inputs)
        kept = model.parts["narrow"].masks[f"{group.name}.bias"]
        assert kept.tolist() == [True, False, True, True, False, True]
        ends[compensate] = moved(net, model, inputs)
    assert ends[True] < 1e-5 < 1e-2 < ends[False]


def moved(net: nn.Module, model: Model, inputs: Tensor) -> float:
    """The largest change of an output, as a part of the largest output; the net is left as it was."""
    before: Params = training.state_of(net)
    with torch.no_grad():
        whole = net(torch.from_numpy(inputs))
        load(net, view(model, "narrow").params)
        apart = net(torch.from_numpy(inputs)) - whole
    load(net, before)
    return float(apart.abs().max() / whole.abs().max())


def test_outputs_stay_nearer_where_biases_make_up_for_what_goes() -> None:
    """At 70 % of a perceptron's weights, of unseen digits, a sixth; and far nearer than with the first channels."""
    dataset, train, test = digits()
    seen, unseen = (np.concatenate([x for x, _ in in_order(dataset, each, 500)]) for each in (train, test))
    gains: dict[str, list[float]] = {"without": [], "first": []}
    for seed in SEEDS:
        net = lenet()
        load(net, teacher(seed))
        ends = {}
        for name, given in (("with", {}), ("without", {"compensate": False})):
            ends[name] = lost(net, cut(flap(net, (1, 8, 8), keep=0.7, **given), net, seen), unseen)
            load(net, teacher(seed))
        method = flap(net, (1, 8, 8), keep=0.7)
        ends["first"] = lost(net, method.act(method.start(teacher(seed)), {}, 0), unseen)
        for name, gained in gains.items():
            gained.append(float(np.log(ends[name] / ends["with"])))
    for name, each in gains.items():
        mean, half = paired(each)
        assert mean > half, name


def test_over_a_fleet_it_needs_no_round() -> None:
    """80 % of the weights of a net with batch norm: 95 % with and 84 % without compensation, 11 ± 10 points apart.

    At 70 % it is 82 and 63 %, but 19 ± 23 points apart: in one of six seeds compensation costs 22.
    """
    changes: dict[str, Any] = {"model": "digits_cnn", "pretraining": {"epochs": 8}, "data": {"public": 0.3}}
    gains: list[float] = []
    for seed in range(3, 6):
        right, start = list[float](), None
        for compensate in (True, False):
            table = {"name": "flap", "keep": 0.8, "compensate": compensate}
            ran = run_fleet(experiment(table, rounds=0, seed=seed, **changes), start)
            assert [row["phase"] for row in ran.rows] == ["input_moments", "evaluate"]
            right.append(ran.accuracy)
            start = ran.states[-1]
        gains.append(right[0] - right[1])
    assert np.mean(gains) > 0.05
