"""FedTiny as published (arXiv 2212.01977): its pool, its turns, and every known defect of public implementations."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedprune.aggregation import mean_of_variances, merge_top_k, pooled
from fedprune.methods.dynamic.fedtiny import fedtiny
from fedprune.models import build
from fedprune.pruning import masks
from fedprune.pruning.candidates import around_erk, around_uniform, candidate_counts
from fedprune.training import evidence
from fedprune.types import Evidence, Masks, Method, Model, Moments, Params, TopK

torch.set_num_threads(1)

# five blocks by name, two layers each, in forward order
LAYERS = {f"conv{block}.{layer}.weight": (24, 20 + block, 3, 3) for block in range(1, 6) for layer in (0, 1)}
BLOCKS = [[f"conv{block}.{layer}.weight" for layer in (0, 1)] for block in range(1, 6)]
SIZE = sum(math.prod(shape) for shape in LAYERS.values())


def weights(seed: int = 0) -> Params:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in LAYERS.items()}


def random_grads(seed: int) -> Params:
    return weights(seed + 1000)


class Rule(NamedTuple):
    """How a method changes masks: what it asks of them, and what it does with the answer."""

    method: Method

    def grows(self, now: Masks, round: int) -> Mapping[str, int]:
        """Layer -> number of gradients that it asks for."""
        asks = self.method.asks(Model(weights(), now), round, {})
        assert all(ask.kind == "top_gradients" for ask in asks.values())
        return asks["grad"].args if asks else {}

    def update(self, now: Masks, evidence: Evidence, round: int) -> Masks:
        """Masks after it has acted."""
        given = {name: value for name, value in evidence.items() if name != "weight"}
        return self.method.act(Model(evidence.get("weight", weights()), now), given, round).masks


def pruner_of(**parameters: Any) -> Rule:
    return Rule(fedtiny(LAYERS, density=0.1, **parameters))


def begun(method: Method, theta: Params) -> Model:
    """The model that training begins with, where nobody answers."""
    return method.act(method.start(theta), {}, 0)


def start() -> Masks:
    return begun(fedtiny(LAYERS, density=0.1), weights()).masks


def pool_of(method: Method, theta: Params) -> Sequence[Masks]:
    """The candidates that devices are asked to compare; the only one where they are asked nothing."""
    asks = method.asks(method.start(theta), 0, {})
    return next(iter(asks.values())).args.candidates if asks else [begun(method, theta).masks]


# the pool


@pytest.mark.parametrize("noise", ["uniform", "erk"])
@given(density=st.sampled_from([0.5, 0.1, 0.05]), seed=st.integers(0, 10**6))
@settings(max_examples=8)
def test_candidates_are_masks_over_the_same_weights_not_random_initialisations(
    noise: str, density: float, seed: int
) -> None:
    theta = weights()
    pool = pool_of(fedtiny(LAYERS, density=density, pool=6, noise=noise, seed=seed), theta)

    assert len(pool) == 6
    for candidate in pool:
        masks.check(candidate, theta)
        assert list(candidate) == list(LAYERS)
        assert abs(masks.density(candidate) - density) / density < 0.02
        for name, mask in candidate.items():
            assert mask.any()
            kept, pruned = np.abs(theta[name][mask]), np.abs(theta[name][~mask])
            assert not pruned.size or kept.min() >= pruned.max()
    for name in LAYERS:  # over the same weights, so any two nest in a layer
        for one in pool:
            for other in pool:
                assert masks.nested({name: one[name]}, {name: other[name]}) or masks.nested(
                    {name: other[name]}, {name: one[name]}
                )
    counts = {tuple(int(mask.sum()) for mask in candidate.values()) for candidate in pool}
    assert len(counts) == 6


def test_the_pool_follows_the_density_unless_it_is_given() -> None:
    sizes = [len(pool_of(fedtiny(LAYERS, density=d), weights())) for d in (0.5, 0.1, 0.05, 0.02)]
    assert sizes == [1, 1, 2, 5]
    assert len(pool_of(fedtiny(LAYERS, density=0.1, pool=3), weights())) == 3


def test_the_seed_decides_the_pool() -> None:
    one, again, other = (candidate_counts(LAYERS, 0.1, 4, seed=seed) for seed in (1, 1, 2))
    assert one == again != other


@given(st.floats(0.01, 1), st.floats(0, 1), st.integers(0, 999))
def test_noise_stays_in_its_band(density: float, spread: float, seed: int) -> None:
    for noise, base in ((around_uniform(spread), dict.fromkeys(LAYERS, density)), (around_erk(spread), None)):
        middle = base or around_erk(0.0)(LAYERS, density, np.random.default_rng(0))
        drawn = noise(LAYERS, density, np.random.default_rng(seed))
        for name, value in drawn.items():
            low, high = middle[name] * (1 - spread), min(1.0, middle[name] * (1 + spread))
            assert low - 1e-12 <= value <= high + 1e-12


# the known defects


@pytest.mark.parametrize("statistics", ["mean", "pooled"])
@pytest.mark.parametrize("changed", range(4))
def test_the_bn_average_uses_all_devices_not_the_last_alone(statistics: str, changed: int) -> None:
    method = fedtiny(LAYERS, density=0.1, pool=2, statistics=statistics)
    asks = method.asks(method.start(weights()), 0, {})
    assert list(asks) == ["statistics"]
    merge = asks["statistics"].args.merge
    assert merge is {"mean": mean_of_variances, "pooled": pooled}[statistics]
    parts = [Moments(np.array([float(k)]), np.array([1.0 + k]), 10 * (k + 1)) for k in range(4)]
    mean, part = merge(parts), parts[changed]
    assert mean.mean == pytest.approx(sum(p.examples * p.mean[0] for p in parts) / 100)
    parts[changed] = Moments(part.mean + 1, part.variance + 1, part.examples)
    other = merge(parts)
    assert other.mean - mean.mean == pytest.approx(part.examples / 100)
    assert abs(other.variance - mean.variance) > 1e-3


def test_vanilla_selection_merges_no_statistics() -> None:
    method = fedtiny(LAYERS, density=0.1, pool=2, statistics="vanilla")
    asks = method.asks(method.start(weights()), 0, {})
    assert [(name, ask.kind) for name, ask in asks.items()] == [("losses", "losses")]
    assert not asks["losses"].args.statistics


def test_candidates_are_compared_under_the_statistics_that_were_merged_and_the_best_begins() -> None:
    method = fedtiny(LAYERS, density=0.1, pool=3)
    model = method.start({**weights(), "bn.running_mean": np.zeros(1), "bn.running_var": np.ones(1)})
    told = {f"{index}/bn.{kind}": np.full(1, index + 5.0) for index in range(3) for kind in ("mean", "var")}
    asks = method.asks(model, 0, {"statistics": told})
    assert list(asks) == ["losses"]
    assert asks["losses"].args.statistics == told
    found = {"statistics": told, "losses": {"loss": np.array([2.0, 1.0, 3.0]), "examples": np.asarray(9)}}
    chosen = method.act(model, found, 0)
    assert masks.equal(chosen.masks, asks["losses"].args.candidates[1])
    assert chosen.params["bn.running_mean"] == chosen.params["bn.running_var"] == 6
    changed = [name for name in LAYERS if np.any(chosen.params[name] != masks.apply(model.params, chosen.masks)[name])]
    assert not changed  # nothing but statistics moves


def turns(pruner: Rule, last: int) -> list[tuple[int, list[str]]]:
    """(round, layers) of every adjustment that the rule announces."""
    now = start()
    return [(r, list(says)) for r in range(last + 1) if (says := pruner.grows(now, r))]


def test_all_five_blocks_are_visited_not_by_the_round_modulo_anything() -> None:
    # twice each by round 100; the tenth adjustment, the input block's second, swaps a fraction of 0
    order = BLOCKS[::-1] * 2
    assert turns(pruner_of(), 150) == [(10 * (n + 1), order[n]) for n in range(9)]
    # and with a stop that no turn falls on, every turn of it
    assert turns(pruner_of(stop=109), 150) == [(10 * (n + 1), order[n]) for n in range(10)]


@pytest.mark.parametrize("order", ["backward", "forward"])
@pytest.mark.parametrize(("period", "blocks"), [(1, 5), (3, 5), (5, 5), (7, 5), (10, 2), (10, 3), (5, 4), (4, 10)])
def test_every_block_is_visited_for_any_period_and_number(period: int, blocks: int, order: str) -> None:
    names = list(LAYERS)
    cut = BLOCKS if blocks >= 5 else [part.tolist() for part in np.array_split(names, blocks)]
    in_order = cut[::-1] if order == "backward" else cut
    found = turns(pruner_of(period=period, blocks=blocks, order=order, stop=1000), 3 * period * len(cut))
    assert found == [(period * (n + 1), in_order[n % len(cut)]) for n in range(3 * len(cut))]


@pytest.mark.parametrize(
    ("granularity", "expected"),
    [("layer", [[name] for name in reversed(LAYERS)]), ("entire", [list(LAYERS)]), ("block", BLOCKS[::-1])],
)
def test_granularities(granularity: str, expected: list[list[str]]) -> None:
    found = turns(pruner_of(granularity=granularity, stop=1000), 10 * len(expected))
    assert [layers for _, layers in found] == expected


def test_the_cosine_advances_by_rounds_not_by_adjustments() -> None:
    now = start()
    for round in range(10, 101, 10):
        block = BLOCKS[::-1][(round // 10 - 1) % 5]
        expected = {}
        for name in block:
            kept = int(now[name].sum())
            expected[name] = min(math.floor(0.15 * (1 + math.cos(math.pi * round / 100)) * kept), now[name].size - kept)
        assert pruner_of().grows(now, round) == {name: count for name, count in expected.items() if count}


def test_the_swap_fractions_can_be_given() -> None:
    now = start()
    (name, *_) = BLOCKS[-1]
    kept = int(now[name].sum())
    assert pruner_of(fraction=1.0, stop=20).grows(now, 10)[name] == kept // 2


def one_layer() -> tuple[Rule, Masks]:
    """A rule that swaps one of four kept weights, at its first adjustment."""
    half = {"w": np.array([True] * 4 + [False] * 4)}
    return Rule(fedtiny({"w": (8,)}, density=0.5, period=1, stop=2, fraction=0.5)), half


def test_gradients_are_weighted_by_the_devices_examples() -> None:
    pruner, now = one_layer()
    small, large = TopK(np.array([4]), np.array([9.0])), TopK(np.array([5]), np.array([-2.0]))

    def grown(of_small: float, of_large: float) -> list[int]:
        grads = {"w": merge_top_k([(small, of_small), (large, of_large)], (8,))}
        after = pruner.update(now, {"weight": {"w": np.array([4.0, 3, 2, 1, 0, 0, 0, 0])}, "grad": grads}, 1)
        return np.flatnonzero(after["w"] & ~now["w"]).tolist()

    assert grown(1, 1) == [4]
    assert grown(10, 90) == [5]  # 0.9 against 1.8
    assert merge_top_k([(small, 10.0), (large, 90.0)], (8,)).tolist() == [0, 0, 0, 0, 0.9, -1.8, 0, 0]


def test_signed_gradients_of_devices_cancel() -> None:
    pruner, now = one_layer()
    lists = [(TopK(np.array([4, 6]), np.array([5.0, 1.0])), 1.0), (TopK(np.array([4, 6]), np.array([-5.0, 1.0])), 1.0)]
    after = pruner.update(now, {"weight": {"w": np.ones(8)}, "grad": {"w": merge_top_k(lists, (8,))}}, 1)
    assert np.flatnonzero(after["w"] & ~now["w"]).tolist() == [6]


def test_growing_comes_before_pruning() -> None:
    """What is dropped has the largest gradient of all, what is grown the smallest weight: neither swaps back."""
    pruner, now = one_layer()
    weight = np.array([4.0, 3.0, 2.0, 0.1, 0.0, 0.0, 0.0, 0.0])
    grad = np.array([0.0, 0.0, 0.0, 1e6, 0.0, 0.5, 0.0, 0.0])
    after = pruner.update(now, {"weight": {"w": weight}, "grad": {"w": grad}}, 1)
    assert np.flatnonzero(after["w"]).tolist() == [0, 1, 2, 5]


def test_nothing_is_adjusted_at_round_0_nor_after_the_stop() -> None:
    pruner, now = pruner_of(), start()
    for round in (0, 1, 9, 11, 95, 101, 105, 110, 120, 200, 300):
        assert pruner.grows(now, round) == {}
        assert masks.equal(pruner.update(now, {}, round), now)  # and no evidence is asked for


def test_densities_stay_through_a_whole_run() -> None:
    pruner, theta, now = pruner_of(fraction=0.9), dict(weights()), start()
    first, seen = now, []
    for round in [r for r in range(1, 131) if r % 10 in (0, 1, 5)]:
        says, before = pruner.grows(now, round), now
        now = pruner.update(now, {"weight": theta, "grad": random_grads(round)}, round)
        assert masks.densities(now) == masks.densities(first)
        for name in LAYERS:
            assert int(np.sum(now[name] & ~before[name])) == says.get(name, 0)
        if says:
            seen.append(round)
        theta = dict(masks.apply({n: v + 0.1 * random_grads(-round)[n] for n, v in theta.items()}, now))
    assert seen == list(range(10, 91, 10))
    assert all(not np.array_equal(now[name], first[name]) for name in LAYERS)


# what a device sends


def net_and_masks(density: float) -> tuple[torch.nn.Module, Masks, np.ndarray, np.ndarray]:
    torch.manual_seed(0)
    net = build("digits_cnn", (1, 8, 8), 10)
    rng = np.random.default_rng(1)
    found = {
        name: rng.random(tuple(parameter.shape)) < density
        for name, parameter in net.named_parameters()
        if name.startswith("stage") and parameter.ndim > 1
    }
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name in found:
                parameter.mul_(torch.from_numpy(found[name].astype(np.float32)))
    return net, found, rng.normal(size=(16, 1, 8, 8)).astype(np.float32), rng.integers(0, 10, 16)


def dense_gradients(net: torch.nn.Module, inputs: np.ndarray, labels: np.ndarray) -> Params:
    """By autograd over everything, batch norm as in training."""
    import copy

    other = copy.deepcopy(net).train()
    loss = torch.nn.CrossEntropyLoss()(other(torch.from_numpy(inputs)), torch.from_numpy(labels))
    loss.backward()
    return {name: parameter.grad.numpy() for name, parameter in other.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("density", [0.1, 0.7])
@pytest.mark.parametrize("count_of", [lambda pruned: 7, lambda pruned: pruned, lambda pruned: pruned + 50])
def test_devices_send_their_largest_and_no_dense_gradient(density: float, count_of: Callable[[int], int]) -> None:
    net, now, inputs, labels = net_and_masks(density)
    some = list(now)[1:3]
    counts = {name: count_of(int((~now[name]).sum())) for name in some}

    found = evidence.top_gradients(net, inputs, labels, now, counts)

    assert sorted(found) == sorted(some)
    dense = dense_gradients(net, inputs, labels)
    for name, (position, value) in found.items():
        pruned = int((~now[name]).sum())
        assert len(position) == len(value) == min(counts[name], pruned)
        assert len(np.unique(position)) == len(position)
        assert not now[name].reshape(-1)[position].any()
        truth = dense[name].reshape(-1)
        np.testing.assert_allclose(value, truth[position], rtol=1e-3, atol=1e-6)
        largest = np.sort(np.abs(truth[~now[name].reshape(-1)]))[::-1][: len(position)]
        np.testing.assert_allclose(np.sort(np.abs(value))[::-1], largest, rtol=1e-3, atol=1e-6)


def test_never_more_than_one_layers_gradient_is_held() -> None:
    net, now, inputs, labels = net_and_masks(0.1)
    held: list[int] = []

    def look(_: torch.Tensor) -> None:
        held.append(sum(parameter.grad is not None for parameter in net.parameters()))

    hooks = [parameter.register_post_accumulate_grad_hook(look) for parameter in net.parameters()]
    evidence.top_gradients(net, inputs, labels, now, dict.fromkeys(now, 3))
    for hook in hooks:
        hook.remove()
    assert held == [1] * len(now)  # one at a time, of the layers asked for alone
    assert all(parameter.grad is None for parameter in net.parameters())


def test_measuring_gradients_leaves_the_model_as_it_was() -> None:
    net, now, inputs, labels = net_and_masks(0.3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first = evidence.top_gradients(net, inputs, labels, now, dict.fromkeys(now, 5))
    second = evidence.top_gradients(net, inputs, labels, now, dict.fromkeys(now, 5))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(np.array_equal(first[name].position, second[name].position) for name in now)
    # and nothing is left that would fire in training
    torch.nn.CrossEntropyLoss()(net.train()(torch.from_numpy(inputs)), torch.from_numpy(labels)).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert any(not torch.equal(value, before[name]) for name, value in net.state_dict().items())  # BN moves again


# settings


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"density": 0.0}, "density 0.0 is outside (0, 1]"),
        ({"density": 1.1}, "density 1.1 is outside (0, 1]"),
        ({"density": float("nan")}, "density nan is outside (0, 1]"),
        ({"pool": -1}, "pool -1 is below 0"),
        ({"stop": -1}, "stop -1 is below 0"),
        ({"blocks": 0}, "blocks 0 is below 1"),
        ({"period": 0}, "period 0 is not a positive number"),
        ({"fraction": 1.5}, "fraction 1.5 is outside [0, 1]"),
        ({"noise": "normal"}, "noise 'normal' is not one of uniform, erk"),
        ({"statistics": "last"}, "statistics 'last' is not one of mean, pooled, vanilla"),
        ({"granularity": "net"}, "granularity 'net' is not one of block, layer, entire"),
        ({"order": "random"}, "order 'random' is not one of backward, forward"),
    ],
)
def test_settings_that_make_no_sense_are_refused(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        fedtiny(LAYERS, **{"density": 0.1, **parameters})  # type: ignore[arg-type]
    assert message in str(error.value)
