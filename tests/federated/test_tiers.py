"""Whole runs of fleets of unequal tiers: parts stay nested, and who owns a weight alone changes it."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_world
from fleets import DENSITIES, STRUCTURED, assert_same, assert_whole, fleet_of

from fedprune.federated.rounds.model import State, read, save
from fedprune.federated.rounds.rounds import participants
from fedprune.methods.nested import Order
from fedprune.methods.ordering import by_scores, by_votes
from fedprune.pruning import masks
from fedprune.pruning.nesting import counts, nested
from fedprune.runs.setting import prepare
from fedprune.types import Model, Part, Trained

RUNS = {
    "fedtiny": ("fedtiny", {}),
    "fedtiny by scores": ("fedtiny", {"join": "scores"}),
    "fedtiny by votes": ("fedtiny", {"join": "votes"}),
    "fedtiny without inner steps": ("fedtiny", {"inner_steps": 0}),
    "magnitude": ("magnitude", {}),
    "random_erk": ("random_erk", {"inner_steps": 1}),
    "heterofl": ("heterofl", {}),
    "fjord": ("fjord", {}),
    "fedrolex": ("fedrolex", {}),
}


@pytest.fixture(scope="module")
def ran(in_tmp: Callable[..., Any]) -> Callable[[str], Any]:
    """Each run, made once."""
    made: dict[str, Any] = {}

    def of(name: str) -> Any:
        method, training = RUNS[name]
        if name not in made:
            made[name] = in_tmp(fleet_of(method, training=training))
        return made[name]

    return of


@pytest.mark.parametrize("name", RUNS)
def test_parts_are_nested_and_what_is_pruned_is_zero_after_every_round(ran: Callable[[str], Any], name: str) -> None:
    run = ran(name)
    assert [state.round for state in run.states] == [0, 1, 2, 3]
    for state in run.states:
        assert list(state.parts) == ["large", "middle", "small"]
        assert_whole(state)
        if RUNS[name][0] in STRUCTURED:
            assert state.masks == {}  # a window that no device trains now may return


@pytest.mark.parametrize("name", RUNS)
def test_a_line_for_each_part_on_every_device(ran: Callable[[str], Any], name: str) -> None:
    rows = ran(name).rows
    assert all(row.get("faults", {}) == {} and "refused" not in row and "replanned" not in row for row in rows)
    for round in range(4):
        tested = [row for row in rows if row["round"] == round and row["phase"] == "evaluate"]
        assert [row["part"] for row in tested] == ["large", "middle", "small"]
        assert all(row["devices"] == 4 and 0 <= row["accuracy"] <= 1 for row in tested)
        densities = [row["density"] for row in tested]
        assert densities == sorted(densities, reverse=True)
    trained = [row for row in rows if row["phase"] == "train"]
    assert [row["devices"] for row in trained] == [4, 4, 4]


@pytest.mark.parametrize("name", [name for name in RUNS if name != "fedrolex"])
def test_rounds_change_no_layers_count(ran: Callable[[str], Any], name: str) -> None:
    states = ran(name).states
    for part in states[0].parts:
        assert len({tuple(counts(state.parts[part].masks).items()) for state in states}) == 1


def test_of_fedtiny_masks_change_with_growth_and_a_smaller_one_only_where_the_largest_did(
    ran: Callable[[str], Any],
) -> None:
    for name in ("fedtiny", "fedtiny by scores", "fedtiny by votes"):
        states = ran(name).states
        for before, after in itertools.pairwise(states):
            changed = {layer for layer, mask in after.masks.items() if not np.array_equal(mask, before.masks[layer])}
            assert len(changed) == 1
            for part in ("middle", "small"):
                for layer, mask in after.parts[part].masks.items():
                    same = np.array_equal(mask, before.parts[part].masks[layer])
                    assert same or layer in changed
        moved = [not masks.equal(states[0].parts[part].masks, states[-1].parts[part].masks) for part in states[0].parts]
        assert all(moved), name


def test_what_devices_say_of_the_order_is_forgotten_once_it_is_used(ran: Callable[[str], Any]) -> None:
    for name in ("fedtiny", "fedtiny by scores", "fedtiny by votes"):
        assert not [key for state in ran(name).states for key in state.memory if key.startswith("order/")]


@pytest.mark.parametrize(("order", "kept"), [(by_scores, [1, 2]), (by_votes, [0, 1])])
def test_two_devices_decide_by_their_magnitudes_or_by_their_votes(order: Order, kept: list[int]) -> None:
    """Worked by hand: means 2.4, 5.4, 3.8, 0 of the magnitudes; shares 0.6, 1, 0.4, 0 of the votes."""
    whole = {"w": np.ones(4, bool)}
    parts = {"large": Part({}, whole), "small": Part({}, {"w": np.array([True, True, False, False])})}
    model = Model({"w": np.zeros(4, np.float32)}, whole, parts=parts)
    first = Trained({"w": np.array([4, -3, 0, 0], np.float32)}, whole, 3)
    second = Trained({"w": np.array([0, 9, -9.5, 0], np.float32)}, whole, 2)
    found = order(model, "small", {0: first, 1: second})
    assert np.flatnonzero(nested(found, {"w": 2}, whole)["w"]).tolist() == kept


@pytest.mark.parametrize("name", ["heterofl", "fjord", "fedrolex"])
def test_windows_stay_or_roll_on_by_one(ran: Callable[[str], Any], name: str) -> None:
    states = ran(name).states
    kept = [np.flatnonzero(state.parts["small"].masks["1.1.bias"]).tolist() for state in states]
    # after a round a part is what was trained in it
    assert kept == ([[0, 1, 2], [0, 1, 2], [1, 2, 3], [2, 3, 4]] if name == "fedrolex" else [[0, 1, 2]] * 4)


@pytest.mark.parametrize("name", RUNS)
def test_every_part_has_statistics_of_its_own(ran: Callable[[str], Any], name: str) -> None:
    first, last = ran(name).states[0], ran(name).state
    for part, own in last.parts.items():
        assert {key for key in last.params if "running" in key or "num_batches" in key} == set(own.params)
        assert not np.array_equal(own.params["1.1.running_var"], first.parts[part].params["1.1.running_var"])
    found = [own.params["2.1.running_mean"].tobytes() for own in last.parts.values()]
    assert len(set(found)) == 3
    for key, value in last.parts["large"].params.items():  # the model's are those of its largest part
        assert np.array_equal(last.params[key], value)


@pytest.mark.parametrize("method", ["fedtiny", "heterofl"])
def test_a_better_model_comes_out_for_each_tier(go: Callable[..., Any], method: str) -> None:
    rows = go(fleet_of(method, rounds=2, training={"epochs": 3})).rows
    for part in ("large", "middle", "small"):
        loss = [row["loss"] for row in rows if row["phase"] == "evaluate" and row["part"] == part]
        assert loss[-1] < loss[0], part


# who owns a weight


@pytest.mark.parametrize("method", ["fedtiny", "magnitude", "heterofl"])
def test_what_no_participant_owns_keeps_the_servers_value(go: Callable[..., Any], method: str) -> None:
    experiment = fleet_of(method, rounds=5, training={"participation": 0.25, "inner_steps": 1})
    plan = prepare(experiment, "test").plan
    assert plan is not None
    states, left = go(experiment).states, 0
    for before, after in itertools.pairwise(states):
        (device,) = participants(experiment, range(4), after.round)
        part = plan.members[device]
        left += part != "large"
        for layer, value in after.params.items():
            owned = before.masks_of(part).get(layer, np.ones(value.shape, bool))
            if layer in before.parts["large"].params:
                continue
            unknown = ~owned & after.masks.get(layer, np.ones(value.shape, bool))  # growth may prune
            assert value[unknown].tobytes() == before.params[layer][unknown].tobytes(), (after.round, layer)
        for name, own in after.parts.items():  # statistics are of those who trained the part
            trained = name in (part, *(plan.jobs[part][0].inner))
            mean = "0.1.running_mean"
            assert trained == (not np.array_equal(own.params[mean], before.parts[name].params[mean])), name
        if part != "large":
            assert masks.equal(after.masks, before.masks)  # who holds no more knows of no more
    assert left >= 2


# the same bits


@pytest.mark.parametrize("name", ["fedtiny by votes", "fjord"])
def test_replies_in_any_order_give_the_same_state(
    ran: Callable[[str], Any], go: Callable[..., Any], recorder: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    send, rng = recorder.send_and_receive, random.Random(3)

    def mixed(self: Any, messages: Any, *, timeout: float | None = None) -> Any:
        replies = list(send(self, messages, timeout=timeout))
        rng.shuffle(replies)
        yield from replies

    monkeypatch.setattr(recorder, "send_and_receive", mixed)
    method, training = RUNS[name]
    again = go(fleet_of(method, training=training))
    for one, other in zip(ran(name).states, again.states, strict=True):
        assert_same(one, other)


EQUAL: dict[str, Any] = {"one": {"devices": 3}, "other": {"devices": 1}}


@pytest.mark.parametrize("method", ["fedtiny", "magnitude"])
def test_tiers_of_one_size_are_no_tiers(in_tmp: Callable[..., Any], method: str) -> None:
    plain = in_tmp(fleet_of(method, fleet={}))
    for inner_steps in (0, 2):
        fleet = in_tmp(fleet_of(method, fleet=EQUAL, training={"inner_steps": inner_steps}))
        for one, other in zip(plain.states, fleet.states, strict=True):
            assert_same(one, other)
        keys = ("round", "phase", "accuracy", "density", "devices")
        assert [[row[key] for key in keys if key in row] for row in fleet.rows] == [
            [row[key] for key in keys if key in row] for row in plain.rows
        ]


def test_tiers_of_one_size_are_no_tiers_where_batches_are_small(in_tmp: Callable[..., Any]) -> None:
    data = {"name": "tiny_world:load", "partition": "iid", "devices": 4, "public": 0.2, "development": 0.5}
    changes: dict[str, Any] = {"data": data, "rounds": 1, "training": {"batch": 2}}
    plain, fleet = (in_tmp(fleet_of("fedtiny", fleet=tiers, **changes)) for tiers in ({}, EQUAL))
    assert_same(plain.state, fleet.state)


def test_full_widths_are_fedavg(in_tmp: Callable[..., Any]) -> None:
    plain = in_tmp(tiny_world.experiment(method={"name": "fedavg"}, rounds=2))
    for method in ("heterofl", "fedrolex"):
        fleet = in_tmp(fleet_of(method, fleet=EQUAL, rounds=2))
        for one, other in zip(plain.states, fleet.states, strict=True):
            assert list(other.parts) == ["one"]
            for name, value in one.params.items():
                assert value.tobytes() == other.params[name].tobytes(), (method, name)


@pytest.mark.parametrize(("name", "round"), [("fedtiny by scores", 0), ("fedtiny by scores", 2), ("fedrolex", 1)])
def test_a_fleet_stopped_after_any_round_goes_on_to_the_same_model(
    ran: Callable[[str], Any], go: Callable[..., Any], name: str, round: int
) -> None:
    method, training = RUNS[name]
    experiment = fleet_of(method, training=training)

    def stop(row: dict[str, Any]) -> None:
        if row.get("round") == round + 1 and row["phase"] == "train":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(experiment, progress=stop)
    again = go(experiment, resume=True)
    assert [state.round for state in again.states] == list(range(round + 1, 4))
    assert_same(ran(name).state, again.state)
    timeless = [[{k: v for k, v in row.items() if k != "seconds"} for row in run.rows] for run in (ran(name), again)]
    assert timeless[0] == timeless[1]


def test_two_workers_give_the_fleet_of_one(ran: Callable[[str], Any], go: Callable[..., Any]) -> None:
    again = go(fleet_of("fedtiny"), workers=2)
    for one, other in zip(ran("fedtiny").states, again.states, strict=True):
        assert_same(one, other)


def test_a_checkpoint_keeps_every_part_bit_by_bit_and_in_order(ran: Callable[[str], Any], tmp_path: Path) -> None:
    odd = np.array([-0.0, np.nan, np.inf, 1e-45], np.float32)
    mask = np.array([True, False, True, False])
    parts = {
        "z-large": Part({"x.running_mean": odd, "n.num_batches_tracked": np.asarray(3)}, {"x": mask, "part/x": mask}),
        "a": Part({}, {"x": ~mask}),
    }
    params = {"x": odd, "part/x": odd, "x.running_mean": -odd, "n.num_batches_tracked": np.asarray(2)}
    state = State(
        7, params, {"x": mask}, {"order/a/x": -odd}, parts, {"ranges/a": odd}, {"small/losses": {"x": odd}, "none": {}}
    )
    for each in (state, *ran("fedtiny by votes").states, *ran("fedrolex").states):
        save(each, tmp_path / "c")
        assert_same(each, read(tmp_path / "c"))


# tiers that only run the model


@pytest.mark.parametrize("inner_steps", [0, 1])
def test_a_tier_that_does_not_train_gets_a_part_of_what_others_train(go: Callable[..., Any], inner_steps: int) -> None:
    fleet = {
        "board": {"devices": 7, "trains": False, "density": 0.05},
        **{name: {**DENSITIES[name], "devices": 2} for name in ("large", "middle")},
        "any": {"devices": 1, "trains": False},
    }
    experiment = fleet_of("fedtiny", fleet=fleet, rounds=2, training={"inner_steps": inner_steps})
    plan = prepare(experiment, "test").plan
    assert plan is not None
    assert experiment.data.devices == len(plan.members) == 4
    assert {name: tier.size for name, tier in plan.tiers.items()} == {
        "board": 0.05, "large": 0.2, "middle": 0.1, "any": 0.2,
    }  # fmt: skip
    assert "board" not in plan.jobs
    assert plan.tiers["board"].job is None
    assert all("board" in jobs[0].inner for jobs in plan.jobs.values())
    largest = next(iter(plan.methods))
    run = go(experiment)
    for state in run.states:
        assert list(state.parts) == [largest, "middle", "board"]
        assert_whole(state)
    before, after = run.states[0].parts["board"], run.state.parts["board"]
    assert not np.array_equal(before.params["2.1.running_mean"], after.params["2.1.running_mean"])
    assert [row["devices"] for row in run.rows if row.get("part") == "board" and row["phase"] == "evaluate"] == [4] * 3
