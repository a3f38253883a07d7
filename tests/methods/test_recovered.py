"""What makes up for pruning: a teacher for examples, solved weights for channels."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from central_runs import LAYERS, accuracy, digits, initial, lenet, load, on, paired, run
from digits_runs import experiment, same
from digits_runs import run as run_fleet
from torch import nn
from torch.nn import functional

from fedprune import models, training
from fedprune.data.loading import in_order
from fedprune.graph import width
from fedprune.graph.coupling import coupled_channels
from fedprune.graph.surgery import shrink
from fedprune.methods import Channels, MethodError, build
from fedprune.methods.asking import begun
from fedprune.pruning import masks, obs
from fedprune.pruning.parts import view
from fedprune.pruning.topk import kept_count, top_k
from fedprune.training.gram import gram
from fedprune.types import Method, Model, Params, Tensor

SEEDS = range(5)


def channels_of(net: nn.Module, shape: tuple[int, ...]) -> Channels:
    groups = coupled_channels(net, torch.zeros(2, *shape))
    return lambda: (groups, {name: tuple(value.shape) for name, value in net.state_dict().items()})


# KD-DP


def kd(fraction: float, seed: int = 0, **alphas: float) -> Method:
    table = {"name": "kd_dp", "density": 0.1, "fraction": fraction, "seed": seed, **alphas}
    return build(table, LAYERS, 0, channels=channels_of(lenet(), (1, 8, 8)))


def labels_alone(fraction: float, seed: int) -> Method:
    """The same examples without a teacher."""
    return kd(fraction, seed, alpha_of_all=0.0, alpha_of_none=0.0)


def hardest_alone(fraction: float, seed: int) -> Method:
    """As many examples of the largest error norm (EL2N; Paul et al., 2021), without a teacher."""
    plain = labels_alone(fraction, seed)

    def examples(net: Any, params: Any, inputs: Any, labels: Any, memory: Any, rng: Any) -> Tensor:
        soft = net.still({name.removeprefix("teacher/"): value for name, value in memory.items()}, inputs).softmax(1)
        errors = (soft - functional.one_hot(labels, soft.shape[1])).norm(dim=1).numpy()
        return np.flatnonzero(top_k(errors, kept_count(fraction, len(errors))))

    return plain._replace(local=plain.local._replace(examples=examples))


@functools.cache
def teacher(seed: int) -> Params:
    """Trained on all examples."""
    return on(Model(initial(seed)), range(1, 16), seed).params


def chosen(method: Method, count: int) -> list[int]:
    assert method.local.examples is not None
    rng = np.random.default_rng()
    return [int(i) for i in method.local.examples(None, {}, None, np.zeros(count, np.int64), {}, rng)]


def test_a_device_trains_on_the_same_few_of_its_examples_in_all_rounds() -> None:
    assert chosen(kd(0.3), 50) == chosen(kd(0.3), 50)
    assert [len(chosen(kd(fraction), 50)) for fraction in (0.01, 0.3, 1.0)] == [1, 15, 50]
    assert chosen(kd(0.3), 50) != chosen(kd(0.3, seed=1), 50)
    # fewer of them are among more of them
    assert set(chosen(kd(0.1), 50)) < set(chosen(kd(0.3), 50))


def test_the_teacher_is_all_of_what_a_run_starts_from() -> None:
    method, first = kd(0.5), initial(0)
    model = method.start(first)
    assert {f"teacher/{name}" for name in first} == set(method.local.reads) == set(model.memory)
    assert all(np.array_equal(model.memory[f"teacher/{name}"], value) for name, value in first.items())
    assert masks.density(model.masks) == pytest.approx(0.1, rel=0.01)
    assert same(model.params, masks.apply(first, model.masks))


def test_alpha_does_not_rise_with_the_fraction() -> None:
    """Read off the loss: with logits of 0 and a teacher that is sure of the label it is (1 − α) ln 10 + α T² KL."""

    class Logits:
        def __init__(self, sure: float) -> None:
            self.sure = sure

        def still(self, params: Any, inputs: Any) -> torch.Tensor:
            return self.sure * functional.one_hot(torch.zeros(1, dtype=torch.int64), 10).float()

        def __call__(self, params: Any, inputs: Any) -> torch.Tensor:
            return torch.zeros(1, 10)

    def alpha(fraction: float) -> float:
        loss = kd(fraction).local.loss
        assert loss is not None
        # the teacher knows as little as the net: what is left is (1 − α) ln 10
        told = float(loss(Logits(0.0), {}, torch.zeros(1), torch.zeros(1, dtype=torch.int64), {}, None))
        return 1 - told / float(np.log(10))

    found = [alpha(fraction) for fraction in (0.05, 0.1, 0.3, 0.5, 1.0)]
    assert found == pytest.approx([0.975, 0.95, 0.85, 0.75, 0.5], abs=1e-5)
    with pytest.raises(MethodError, match="alpha_of_all is above alpha_of_none"):
        kd(0.5, alpha_of_all=0.8, alpha_of_none=0.7)
    with pytest.raises(MethodError, match=r"fraction 0.0 is outside \(0, 1\]"):
        kd(0.0)
    with pytest.raises(MethodError, match=r"alpha_of_none 1.5 is outside \[0, 1\]"):
        kd(0.5, alpha_of_none=1.5)


def test_the_gain_of_a_teacher_grows_as_examples_get_fewer() -> None:
    """Gain by f, of ten seeds: 1.9 % ± 1.1 % at 0.05, 0.4 % ± 0.9 % at 0.1, −0.1 % ± 0.6 % with all examples.

    At 0.05 random examples and a teacher are better than the hardest alone by 2.3 % ± 2.4 %; at f = 0.3, which is not
    run here, they are as good. Another processor's rounding moves such a gain by as much as another seed.
    """
    gains, over_hardest = dict[float, list[float]](), list[float]()
    for fraction, seeds in ((0.05, range(10)), (1.0, SEEDS)):
        for seed in seeds:

            def right(method: Method, seed: int = seed) -> float:
                return accuracy(run(method, teacher(seed), 10, seed)[-1])

            ours = right(kd(fraction, seed))
            gains.setdefault(fraction, []).append(ours - right(labels_alone(fraction, seed)))
            if fraction < 1:
                over_hardest.append(ours - right(hardest_alone(fraction, seed)))
    mean, half = paired(gains[0.05])
    assert mean > half
    assert mean > np.mean(gains[1.0])
    assert np.mean(over_hardest) > 0


def test_over_a_fleet_the_teacher_does_not_move() -> None:
    table = {"name": "kd_dp", "density": 0.3, "fraction": 0.3}
    ran = run_fleet(experiment(table, rounds=3, pretraining={"epochs": 10}))
    first = ran.states[-1].params
    assert all(np.array_equal(ran.state.memory[f"teacher/{name}"], value) for name, value in first.items())
    assert masks.equal(ran.state.masks, ran.states[0].masks)
    assert all(not np.any(ran.state.params[name][~mask]) for name, mask in ran.state.masks.items())
    before, *_, after = [row["accuracy"] for row in ran.rows if row["phase"] == "evaluate"]
    assert after > before


# OBSPA

# Extents as small as the nets allow: what is coupled does not depend on them, and a Gram matrix costs their square.
SHAPES = {
    "digits_cnn": (1, 8, 8),
    "dscnn": (1, 49, 10),
    "har_cnn": (9, 32),
    "mobilenet": (3, 33, 32),
    "resnet8": (3, 16, 16),
}


def obspa(net: nn.Module, shape: tuple[int, ...], **given: Any) -> Method:
    return build({"name": "obspa", "width": 0.5, **given}, {}, 0, channels=channels_of(net, shape))


def measured(method: Method, net: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """What devices would answer."""
    asked = method.asks(Model({}), 0, {})["gram"].args
    return {name: sums for name, (sums, _) in gram(net, [(inputs, np.zeros(len(inputs)))], asked).items()}


def surgically(method: Method, net: nn.Module, found: dict[str, Tensor]) -> Model:
    return method.act(method.start(training.state_of(net)), {"gram": found}, 0)


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_removed_of_a_shipped_net_compacts_exactly(name: str) -> None:
    shape = SHAPES[name]
    net = models.build(name, shape, 10, seed=1).eval()
    inputs = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    method = obspa(net, shape)
    cut, smaller = compacted(net, shape, surgically(method, net, measured(method, net, inputs)), inputs)
    assert cut <= smaller < 0.5 * size(net)


def compacted(net: nn.Module, shape: tuple[int, ...], model: Model, inputs: Tensor) -> tuple[int, int]:
    """Weights that surgery and a narrow net leave of the part of devices, of which both say the same to 1e-5."""
    (part,) = model.parts.values()
    seen = view(model, "narrow").params
    load(net, seen)
    with torch.no_grad():
        expected = net(torch.from_numpy(inputs))
    narrow = width.narrow(seen, part.masks)
    smaller = width.fit(net, {key: value.shape for key, value in narrow.items()}).eval()
    load(smaller, narrow)
    trained = {key: part.masks[key] for key, _ in net.named_parameters() if key in part.masks}
    cut = shrink(net, trained, torch.zeros(2, *shape)).eval()
    for one in (smaller, cut):
        with torch.no_grad():
            got = one(torch.from_numpy(inputs))
        assert float((got - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    assert all(seen[key].shape == value.shape for key, value in net.state_dict().items())
    return size(cut), size(smaller)


def size(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def lost(net: nn.Module, model: Model, inputs: Tensor) -> float:
    """Mean square change of the logits, as a part of theirs."""
    load(net, training.state_of(net))
    with torch.no_grad():
        before = net(torch.from_numpy(inputs))
        training.load_state(net, view(model, "narrow").params)
        after = net(torch.from_numpy(inputs))
    return float(((after - before) ** 2).mean() / (before**2).mean())


def test_outputs_stay_nearer_than_those_of_plain_removal_with_data_and_with_noise() -> None:
    """Of the logits' mean square, at half the units: 1 % with data, 2 % with noise, 9 % by plain removal, or so."""
    dataset, train, test = digits()
    seen, unseen = (np.concatenate([x for x, _ in in_order(dataset, each, 500)]) for each in (train, test))
    rng = np.random.default_rng(0)
    noise = rng.uniform(-np.sqrt(3), np.sqrt(3), (512, 1, 8, 8)).astype(np.float32)
    found: dict[str, list[float]] = {}
    for seed in SEEDS:
        for name in ("data", "noise", "plain", "same channels"):
            net = lenet()
            load(net, teacher(seed))
            method = obspa(net, (1, 8, 8), noise=name == "noise")
            grams = measured(method, net, noise if name == "noise" else seen)
            if name == "plain":  # inputs that know nothing of each other: the largest columns, as they are
                grams = {key: np.eye(len(value)) for key, value in grams.items()}
            model = surgically(method, net, grams)
            if name == "same channels":
                model = model._replace(params=teacher(seed))
            found.setdefault(name, []).append(lost(net, model, unseen))
    for worse in ("plain", "same channels"):
        for better in ("data", "noise"):
            mean, half = paired([float(np.log(a / b)) for a, b in zip(found[worse], found[better], strict=True)])
            assert mean > half, (worse, better)


def test_over_a_fleet_it_needs_no_round() -> None:
    """Three quarters of the channels: 98.8 % with data, 87.3 % with noise, 54.8 % by plain removal, one seed."""
    changes = {"model": "digits_cnn", "pretraining": {"epochs": 8}, "data": {"public": 0.3}}
    right, start = dict[str, float](), None
    # damping of nothing else leaves weights as they are: the largest columns stay
    for name, more in {"data": {}, "noise": {"noise": True}, "plain": {"damping": 1e9}}.items():
        ran = run_fleet(experiment({"name": "obspa", "width": 0.75, **more}, rounds=0, **changes), start)
        assert [row["phase"] for row in ran.rows] == ["gram_of_noise" if name == "noise" else "gram", "evaluate"]
        right[name], start = ran.accuracy, ran.states[-1]
        kept = {key: int(mask.sum()) for key, mask in ran.state.parts["narrow"].masks.items()}
        assert (kept["stem.conv.weight"], kept["stage1.0.conv.weight"]) == (12 * 9, 12 * 12 * 9)
    assert right["data"] > right["noise"] > right["plain"]


def test_widths_nest_and_devices_hold_the_narrow_model() -> None:
    ran = run_fleet(experiment({"name": "obspa", "width": 0.5}, rounds=2))
    (part,) = ran.state.parts.values()
    assert same(part.masks, ran.states[0].parts["narrow"].masks)
    net = lenet()
    load(net, initial(3))
    inputs = digits()[0].normalise(digits()[1].inputs[:200])
    units = []
    for share in (0.25, 0.5):
        method = obspa(net, (1, 8, 8), width=share)
        units.append(surgically(method, net, measured(method, net, inputs)).parts["narrow"].masks)
    assert masks.nested(*units)


def test_where_nobody_answers_devices_hold_the_first_channels_as_they_are() -> None:
    net = lenet()
    method = obspa(net, (1, 8, 8))
    first = training.state_of(net)
    model, asked = begun(method, first)
    assert [ask.kind for ask in asked] == ["gram"]
    assert same(model.params, first)
    assert model.parts["narrow"].masks["1.bias"].tolist() == [True] * 38 + [False] * 37
    assert method.act(model, {}, 1) is model


def test_of_two_channels_that_say_the_same_one_stays_and_takes_the_others_weight() -> None:
    weight = np.array([[1.0, 2.0, 4.0]])
    inputs = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    whole = obs.damped(inputs.T @ inputs, 1e-6)
    reader = obs.Reader(weight, whole, np.array([[0], [1], [2]]))
    alone = obs.losses(reader)
    assert alone[:2] == pytest.approx([0, 0], abs=1e-4)
    assert alone[2] > 0.4
    # with the weight of both, 3² · 2 is more than 4² · 1
    assert obs.best_units([reader], 1).tolist() == [False, True, False]
    np.testing.assert_allclose(obs.refitted(weight, whole, np.array([False, True, True])), [[0, 3, 4]], atol=1e-4)
