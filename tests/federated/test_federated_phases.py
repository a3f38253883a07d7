"""One phase after the other over the local grid: what crosses the link, what the server makes of it."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_world
from dealt import dealt

from fedprune import aggregation
from fedprune.experiment import Experiment, ExperimentError
from fedprune.federated.link.engines import local
from fedprune.federated.link.records import from_records, size
from fedprune.federated.rounds.rounds import SELECTED, participants
from fedprune.pruning import masks
from fedprune.pruning.candidates import candidate_masks
from fedprune.runs.pretraining import pretrain
from fedprune.runs.run import simulate
from fedprune.runs.setting import prepare
from fedprune.types import Moments
from fedprune.wire.payload import Payload


def of(run: Any, route: str, round: int) -> list[tuple[Any, Any]]:
    """(request, reply) of one phase in one round, in the order of devices."""
    return [
        (asked.content, reply.content)
        for asked, reply in run.crossed
        if asked.metadata.message_type == route and asked.metadata.group_id == str(round)
    ]


def read(pair: tuple[Any, Any]) -> tuple[Payload, Payload]:
    """A request and its reply as the phases see them."""
    request = from_records(pair[0])
    return request, from_records(pair[1], request.masks)


def rows(run: Any, phase: str) -> list[dict[str, Any]]:
    return [row for row in run.rows if row["phase"] == phase]


def test_a_row_for_each_round_and_phase_in_order(whole: Any) -> None:
    assert [(row["round"], row["phase"]) for row in whole.rows] == [
        (0, "bn_statistics"), (0, "losses"), (0, "evaluate"),
        *((round, phase) for round in (1, 2, 3) for phase in ("train", "top_gradients", "evaluate")),
    ]  # fmt: skip
    keys = {"round", "phase", "accuracy", "loss", "density", "bytes_up", "bytes_down", "seconds", "devices", "faults"}
    keys |= {"asked"}
    for row in whole.rows:
        assert set(row) - {"worst", "mean_device", "kept"} == keys
        assert ("kept" in row) == (row["phase"] == "train")
        assert ("worst" in row) == (row["phase"] == "evaluate")
        assert (row["devices"], row["asked"]) == (4, [0, 1, 2, 3])
        assert row["faults"] == {}
        assert row["seconds"] > 0
    assert all(0 <= row["accuracy"] <= 1 < 1 + row["loss"] for row in rows(whole, "evaluate") + rows(whole, "train"))


def test_bytes_in_a_row_are_the_sizes_of_the_messages(whole: Any) -> None:
    for row in whole.rows:
        route = {"train": "train", "evaluate": "evaluate"}.get(row["phase"], f"query.{row['phase']}")
        crossed = of(whole, route, row["round"])
        assert len(crossed) == 4
        assert row["bytes_down"] == sum(size(asked) for asked, _ in crossed)
        assert row["bytes_up"] == sum(size(reply) for _, reply in crossed)


def test_a_pruned_weight_is_exactly_zero_after_every_round(whole: Any) -> None:
    assert [state.round for state in whole.states] == [0, 1, 2, 3]
    for state in whole.states:
        assert tiny_world.pruned_are_zero(state.params, state.masks)
        assert set(state.masks) == {"1.0.weight", "2.0.weight"}  # neither the first nor the last layer


def test_grow_changes_one_block_and_no_layers_density(whole: Any) -> None:
    changed = []
    for before, after in zip(whole.states, whole.states[1:], strict=False):
        assert masks.densities(before.masks) == masks.densities(after.masks)
        changed.append([name for name, mask in after.masks.items() if np.any(mask != before.masks[name])])
    assert changed == [["2.0.weight"], ["1.0.weight"], ["2.0.weight"]]  # backward: from the output
    assert len({row["density"] for row in whole.rows[1:]}) == 1


def test_a_grow_reply_is_far_smaller_than_a_dense_gradient(whole: Any) -> None:
    dense = 4 * sum(mask.size for mask in whole.state.masks.values())
    for _, reply in of(whole, "query.top_gradients", 1):
        assert size(reply) < dense / 4
    request, reply = read(of(whole, "query.top_gradients", 1)[0])
    (name,) = request.values["counts"]
    at = reply.tensors[f"at/{name}"]
    assert int(at.sum()) == request.values["counts"][name]
    assert not np.any(at & request.masks[name])  # gradients of pruned weights alone


def test_grown_weights_start_at_zero_where_the_averaged_gradient_is_largest(whole: Any) -> None:
    pairs = [read(pair) for pair in of(whole, "query.top_gradients", 1)]
    request = pairs[0][0]
    (name,) = request.values["counts"]
    count, mask, weight = request.values["counts"][name], request.masks[name], request.tensors[name]
    total = sum(reply.values["examples"] for _, reply in pairs)
    mean = np.zeros(mask.shape)
    for _, reply in pairs:
        mean[reply.tensors[f"at/{name}"]] += (
            reply.values["examples"] / total * reply.tensors[f"grad/{name}"].astype(np.float64)
        )
    after = whole.states[1]
    grown, dropped = after.masks[name] & ~mask, mask & ~after.masks[name]
    assert int(grown.sum()) == int(dropped.sum()) == count > 0
    assert np.abs(mean)[grown].min() >= np.abs(mean)[~mask & ~grown].max()
    assert np.abs(weight)[dropped].max() <= np.abs(weight)[mask & ~dropped].min()
    assert not after.params[name][grown].any()


def test_the_aggregate_is_fedavg_of_what_the_devices_returned(whole: Any) -> None:
    pairs = [read(pair) for pair in of(whole, "train", 2)]
    sizes = [reply.values["examples"] for _, reply in pairs]
    assert len(set(sizes)) > 1  # the weights matter
    (next_request, _) = read(of(whole, "query.top_gradients", 2)[0])  # the state right after the average
    for name, value in next_request.tensors.items():
        parts = [reply.tensors[name] for _, reply in pairs]
        if value.dtype.kind == "f":
            mean = sum(n * part.astype(np.float64) for n, part in zip(sizes, parts, strict=True)) / sum(sizes)
            np.testing.assert_allclose(value, mean, rtol=1e-6, atol=1e-7)
        else:
            assert value == max(parts)


def test_what_devices_train_on_is_their_part_and_the_same_wherever(whole: Any) -> None:
    members = dealt(prepare(tiny_world.experiment(), "test")).devices
    replies = [read(pair)[1] for pair in of(whole, "train", 1)]
    assert [reply.values["examples"] for reply in replies] == [len(member.train_indices) for member in members]
    assert [reply.values["seen"] for reply in replies] == [len(member.train_indices) for member in members]


@pytest.fixture(scope="module")
def arbitrary(in_tmp: Callable[..., Any]) -> Any:
    """A run whose candidates are no top-k of |θ|."""
    return in_tmp(tiny_world.experiment(method={"name": "tiny_world:random_candidates", "seed": 4}, rounds=1))


def test_candidates_that_are_a_top_k_travel_as_counts(whole: Any, arbitrary: Any) -> None:
    request, _ = read(of(whole, "query.bn_statistics", 0)[0])
    candidates = request.values["candidates"]
    assert len(candidates) == 3
    assert all(set(counts) == {"1.0.weight", "2.0.weight"} for counts in candidates.values())
    assert not any("mask" in name for name in request.tensors)
    other, _ = read(of(arbitrary, "query.bn_statistics", 0)[0])
    assert list(other.values["candidates"].values()) == [None] * 3
    assert sum("mask/" in name for name in other.tensors) == 3 * 2


def test_every_candidate_has_its_statistics_sent_and_merged(whole: Any, arbitrary: Any) -> None:
    layers = [f"{block}.1.running_{kind}" for block in range(3) for kind in ("mean", "var")]
    for run, merge in ((whole, aggregation.mean_of_variances), (arbitrary, aggregation.pooled)):
        replies = [read(pair)[1] for pair in of(run, "query.bn_statistics", 0)]
        wanted = {f"{index}/{name.replace('running_', '')}" for index in range(3) for name in layers}
        assert all(set(reply.tensors) == wanted for reply in replies)
        # the loss phase carries the merged statistics, the paper's equations over these replies
        merged, _ = read(of(run, "query.losses", 0)[0])
        for index in range(3):
            for block in range(3):
                key = f"{index}/{block}.1"
                moments = merge(
                    [
                        Moments(reply.tensors[f"{key}.mean"], reply.tensors[f"{key}.var"], reply.values["examples"])
                        for reply in replies
                    ]
                )
                np.testing.assert_array_equal(merged.tensors[f"{key}.mean"], moments.mean.astype(np.float32))
                np.testing.assert_array_equal(merged.tensors[f"{key}.var"], moments.variance.astype(np.float32))


def test_candidate_phases_change_masks_and_batch_norm_buffers_alone(whole: Any) -> None:
    experiment = tiny_world.experiment()
    start = pretrain(prepare(experiment, "test"))
    chosen = whole.states[0]
    for name, value in start.params.items():
        now = chosen.params[name]
        if "running" in name:
            assert not np.array_equal(now, value), name
        elif name in chosen.masks:
            np.testing.assert_array_equal(now, np.where(chosen.masks[name], value, 0))
        else:
            np.testing.assert_array_equal(now, value)


@pytest.mark.parametrize("which", ["whole", "arbitrary"])
def test_the_chosen_candidate_has_the_least_loss(request: pytest.FixtureRequest, which: str) -> None:
    run = request.getfixturevalue(which)
    pairs = [read(pair) for pair in of(run, "query.losses", 0)]
    asked = pairs[0][0]
    total = sum(np.asarray(reply.values["losses"]) for _, reply in pairs)
    best, state = int(np.argmin(total)), run.states[0]
    counts = asked.values["candidates"][str(best)]
    for name, mask in state.masks.items():
        own = {name: asked.tensors[name]}
        want = (
            asked.tensors[f"{best}/mask/{name}"] if counts is None else candidate_masks(own, {name: counts[name]})[name]
        )
        np.testing.assert_array_equal(mask, want)
        np.testing.assert_array_equal(state.notes[SELECTED + name], mask)
    for block in range(3):
        for kind in ("mean", "var"):
            np.testing.assert_array_equal(
                state.params[f"{block}.1.running_{kind}"], asked.tensors[f"{best}/{block}.1.{kind}"]
            )


def test_vanilla_selection_skips_the_statistics(go: Callable[..., Any]) -> None:
    run = go(tiny_world.experiment(method={**tiny_world.FEDTINY, "statistics": "vanilla"}, rounds=1))
    assert [row["phase"] for row in run.rows][:2] == ["losses", "evaluate"]
    start = pretrain(prepare(tiny_world.experiment(), "test"))
    np.testing.assert_array_equal(run.states[0].params["0.1.running_mean"], start.params["0.1.running_mean"])


@pytest.mark.parametrize(
    "method", [{"name": "fedavg"}, {"name": "magnitude", "density": 0.3}, {"name": "random_erk", "density": 0.3}]
)
def test_methods_without_a_choice_or_growth(go: Callable[..., Any], method: dict[str, Any]) -> None:
    run = go(tiny_world.experiment(method=method, rounds=2))
    assert [row["phase"] for row in run.rows] == ["choose", "evaluate", "train", "evaluate", "train", "evaluate"]
    first, last = run.states[0], run.states[-1]
    assert masks.equal(first.masks, last.masks)
    assert last.density() == pytest.approx(method.get("density", 1.0), abs=0.01)
    for name, mask in last.masks.items():
        assert not last.params[name][~mask].any()


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("no_candidate", r".*tiny_world\.py, line \d+, in start: ValueError: no mask of the density asked for"),
        ("of_no_kind", "round 1 asks mood of an unknown kind 'mood'; there are accuracy, bn_statistics"),
    ],
)
def test_a_method_that_cannot_go_on_is_told_in_one_line(tmp_path: Path, method: str, why: str) -> None:
    experiment = tiny_world.experiment(method={"name": f"tiny_world:{method}"}, rounds=1)
    with pytest.raises(ExperimentError, match=f"^tiny: method: {why}") as error:
        simulate(experiment, tmp_path / "run", source="tiny", engine=functools.partial(local, workers=1))
    assert "\n" not in str(error.value)


def test_a_better_model_comes_out(whole: Any) -> None:
    loss = [row["loss"] for row in rows(whole, "evaluate")]
    assert loss[-1] < loss[0]


def test_evaluation_only_where_asked_and_in_the_last_round(go: Callable[..., Any]) -> None:
    run = go(tiny_world.experiment(evaluate_every=2))
    assert [row["round"] for row in rows(run, "evaluate")] == [0, 2, 3]
    assert [state.round for state in run.states] == [0, 1, 2, 3]  # saved all the same


def half(**changes: Any) -> Experiment:
    return tiny_world.experiment(training={"batch": 8, "participation": 0.5}, **changes)


def test_participants_follow_from_seed_and_round() -> None:
    trainers = tuple(range(0, 40, 2))
    drawn = [participants(half(), trainers, round) for round in range(1, 30)]
    assert drawn == [participants(half(), trainers, round) for round in range(1, 30)]
    for devices in drawn:
        assert len(set(devices)) == 10
        assert devices == sorted(devices)
        assert set(devices) <= set(trainers)
    assert len({tuple(devices) for devices in drawn}) > 25
    assert set().union(*drawn) == set(trainers)  # nobody is left out for good
    assert drawn[0] != participants(half(seed=1), trainers, 1)
    assert participants(tiny_world.experiment(), trainers, 5) == list(trainers)
    assert len(participants(half(), (3,), 1)) == 1  # never nobody


def test_only_participants_are_asked_to_train_and_all_to_evaluate(go: Callable[..., Any]) -> None:
    run = go(half())
    for round in (1, 2, 3):
        want = [1000 + device for device in participants(half(), range(4), round)]
        for route in ("train", "query.top_gradients"):
            asked = [
                message.metadata.dst_node_id
                for message, _ in run.crossed
                if message.metadata.message_type == route and message.metadata.group_id == str(round)
            ]
            assert asked == want
        assert len(of(run, "evaluate", round)) == 4
    assert [row["devices"] for row in run.rows if row["round"] == 1] == [2, 2, 4]


def test_devices_without_training_examples_only_evaluate(go: Callable[..., Any]) -> None:
    data = {"name": "tiny_world:load_people", "partition": "natural", "official_test": True, "public": 0.2}
    run = go(tiny_world.experiment(data=data, rounds=1))
    members = dealt(prepare(tiny_world.experiment(data=data), "test")).devices
    trainers = [index for index, member in enumerate(members) if len(member.train_indices)]
    assert len(members) == 6
    assert trainers == [0, 1, 2, 3]
    for route in ("query.bn_statistics", "query.losses", "train", "query.top_gradients"):
        asked = [m.metadata.dst_node_id - 1000 for m, _ in run.crossed if m.metadata.message_type == route]
        assert asked == trainers, route
    replies = [read(pair)[1] for pair in of(run, "evaluate", 1)]
    assert [reply.values["seen"] for reply in replies] == [len(member.test_indices) for member in members]
    assert [reply.values["seen"] for reply in replies][:4] == [0, 0, 0, 0]
    assert rows(run, "evaluate")[-1]["accuracy"] == sum(r.values["correct"] for r in replies) / 30


def test_layers_may_be_called_as_their_statistics_are(whole: Any, go: Callable[..., Any]) -> None:
    run = go(tiny_world.experiment(model="tiny_world:oddly_named", rounds=1))
    assert all(row["faults"] == {} for row in run.rows)
    for one, other in (("0.1", "mean.1"), ("1.1", "var.mean.1"), ("2.1", "x.var.1")):
        for kind in ("running_mean", "running_var"):
            np.testing.assert_array_equal(
                whole.states[0].params[f"{one}.{kind}"], run.states[0].params[f"{other}.{kind}"]
            )
