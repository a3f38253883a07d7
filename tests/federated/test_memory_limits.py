"""Devices whose memory the system really limits: what does not fit is refused, planned anew, and never a crash."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import small_devices
from fleets import assert_whole, fleet_of
from small_devices import Limit, Limits, Run, SmallProcess

from fedprune.pruning import masks
from fedprune.runs.planning import FleetPlan
from fedprune.runs.setting import prepare

MB = 10**6


@pytest.fixture(scope="module")
def process() -> Iterator[SmallProcess]:
    """One process for all tests."""
    small = SmallProcess()
    yield small
    small.close()


@pytest.fixture(scope="module")
def plan() -> FleetPlan:
    """What the fleet would do if no device said anything."""
    found = prepare(small_devices.experiment(), "test").plan
    assert found is not None
    return found


@pytest.fixture(scope="module")
def between(plan: FleetPlan) -> Callable[[str, int], int]:
    """Bytes that hold a tier's i-th smallest different need, but not the next: in the middle of the two."""

    def of(tier: str, index: int) -> int:
        needs = sorted({job.needs_bytes for job in plan.jobs[tier]})
        needs = [need for i, need in enumerate(needs) if not i or need > needs[i - 1] + 5 * MB]
        return (needs[index] + needs[index + 1]) // 2

    return of


@pytest.fixture(scope="module")
def returned(
    tmp_path_factory: pytest.TempPathFactory, between: Callable[[str, int], int], process: SmallProcess
) -> Run:
    """In rounds 1 and 2 device 0 has room for a leaner way, 1 for a smaller part, 2 for nothing; then it is over."""
    has = {0: between("large", 2), 1: between("large", 1), 2: 330 * MB}

    def limits(device: int, route: str, round: int) -> Limit | None:
        return Limit(has[device]) if device in has and round in (1, 2) else None

    return small_devices.run(tmp_path_factory.mktemp("returned"), small_devices.experiment(), limits, process)


def test_needs_are_far_enough_apart_to_tell(between: Callable[[str, int], int]) -> None:
    assert between("large", 0) < between("large", 1) < between("large", 2)


def test_a_device_refuses_what_would_not_fit_and_says_why(
    returned: Run, plan: FleetPlan, between: Callable[[str, int], int]
) -> None:
    row = returned.of("train")[1]
    assert row["devices"] == 1
    assert row["faults"] == {}
    assert list(row["refused"]) == ["0", "1", "2"]
    for device, said in row["refused"].items():
        assert said["refused"] == plan.jobs[plan.members[int(device)]][0].needs_bytes > said["memory_bytes"]
    assert row["refused"]["0"]["memory_bytes"] == pytest.approx(between("large", 2), abs=4 * MB)
    assert row["refused"]["1"]["memory_bytes"] == pytest.approx(between("large", 1), abs=4 * MB)


def test_it_is_planned_anew_in_less_memory_or_sits_out(returned: Run) -> None:
    first, second = returned.of("train")[1], returned.of("train")[2]
    assert first["replanned"] == {
        "0": "large, pruned weights not stored", "1": "small", "2": "nothing: none fits",
    }  # fmt: skip
    assert second["devices"] == 3
    assert second["faults"] == {}
    assert "refused" not in second


def test_memory_that_is_given_back_is_used_again_without_a_restart(returned: Run) -> None:
    assert returned.of("train")[3]["replanned"] == {"0": "large", "1": "large"}
    assert "replanned" not in returned.of("train")[4]
    # also by the device that was asked for nothing: evaluation tells
    assert [row["devices"] for row in returned.of("train").values()][3] == 4
    assert not any("refused" in row for round, row in returned.of("train").items() if round > 1)


def test_the_run_completes_and_is_whole(returned: Run) -> None:
    assert [state.round for state in returned.states] == [0, 1, 2, 3, 4]
    for state in returned.states:
        assert_whole(state)
    tested = [row for row in returned.rows if row["phase"] == "evaluate"]
    for row in tested:  # one that has no room to train may have none for the whole model either
        assert set(row["faults"]) <= ({"2"} if row["round"] in (1, 2) else set())
        assert row["devices"] + len(row["faults"]) >= (2 if row["round"] in (1, 2) else 4)


def test_an_allocation_that_fails_all_the_same_is_a_refusal_and_leaves_the_device_sound(
    tmp_path: Path, between: Callable[[str, int], int], process: SmallProcess
) -> None:
    """From where nothing can be decoded to where little is missing, in a plain way to train and in a lean one."""
    room = [300, 312, 326]
    taken, last = len(room) + 1, len(room) + 4

    def limits(device: int, route: str, round: int) -> Limit | None:
        lean = between("large", 2) if device else 0
        if device > 1 or (route != "train" and not lean):
            return None
        if route == "train" and round <= len(room):
            return Limit(room[round - 1] * MB, understated=True)
        if route == "train" and round == taken:
            return Limit(lean or 450 * MB, taken=True)  # by something else, once the job was found to fit
        return Limit(lean) if lean else None

    fleet = {"large": {"devices": 2}, "small": {"devices": 1, "density": 0.05}}
    data = {"name": "tiny_world:load", "partition": "iid", "public": 0.2, "examples": 60}
    experiment = small_devices.experiment(rounds=last, fleet=fleet, data=data)
    run = small_devices.run(tmp_path / "run", experiment, limits, process)
    rows = list(run.of("train").values())
    assert all(row["faults"] == {} for row in rows)
    refused = [list(row.get("refused", {})) for row in rows]
    assert refused[:2] == [["0", "1"]] * 2
    assert set(refused[taken - 1]) <= {"0", "1"}  # one that has failed just before has got a leaner job
    assert refused[taken - 1], [(row["devices"], row.get("refused"), row.get("replanned")) for row in rows]
    assert refused[taken:] == [[]] * 3
    assert rows[-1]["devices"] == 3  # what took the memory is not held against a device for ever
    for row in rows:
        for said in row.get("refused", {}).values():
            assert said["refused"] > 0 < said["memory_bytes"]
    assert_whole(run.states[-1])


def test_what_node_config_states_limits_the_same_way(tmp_path: Path, process: SmallProcess) -> None:
    """Device 0 says it from the first message on and is asked for no more; devices 1 and 2 say it in round 1 first."""
    fleet = {"large": {"devices": 2}, "small": {"devices": 2, "density": 0.05}}
    experiment = fleet_of("magnitude", fleet=fleet, rounds=2, training={"engine": "torch"})
    plan = prepare(experiment, "test").plan
    assert plan is not None
    lean = next(job.needs_bytes for job in plan.jobs["large"] if job.lean.sparse) + 1
    stated = {0: lean, 1: lean, 2: min(job.needs_bytes for job in plan.jobs["small"]) - 2}

    def limits(device: int, route: str, round: int) -> Limit | None:
        told = device in stated and (device == 0 or round > 0)
        return Limit(stated_mb=stated[device] / 2**20) if told else None

    run = small_devices.run(tmp_path / "run", experiment, limits, process)
    first, second = run.of("train").values()
    assert {device: said["memory_bytes"] for device, said in first["refused"].items()} == {
        "1": pytest.approx(stated[1], abs=1), "2": pytest.approx(stated[2], abs=1),
    }  # fmt: skip
    assert first["replanned"] == {"1": "large, pruned weights not stored", "2": "nothing: none fits"}
    assert "refused" not in second
    assert [row["devices"] for row in (first, second)] == [2, 3]


def test_a_part_that_no_device_can_hold_by_now_is_drawn_all_the_same(tmp_path: Path, process: SmallProcess) -> None:
    experiment = fleet_of(
        "fedtiny", fleet={"large": {"devices": 2}, "small": {"devices": 2, "density": 0.05}}, rounds=1
    )
    plan = prepare(experiment, "test").plan
    assert plan is not None
    less = min(job.needs_bytes for job in plan.jobs["large"] if job.part == "large") - 1
    limits: Limits = lambda device, *_: Limit(stated_mb=less / 2**20) if device < 2 else None  # noqa: E731
    run = small_devices.run(tmp_path / "run", experiment, limits, process)
    assert_whole(run.states[0])
    assert masks.density(run.states[0].parts["large"].masks) == pytest.approx(0.2, abs=0.01)
    assert run.of("train")[1]["devices"] == 4
    assert_whole(run.states[1])
    assert masks.equal(run.states[0].masks, run.states[1].masks)  # and nobody knows how to change it
