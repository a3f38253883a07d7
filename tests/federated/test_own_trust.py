"""Devices with data of their own that grow, lose files, come late, or lie."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recorded_world
from flwr.app import Message

from fedprune.data import agreement
from fedprune.federated.rounds.asking import RunStopped
from fedprune.federated.rounds.fleet import Expected, Fleet
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases import Reply
from fedprune.federated.rounds.phases.agree import agree
from fedprune.runs.folder import RunFolder
from fedprune.wire.payload import Payload

NAMES = ("ann", "bob", "cyd")
METHOD = {"name": "fedtiny", "density": 0.4, "pool": 3, "period": 1}


def test_recordings_that_are_new_count_from_the_next_round_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people = recorded_world.people(tmp_path / "people")
    grid = recorded_world.Recorded(3, recorded_world.as_it_is)

    def grow(row: dict[str, Any]) -> None:
        if row.get("phase") == "train" and row["round"] == 1:
            recorded_world.record(people / "ann", ["bee", "cat"], each=20, seed=99, file="second.npz")

    recorded_world.go(tmp_path / "run", people, engine=recorded_world.over(grid, people, monkeypatch), progress=grow)
    trained = {
        round: [values["examples"] for kind, number, values in grid.said if (kind, number) == ("train", round)]
        for round in "123"
    }
    first = RunFolder(tmp_path / "run").agreed()
    assert first is not None
    assert trained["1"] == [first.holds[name]["train"] for name in NAMES]
    assert trained["2"] == trained["3"]
    assert trained["2"][0] > trained["1"][0]
    assert trained["2"][1:] == trained["1"][1:]
    assert not any(row["faults"] for row in RunFolder(tmp_path / "run").rows() if "faults" in row)


def test_a_device_that_records_before_the_first_round_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people = recorded_world.people(tmp_path / "people")

    def grow(asked: Message, reply: Message) -> Message:
        if asked.metadata.message_type == "query.agree":
            recorded_world.record(people / "ann", ["bee", "cat"], each=10, seed=99, file="second.npz")
        return reply

    recorded_world.go(
        tmp_path / "run", people, engine=recorded_world.over(recorded_world.Recorded(3, grow), people, monkeypatch)
    )
    begun = [row for row in RunFolder(tmp_path / "run").rows() if row["round"] == 0]
    assert begun
    assert all(row["devices"] == 3 and not row["faults"] and not row.get("grown") for row in begun if "devices" in row)


def test_a_file_that_vanishes_while_training_goes_on_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = recorded_world.people(tmp_path / "people")
    recorded_world.record(people / "bob", ["cat"], each=20, seed=5, file="second.npz")

    def lose(row: dict[str, Any]) -> None:
        if row.get("phase") == "train" and row["round"] == 1:
            (people / "bob" / "second.npz").unlink()
            (people / "bob" / "third.npz").write_bytes(b"half a file")

    grid = recorded_world.Recorded(3, recorded_world.as_it_is)
    recorded_world.go(tmp_path / "run", people, engine=recorded_world.over(grid, people, monkeypatch), progress=lose)
    rows = RunFolder(tmp_path / "run").rows()
    assert not any(row.get("faults") for row in rows)
    assert [row.get("unused") for row in rows if row["phase"] == "train"] == [None, {"bob": 1}, {"bob": 1}]


def test_a_device_that_comes_late_takes_part_and_its_unknown_label_stays_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = recorded_world.people(tmp_path / "people")
    recorded_world.record(people / "late", ["bee", "eel"], seed=20)
    grid = recorded_world.Recorded(4, recorded_world.as_it_is, late=1)

    def come(row: dict[str, Any]) -> None:
        if row.get("phase") == "train" and row["round"] == 1:
            grid.late = 0

    recorded_world.go(tmp_path / "run", people, engine=recorded_world.over(grid, people, monkeypatch), progress=come)
    rows = RunFolder(tmp_path / "run").rows()
    asked = {row["round"]: row["asked"] for row in rows if row["phase"] == "train"}
    assert asked[1] == ["ann", "bob", "cyd"]
    assert asked[2] == asked[3] == ["ann", "bob", "cyd", "late"]
    assert next(row for row in rows if row["phase"] == "train" and row["round"] == 2)["unused"] == {"late": 40}
    assert not any(row.get("faults") for row in rows)


def test_a_device_that_says_more_than_it_had_weighs_as_much_as_that_could_have_grown_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = recorded_world.people(tmp_path / "people")
    asked = recorded_world.experiment(rounds=1, method={"name": "fedavg"})
    recorded_world.go(tmp_path / "honest", people, experiment=asked)
    agreed = RunFolder(tmp_path / "honest").agreed()
    assert agreed is not None
    models = {}
    for name, examples in (("liar", 2**31 - 1), ("most", int(1.5 * agreed.holds["cyd"]["train"]) + 16)):
        grid = recorded_world.Recorded(3, recorded_world.claims("train", examples=examples))
        recorded_world.go(
            tmp_path / name, people, experiment=asked, engine=recorded_world.over(grid, people, monkeypatch)
        )
        models[name] = (tmp_path / name / "model.npz").read_bytes()
    assert models["liar"] == models["most"]
    assert models["liar"] != (tmp_path / "honest" / "model.npz").read_bytes()


def test_most_examples_bounds_what_anybody_weighs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people = recorded_world.people(tmp_path / "people")
    asked = recorded_world.experiment(
        rounds=1, method={"name": "fedavg"}, training={"batch": 8, "grow_batch": 16, "most_examples": 7}
    )
    recorded_world.go(tmp_path / "honest", people, experiment=asked)
    grid = recorded_world.Recorded(3, recorded_world.claims("train", examples=2**31 - 1))
    recorded_world.go(
        tmp_path / "liar", people, experiment=asked, engine=recorded_world.over(grid, people, monkeypatch)
    )
    assert (tmp_path / "liar" / "model.npz").read_bytes() == (tmp_path / "honest" / "model.npz").read_bytes()


def test_evidence_of_more_examples_than_a_device_has_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = recorded_world.people(tmp_path / "people")
    grid = recorded_world.Recorded(3, recorded_world.claims("query.bn_statistics", examples=2**31 - 1))
    recorded_world.go(tmp_path / "run", people, engine=recorded_world.over(grid, people, monkeypatch))
    rows = [row for row in RunFolder(tmp_path / "run").rows() if row["phase"] == "bn_statistics"]
    assert [list(row["grown"]) for row in rows] == [["cyd"]]
    assert "that it may have by now" in rows[0]["grown"]["cyd"]
    assert [row["devices"] for row in rows] == [2]


def test_a_device_that_grows_faster_than_it_is_trusted_is_left_out_and_never_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = recorded_world.people(tmp_path / "people")
    recorded_world.record(people / "dan", ["bee", "cat"], each=5, seed=4)
    (people / "eve").mkdir()

    def grow(row: dict[str, Any]) -> None:
        if row.get("phase") == "train" and row["round"] == 1:
            for seed, name in enumerate(("dan", "eve")):
                recorded_world.record(people / name, ["bee", "cat"], each=60, seed=seed, file="second.npz")

    asked = recorded_world.experiment(rounds=5, method={**METHOD, "stop": 4})
    recorded_world.go(
        tmp_path / "run",
        people,
        experiment=asked,
        progress=grow,
        engine=recorded_world.over(recorded_world.Recorded(5, recorded_world.as_it_is), people, monkeypatch),
    )
    rows = RunFolder(tmp_path / "run").rows()
    assert not any(row.get("faults") or row.get("aside") for row in rows)
    assert [row["asked"] for row in rows if row["phase"] == "train"][1:] == [["ann", "bob", "cyd", "dan", "eve"]] * 4
    grown = {row["round"]: row.get("grown", {}).keys() for row in rows if row["phase"] == "evaluate"}
    assert grown[1] == {"dan", "eve"}
    assert not grown[5]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"device": "ann"}, "has a name that another has"),
        ({"device": 2}, "says no name"),
        ({"device": "a/b"}, "expected a name"),
        ({"shape": [2, 6, 6]}, "mean is float64"),
        ({"shape": "wide"}, "shape is 'wide'"),
        ({"counts": {"train": {"bee": -1}, "test": {}, "development": {}}}, "bee is -1"),
        ({"counts": {"train": {"bee": 2**40}, "test": {}, "development": {}}}, "bee is 1099511627776"),
        ({"counts": []}, "counts is []"),
        ({"counts": {"train": {}, "test": {}, "development": {}}}, "a shape without an example"),
        ({"tier": 3}, "tier is 3"),
        ({"shape": [2**24, 2]}, "more than 16,777,216 values"),
    ],
)
def test_a_device_that_says_nonsense_of_its_data_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], why: str
) -> None:
    people, heard = recorded_world.people(tmp_path / "people"), list[str]()
    grid = recorded_world.Recorded(3, recorded_world.claims("query.agree", **wrong))

    def listen(row: dict[str, Any]) -> None:
        heard.append(str(row.get("notice", "")))
        if row.get("phase"):
            raise RunStopped("that is enough")

    with pytest.raises(RunStopped, match="that is enough"):
        recorded_world.go(
            tmp_path / "run", people, engine=recorded_world.over(grid, people, monkeypatch), progress=listen
        )
    assert any(why in line for line in heard), heard
    agreed = RunFolder(tmp_path / "run").agreed()
    assert agreed is not None
    assert list(agreed.holds) == ["ann", "bob"]


@pytest.mark.parametrize(
    ("mean", "m2", "why"),
    [
        (1e31, 1.0, "moments that no data has"),
        (0.0, -1.0, "moments that no data has"),
        (0.0, 1e300, "moments that no data has"),  # else all others' inputs would be divided by infinity
        (np.nan, 1.0, "mean is float64"),
        (0.0, np.inf, "m2 is float64"),
    ],
)
def test_moments_that_would_spoil_those_of_all_are_refused(mean: float, m2: float, why: str) -> None:
    data = recorded_world.experiment().data
    counts = {"train": {"bee": 3}, "development": {}, "test": {}}
    values = {"device": "ann", "memory_bytes": 1, "shape": [1, 6, 6], "counts": counts, "unused": {}, "tier": ""}

    def said(mean: float, m2: float) -> Payload:
        return Payload(values, {"mean": np.array([mean]), "m2": np.array([m2])})

    phase, state = agree(data), State(0, {})
    phase.check(state, Job(), said(1e28, 1e58))
    with pytest.raises(ValueError, match=why):
        phase.check(state, Job(), said(mean, m2))
    told = phase.reduce(state, [Reply(name, said(end, 1e60)) for name, end in (("ann", 1e30), ("bob", -1e30))])
    settings = agreement.agree(data, {**told, "bob": told["bob"]._replace(counts={"train": {"cat": 3}})}).settings
    assert np.isfinite([*settings.mean, *settings.std]).all()


@pytest.mark.parametrize(("round", "most"), [(0, 166), (1, 166), (2, 257), (4, 570)])
def test_one_that_comes_late_is_believed_to_have_as_many_as_anybody_had(round: int, most: int) -> None:
    gives = {"ann": {"train": 100, "development": 10, "test": 20}, "bob": {"train": 7, "development": 0, "test": 0}}
    said = {"train": 2**31 - 1, "development": 0, "test": 5}
    fleet = Fleet({"cyd": 9}, ("cyd",), holds={"cyd": said}, expected=Expected(2, 0.5, gives, named=True))
    found = fleet.most("cyd", round)
    assert found is not None
    assert found["train"] == most == int(100 * 1.5 ** max(1, round)) + 16 * max(1, round)
    assert found["test"] == int(5 * 1.5 ** max(1, round)) + 16 * max(1, round)
