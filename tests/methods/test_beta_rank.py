"""β-rank's claims: how often a class is there does not matter, and rare classes lose less than by filters' sizes."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from central_runs import SGD, digits, load, paired
from test_recovered import SHAPES, channels_of, compacted
from torch import nn

from fedprune import models, training
from fedprune.counter_rng import generator
from fedprune.data import Examples
from fedprune.data.loading import in_order, shuffled
from fedprune.experiment import Data, Experiment
from fedprune.graph.width import first_channels, width_masks
from fedprune.measures.filter_moments import Filters
from fedprune.methods import MethodError, build
from fedprune.methods.building import prunable_of
from fedprune.methods.shrunk.beta_rank import beta
from fedprune.models import draws
from fedprune.pruning.parts import statistics, view
from fedprune.pruning.topk import top_k
from fedprune.training.filter_moments import filter_moments
from fedprune.types import Method, Model, Params, Part, Tensor

SEEDS, WIDTHS = range(8), (0.375, 0.5, 0.625)
Batches = Sequence[tuple[Tensor, Tensor]]


def small() -> nn.Module:
    layers = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()
    return nn.Sequential(
        *layers, nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10)
    )


def moments(net: nn.Module, batches: Batches, args: Filters) -> dict[str, Tensor]:
    """What devices that hold these examples would come to."""
    weights = np.asarray(args.weights)
    found: dict[str, Tensor] = {}
    for name, each in filter_moments(
        net, batches, args.layers, lambda labels: weights[labels] if len(weights) else np.ones(len(labels))
    ).items():
        out = len(net.get_parameter(name))
        found |= {f"{name}/read": each.variance[:-out].mean(0), f"{name}/made": each.variance[-out:]}
    return found


def answers(method: Method, net: nn.Module, batches: Batches) -> dict[str, Any]:
    counts = np.bincount(np.concatenate([labels for _, labels in batches]), minlength=10)
    model = method.start(training.state_of(net))
    told: dict[str, Any] = {name: {"classes": counts} for name in method.asks(model, 0, {}) if name == "classes"}
    return {**told, "moments": moments(net, batches, method.asks(model, 0, told)["moments"].args)}


def narrow(net: nn.Module, shape: tuple[int, ...], batches: Batches, **given: Any) -> Model:
    method = build({"name": "beta_rank", **given}, {}, 0, channels=channels_of(net, shape))
    return method.act(method.start(training.state_of(net)), answers(method, net, batches), 0)


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_removed_of_a_shipped_net_compacts_exactly(name: str) -> None:
    shape = SHAPES[name]
    training.one_thread()
    net = models.build(name, shape, 10, seed=1).eval()
    inputs = np.random.default_rng(0).normal(size=(10, *shape)).astype(np.float32)
    model = narrow(net, shape, [(inputs, np.arange(10))], width=0.5)
    few, left = compacted(net, shape, model, inputs)
    assert few <= left < sum(parameter.numel() for parameter in net.parameters())


def scores(balanced: bool, batches: Batches) -> Tensor:
    with draws.seeded(0):
        net = small()
    method = build(
        {"name": "beta_rank", "width": 0.5, "balanced": balanced}, {}, 0, channels=channels_of(net, (1, 8, 8))
    )
    found, params = answers(method, net, batches)["moments"], training.state_of(net)
    return np.concatenate([beta(params[f"{at}.weight"], found, f"{at}.weight") for at in ("0", "3", "5")])


def test_how_often_a_class_is_there_matters_only_where_classes_do_not_weigh_the_same() -> None:
    training.one_thread()
    dataset, train, _ = digits()
    some = train.take(np.arange(100))
    once = list(in_order(dataset, some, 50))
    often = [*once, *in_order(dataset, some.take(np.flatnonzero(some.labels < 3).repeat(9)), 500)]
    assert np.allclose(scores(True, often), scores(True, once), rtol=0, atol=1e-7)
    assert np.abs(scores(False, often) - scores(False, once)).max() > 0.02


@functools.cache
def skewed(seed: int) -> Examples:
    """Of five of the ten digits one in twenty."""
    _, train, _ = digits()
    rng = np.random.default_rng(seed)
    rare, kept = rng.permutation(10)[:5], list[Tensor]()
    for each in range(10):
        places = np.flatnonzero(train.labels == each)
        kept.append(rng.permutation(places)[: max(1, round(len(places) / 20))] if each in rare else places)
    return train.take(np.sort(np.concatenate(kept)))


def trained(seed: int) -> nn.Module:
    training.one_thread()
    dataset = digits()[0]
    with draws.seeded(seed):
        net = small()
    for epoch in range(15):
        batches = shuffled(dataset, skewed(seed), 32, generator(seed, "order", epoch), augment=False)
        training.train(net, batches, SGD._replace(learning_rate=0.05))
    return net


def by_size(net: nn.Module, width: float) -> Model:
    """The filters of the largest Σ|θ| of each layer."""
    groups, shapes = channels_of(net, (1, 8, 8))()
    params = training.state_of(net)
    sums = {group.name: np.abs(params[f"{group.name}.weight"]).sum((1, 2, 3)) for group in groups}
    kept = {name: top_k(sums[name], int(units.sum())) for name, units in first_channels(groups, width).items()}
    return Model(params, parts={"narrow": Part(statistics(params), width_masks(groups, shapes, kept))})


def test_rare_classes_lose_less_than_by_size() -> None:
    """Balanced accuracy at 1:20, untrained, of the mean over widths of 3/8, 1/2, 5/8: 60.1 and 53.3 %, 6.8 ± 5.5 apart.

    Over sixteen seeds 59.2 and 53.6 %, 5.7 ± 3.3; where classes do not weigh the same 58.1 %, 1.2 ± 1.1 less.
    """
    dataset, _, test = digits()

    def balanced(net: nn.Module, dense: Params, model: Model) -> float:
        load(net, view(model, "narrow").params)
        right = training.predict(net, in_order(dataset, test, 500)).argmax(1) == test.labels
        load(net, dense)
        return float(np.mean([right[test.labels == each].mean() for each in range(10)]))

    gains: list[float] = []
    for seed in SEEDS:
        net = trained(seed)
        dense, batches = training.state_of(net), list(in_order(dataset, skewed(seed), 500))
        method = build({"name": "beta_rank", "width": 0.5}, {}, 0, channels=channels_of(net, (1, 8, 8)))
        found, each = answers(method, net, batches), list[float]()
        for width in WIDTHS:
            method = build({"name": "beta_rank", "width": width}, {}, 0, channels=channels_of(net, (1, 8, 8)))
            by_beta = method.act(method.start(dense), found, 0)
            each.append(balanced(net, dense, by_beta) - balanced(net, dense, by_size(net, width)))
        gains.append(float(np.mean(each)))
    mean, half = paired(gains)
    assert mean > half


def test_a_net_that_cannot_be_followed_is_refused() -> None:
    with pytest.raises(MethodError, match="no channels that can be followed, so it has no width"):
        build({"name": "beta_rank", "width": 0.5}, {}, 0, channels=lambda: ((), {}))


def test_a_layer_of_several_groups_is_measured_as_its_own_columns_say() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten())
    inputs = np.random.default_rng(0).normal(size=(30, 2, 5, 5)).astype(np.float32)
    found = moments(net, [(inputs, np.zeros(30, np.int64))], Filters(["1.weight"]))
    with torch.no_grad():
        made = net[:2](torch.from_numpy(inputs)).numpy().reshape(30, 4, 9)
    assert np.allclose(found["1.weight/made"], made.var(0), rtol=1e-5)


def test_attention_keeps_its_first_heads_and_its_perceptrons_the_best() -> None:
    net = models.build("keyword_transformer", (1, 8, 8), 10, seed=1).eval()
    inputs = np.random.default_rng(0).normal(size=(10, 1, 8, 8)).astype(np.float32)
    channels = prunable_of(Experiment(Data(""), "", {}, 1), net, (1, 8, 8)).channels
    method = build({"name": "beta_rank", "width": 0.5}, {}, 0, channels=channels)
    model = method.start(training.state_of(net))
    (part,) = method.act(model, answers(method, net, [(inputs, np.arange(10))]), 0).parts.values()
    rows = {name: mask.reshape(len(mask), -1).any(1) for name, mask in part.masks.items()}
    for name in ("stage1.self_attn.in_proj_weight", "stage1.linear1.weight"):
        assert rows[name].mean() == 0.5
    heads = np.split(rows["stage1.self_attn.in_proj_weight"], 3)[0]
    assert heads[: len(heads) // 2].all()
    assert not rows["stage1.linear1.weight"][: len(rows["stage1.linear1.weight"]) // 2].all()
