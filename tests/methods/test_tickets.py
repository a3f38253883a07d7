"""Tickets: survivors are what they were, to the bit, and train better than what only looks like them."""

from typing import Any

import numpy as np
import pytest
from central_runs import LAYERS, accuracy, initial, on, paired, run
from digits_runs import experiment, same
from digits_runs import run as run_fleet

from fedprune.methods import MethodError, build
from fedprune.pruning import masks
from fedprune.types import Holder, Method, Model, Params, Trained

SEEDS = range(5)


def lth(density: float, levels: int, period: int) -> Method:
    return build({"name": "lth", "density": density, "levels": levels, "period": period}, LAYERS, 0)


# LTH and IMP


def test_over_a_fleet_survivors_are_the_first_weights_to_the_bit() -> None:
    ran = run_fleet(experiment({"name": "lth", "density": 0.3, "levels": 2, "period": 2}, rounds=5))
    first = ran.states[-1].params
    for round, density in ((2, 0.3**0.5), (4, 0.3)):
        state = ran.states[round]
        assert masks.density(state.masks) == pytest.approx(density, rel=0.01)
        assert same(state.params, masks.apply(first, state.masks))
    assert masks.nested(ran.states[4].masks, ran.states[2].masks)
    # the output layer, in front of its bias, loses half of what each of the others loses
    *others, head = masks.densities(ran.states[2].masks).values()
    assert others == pytest.approx([others[0]] * 2, abs=0.001)
    assert 1 - head == pytest.approx((1 - others[0]) / 2, abs=0.01)
    assert all(not np.any(ran.state.params[name][~mask]) for name, mask in ran.state.masks.items())
    assert not same(ran.state.params, ran.states[4].params)


def test_over_a_fleet_imp_goes_back_to_round_k_to_the_bit() -> None:
    table = experiment({"name": "imp", "density": 0.3, "rewind": 1, "levels": 2, "period": 1}, rounds=4)
    ran = run_fleet(table)
    for round in (2, 3):
        assert same(ran.states[round].params, masks.apply(ran.states[1].params, ran.states[round].masks))
    assert not same(ran.states[1].params, ran.states[-1].params)
    resumed = run_fleet(table, ran.states[2])
    assert same(resumed.state.params, ran.state.params)


def test_an_output_layer_that_is_not_pruned_slows_no_other() -> None:
    inner = dict(list(LAYERS.items())[:2])
    method = build({"name": "lth", "density": 0.5, "levels": 1, "period": 1}, inner, 0)
    assert masks.densities(method.act(method.start(initial(0)), {}, 1).masks) == pytest.approx(
        dict.fromkeys(inner, 0.5), abs=0.001
    )


def test_a_ticket_beats_its_mask_with_other_first_weights() -> None:
    """LeNet-300-100 in small, at 10 %: 93.7 % against 84.6 % after 4 epochs, 9 % ± 5 % apart; 3 % ± 1 % after 8."""
    levels, period, found = 6, 3, list[float]()
    for seed in SEEDS:
        ticket = run(lth(0.1, levels, period), initial(seed), levels * period, seed)[-1]
        other = ticket._replace(params=masks.apply(initial(seed + 100), ticket.masks))
        rounds = range(levels * period + 1, levels * period + 5)
        found.append(accuracy(on(ticket, rounds, seed)) - accuracy(on(other, rounds, seed)))
    mean, half = paired(found)
    assert mean > half


def test_later_weights_make_stabler_tickets() -> None:
    """Tickets trained in two orders are 2.3 apart from θ₀, 1.4 from θ₂; accuracy is the same (−0.1 % ± 0.5 %).

    The paper's gain in accuracy is of nets too deep for θ₀; LeNet, as here, it finds to need no rewinding.
    """
    levels, period, apart, right = 2, 5, [], []
    for k in (0, 2):
        method = build({"name": "imp", "density": 0.2, "rewind": k, "levels": levels, "period": period - k}, LAYERS, 0)
        each = []
        for seed in SEEDS:
            ticket = run(method, initial(seed), k + levels * (period - k), seed)[-1]
            one, other = (on(ticket, range(k + 1, period + 1), order) for order in (seed + 50, seed + 70))
            each.append((distance(one.params, other.params), (accuracy(one) + accuracy(other)) / 2))
        apart.append([value for value, _ in each])
        right.append([value for _, value in each])
    mean, half = paired([a - b for a, b in zip(*apart, strict=True)])
    assert mean > half
    assert np.mean(right[1]) > np.mean(right[0]) - 0.02


def distance(one: Params, other: Params) -> float:
    return float(np.sqrt(sum(np.sum((one[name] - other[name]) ** 2) for name in LAYERS)))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "lth", "density": 0.1, "levels": 0}, "levels 0 is below 1"),
        ({"name": "imp", "density": 0.1, "period": 0}, "period 0 is below 1"),
        ({"name": "imp", "density": 0.1, "rewind": -1}, "rewind -1 is below 0"),
        ({"name": "lth", "density": 0.0}, r"density 0.0 is outside \(0, 1\]"),
        ({"name": "lottery_fl", "density": 0.1, "goal": 1.5}, r"goal 1.5 is outside \[0, 1\]"),
        ({"name": "lottery_fl", "density": 0.1, "fraction": -0.1}, r"fraction -0.1 is outside \[0, 1\]"),
    ],
)
def test_a_number_out_of_range_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=f"^method: {message}$"):
        build(table, LAYERS, 0)


# LotteryFL


SHARDS = {"partition": "shards", "shards_per_device": 2, "devices": 5}
WEIGHT = {"w": np.array([[4.0, 3.0, 2.0, 1.0]], np.float32)}


def lottery(**parameters: Any) -> Method:
    return build({"name": "lottery_fl", "density": 0.5, "fraction": 0.25, **parameters}, {"w": (1, 4)}, 0)


def brought(model: Model, method: Method, device: int, accuracy: float | None, **params: Any) -> Trained:
    told = {} if accuracy is None else {"accuracy": np.asarray(accuracy), "examples": np.asarray(5)}
    kept = method.part(model, Holder(device, "", 1)).masks
    return Trained({**WEIGHT, **params}, kept, 1.0, reports={"right": told})


def test_a_device_that_is_right_loses_its_own_least_weights_until_few_are_left() -> None:
    method = lottery(goal=0.6)
    model = method.act(method.start(WEIGHT), {}, 0)
    other = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
    for round in (1, 2, 3):
        trained = {
            0: brought(model, method, 0, 0.6),
            1: brought(model, method, 1, 0.9, w=other),
            2: brought(model, method, 2, 0.5),
            3: brought(model, method, 3, None),
        }
        model = method.act(method.join(model, trained), {}, round)
        own = [method.part(model, Holder(device, "", round)).masks["w"].sum() for device in range(4)]
        assert own == [max(2, 4 - round), max(2, 4 - round), 4, 4]
    assert method.part(model, Holder(0, "", 3)).masks["w"].tolist() == [[True, True, False, False]]
    assert method.part(model, Holder(1, "", 3)).masks["w"].tolist() == [[False, False, True, True]]


def test_it_goes_back_to_the_first_weights_in_the_next_round_alone() -> None:
    method = lottery(goal=0.0)
    model = method.start(WEIGHT)
    model = method.act(method.join(model, {0: brought(model, method, 0, 1.0)}), {}, 4)
    model = model._replace(params={"w": 2 * WEIGHT["w"]})
    assert not method.part(model, Holder(0, "", 4)).params  # it is tested as it was trained
    assert same(method.part(model, Holder(0, "", 5)).params, WEIGHT)
    assert not method.part(model, Holder(1, "", 5)).params
    later = method.act(method.join(model, {}), {}, 5)
    assert not method.part(later, Holder(0, "", 6)).params


def test_the_whole_model_is_the_union_of_tickets() -> None:
    method = lottery(goal=0.0, fraction=1.0)
    model = method.start(WEIGHT)
    both = {0: brought(model, method, 0, 1.0), 1: brought(model, method, 1, 1.0, w=WEIGHT["w"][:, [1, 0, 3, 2]] ** 2)}
    assert method.act(method.join(model, both), {}, 1).masks["w"].tolist() == [[True, True, False, False]]
    ours = {0: both[0], 1: brought(model, method, 1, 1.0, w=np.array([[0.0, 9.0, 9.0, 0.0]], np.float32))}
    assert method.act(method.join(model, ours), {}, 1).masks["w"].tolist() == [[True, True, True, False]]


def test_under_skewed_labels_tickets_are_better_than_the_average_and_cheaper() -> None:
    """Five devices of two shards each: 98 % at 20 % of the weights, FedAvg 72 % with all of them and more bytes."""
    gains, bytes_up = [], dict[str, list[int]]()
    for seed in range(3):
        ours, dense = (
            run_fleet(experiment({"name": name, **given}, rounds=8, seed=seed, data=SHARDS))
            for name, given in (("lottery_fl", {"density": 0.2, "fraction": 0.3}), ("fedavg", {}))
        )
        gains.append(ours.accuracy - dense.accuracy)
        for name, ran in (("ours", ours), ("dense", dense)):
            bytes_up.setdefault(name, []).append(sum(row["bytes_up"] for row in ran.rows if row["phase"] == "train"))
    mean, half = paired(gains)
    assert mean > half
    assert all(a < 0.7 * b for a, b in zip(bytes_up["ours"], bytes_up["dense"], strict=True))

    memory, kept = ours.state.memory, ours.state.masks
    tickets = [{layer: memory[f"mask/{device}/{layer}"] for layer in LAYERS} for device in range(5)]
    assert all(masks.density(ticket) == pytest.approx(0.2, rel=0.01) for ticket in tickets)
    assert all(masks.nested(ticket, kept) for ticket in tickets)
    shared = masks.kept(masks.intersect(tickets[0], tickets[1])) / masks.kept(masks.union(tickets[0], tickets[1]))
    assert shared < 0.9
    # of a device the server keeps masks alone
    rest = [name for name in memory if not name.startswith(("first/", "mask/", "again/"))]
    assert rest == ["round"]
    assert all(memory[name].dtype == np.bool_ for name in memory if name.startswith(("mask/", "again/")))


def test_over_a_fleet_a_device_trains_from_its_first_weights_under_its_mask() -> None:
    table = experiment({"name": "lottery_fl", "density": 0.3, "goal": 0.0}, rounds=3, data=SHARDS)
    ran = run_fleet(table)
    tiers, state, first = ran.setting.tiers(), ran.states[1], ran.states[-1].params
    jobs = tiers.jobs(range(5), {})
    own, mine = tiers.owned(state, jobs, 2)
    for device in range(5):
        view = own.view(mine[device].part)
        assert same(view.params, masks.apply(first, view.masks))
        assert masks.density(view.masks) == pytest.approx(0.8, rel=0.01)
    tested, mine = tiers.owned(state, jobs, 1)
    assert not same(tested.view(mine[0].part).params, own.view(mine[0].part).params)
    assert set(ran.state.parts) == set()
    resumed = run_fleet(table, state)
    assert same(resumed.state.params, ran.state.params)
    assert same(resumed.state.memory, ran.state.memory)
