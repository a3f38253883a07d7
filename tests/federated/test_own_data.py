"""Devices with data of their own: nobody deals them any, and the server sees none of it."""

import functools
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recorded_world
from flwr.app import Message

from fedprune.data import agreement
from fedprune.experiment import ExperimentError
from fedprune.federated.link import engines
from fedprune.federated.link.client import client_app
from fedprune.federated.link.engines import Engine
from fedprune.federated.link.local_grid import LocalGrid
from fedprune.federated.link.records import from_records, to_records, values_of
from fedprune.federated.rounds.asking import RunStopped
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases import Reply
from fedprune.federated.rounds.phases.agree import agree
from fedprune.runs.folder import RunFolder
from fedprune.runs.run import simulate, train
from fedprune.wire.payload import Payload

METHOD = {"name": "fedtiny", "density": 0.4, "pool": 3, "period": 1}
NAMES = ("ann", "bob", "cyd")
ONE = functools.partial(engines.local, workers=1)


def go(out: Path, people: Path, **options: Any) -> dict[str, Any]:
    asked = options.pop("experiment", None) or recorded_world.experiment()
    return simulate(asked, out, data_dir=str(people), engine=options.pop("engine", ONE), **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over three devices, without a break."""
    root = tmp_path_factory.mktemp("own")
    go(root / "run", recorded_world.people(root / "people"))
    return root


def test_devices_of_different_classes_end_in_one_model_of_all_of_them(whole: Path) -> None:
    agreed = json.loads((whole / "run" / "agreed.json").read_text())
    result = RunFolder(whole / "run").read_result()
    assert agreed["data"]["classes"] == ["bee", "cat", "dog"]
    assert agreed["data"]["shape"] == [1, 6, 6]
    assert list(agreed["devices"]) == ["ann", "bob", "cyd"]
    assert all(sum(parts.values()) == 80 for parts in agreed["devices"].values())
    assert result["devices"] == 3
    tested = sum(parts["test"] for parts in agreed["devices"].values())
    assert result["checks"]["litert_int8"]["examples"] == result["checks"]["litert_float"]["examples"] == tested
    # each device alone knows two of three: all of its test part, a third of everybody's at least
    assert result["accuracy_int8"] > 0.8
    card = json.loads((whole / "run" / "microcontroller" / "model_card.json").read_text())
    assert card["labels"] == ["bee", "cat", "dog"]


def test_inputs_are_normalised_by_the_moments_of_all_training_parts(whole: Path) -> None:
    from fedprune.data import own

    agreed = RunFolder(whole / "run").agreed()
    assert agreed is not None
    each = [own.read(agreed.settings, whole / "people" / name) for name in NAMES]
    parts = [
        own.parts(agreed.settings, one, agreed.settings.classes, name)[0] for one, name in zip(each, NAMES, strict=True)
    ]
    pooled = np.concatenate([one.train.inputs for one in parts]).astype(np.float64)
    assert agreed.settings.mean == (np.float32(pooled.mean()),)
    assert agreed.settings.std == (np.float32(pooled.std()),)


def test_lines_name_devices(whole: Path) -> None:
    rows = RunFolder(whole / "run").rows()
    assert {tuple(row["asked"]) for row in rows if row.get("asked")} == {("ann", "bob", "cyd")}
    assert all(row["worst"]["device"] in ("ann", "bob", "cyd") for row in rows if "worst" in row)
    assert rows[-1]["phase"] == "check"
    assert not any(row.get("faults") for row in rows)


@pytest.mark.parametrize("phase", ["train", "evaluate", "top_gradients", "ranges"])
def test_a_run_that_stops_goes_on_to_the_same_bits(whole: Path, tmp_path: Path, phase: str) -> None:
    stopped = []

    def stop(row: dict[str, Any]) -> None:
        if row.get("phase") == phase and not stopped:
            stopped.append(row)
            raise RunStopped("power lost")

    with pytest.raises(RunStopped, match="power lost"):
        go(tmp_path / "run", whole / "people", progress=stop)
    assert stopped
    go(tmp_path / "run", whole / "people", resume=True)
    for name in ("model.npz", "model.tflite", "agreed.json"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / "run" / name).read_bytes(), name


@pytest.mark.parametrize("engine", [functools.partial(engines.local, workers=2), engines.ray], ids=["processes", "ray"])
def test_the_same_bits_wherever_devices_are(
    whole: Path, tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    go(tmp_path / "run", whole / "people", engine=engine)
    assert (tmp_path / "run" / "model.npz").read_bytes() == (whole / "run" / "model.npz").read_bytes()


def test_devices_with_next_to_nothing_stop_no_round(tmp_path: Path) -> None:
    people = recorded_world.people(tmp_path / "people")
    (people / "nothing").mkdir()
    recorded_world.record(people / "one_class", ["eel"], each=30, seed=9)
    recorded_world.record(people / "one_example", ["bee"], each=1, seed=10)
    (people / "damaged").mkdir()
    (people / "damaged" / "x.npz").write_bytes(b"PK\x03\x04 no more")
    result = go(tmp_path / "run", people)
    folder = RunFolder(tmp_path / "run")
    agreed = folder.agreed()
    assert agreed is not None
    assert agreed.settings.classes == ("bee", "cat", "dog", "eel")
    assert agreed.holds["nothing"] == agreed.holds["damaged"] == {"train": 0, "development": 0, "test": 0}
    assert result["devices"] == 7
    assert not any(row.get("faults") for row in folder.rows())
    assert all(row["unused"] == {"damaged": 2, "nothing": 1} for row in folder.rows() if "damaged" in row["asked"])
    assert {row["devices"] for row in folder.rows() if row["phase"] == "evaluate"} == {7}


class Recorded(LocalGrid):
    """Remembers what devices said, may change it, and shows some of them only later."""

    def __init__(self, devices: int, change: Callable[[Message, Message], Message], late: int = 0) -> None:
        super().__init__(client_app, devices)
        self.change, self.late, self.said = change, late, list[tuple[str, str, dict[str, Any]]]()

    def get_node_ids(self) -> list[int]:
        return super().get_node_ids()[: self._devices - self.late]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        messages = list(messages)
        for asked, reply in zip(messages, super().send_and_receive(messages, timeout=timeout), strict=True):
            changed = self.change(asked, reply)
            kind = asked.metadata.message_type, asked.metadata.group_id
            self.said.append((*kind, {} if changed.has_error() else values_of(changed.content)))
            yield changed


def over(grid: LocalGrid, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setenv("FEDPRUNE_DATA_DIR", str(data_dir))
    return lambda devices, folder, drive: drive(grid)


def as_it_is(asked: Message, reply: Message) -> Message:
    return reply


def test_recordings_that_are_new_count_from_the_next_round_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people = recorded_world.people(tmp_path / "people")
    grid = Recorded(3, as_it_is)

    def grow(row: dict[str, Any]) -> None:
        if row.get("phase") == "train" and row["round"] == 1:
            recorded_world.record(people / "ann", ["bee", "cat"], each=20, seed=99, file="second.npz")

    go(tmp_path / "run", people, engine=over(grid, people, monkeypatch), progress=grow)
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

    go(tmp_path / "run", people, engine=over(Recorded(3, grow), people, monkeypatch))
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

    grid = Recorded(3, as_it_is)
    go(tmp_path / "run", people, engine=over(grid, people, monkeypatch), progress=lose)
    rows = RunFolder(tmp_path / "run").rows()
    assert not any(row.get("faults") for row in rows)
    assert [row.get("unused") for row in rows if row["phase"] == "train"] == [None, {"bob": 1}, {"bob": 1}]


def test_a_device_that_comes_late_takes_part_and_its_unknown_label_stays_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = recorded_world.people(tmp_path / "people")
    recorded_world.record(people / "late", ["bee", "eel"], seed=20)
    grid = Recorded(4, as_it_is, late=1)

    def come(row: dict[str, Any]) -> None:
        if row.get("phase") == "train" and row["round"] == 1:
            grid.late = 0

    go(tmp_path / "run", people, engine=over(grid, people, monkeypatch), progress=come)
    rows = RunFolder(tmp_path / "run").rows()
    asked = {row["round"]: row["asked"] for row in rows if row["phase"] == "train"}
    assert asked[1] == ["ann", "bob", "cyd"]
    assert asked[2] == asked[3] == ["ann", "bob", "cyd", "late"]
    assert next(row for row in rows if row["phase"] == "train" and row["round"] == 2)["unused"] == {"late": 40}
    assert not any(row.get("faults") for row in rows)


def claims(route: str, **values: Any) -> Callable[[Message, Message], Message]:
    """The third device says something else."""

    def change(asked: Message, reply: Message) -> Message:
        if asked.metadata.message_type != route or asked.metadata.dst_node_id != 1002 or reply.has_error():
            return reply
        masks = from_records(asked.content).masks
        payload = from_records(reply.content, masks)
        return Message(to_records(payload._replace(values={**payload.values, **values}), masks), reply_to=asked)

    return change


def test_a_device_that_says_more_than_it_had_weighs_as_much_as_that_could_have_grown_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = recorded_world.people(tmp_path / "people")
    asked = recorded_world.experiment(rounds=1, method={"name": "fedavg"})
    go(tmp_path / "honest", people, experiment=asked)
    agreed = RunFolder(tmp_path / "honest").agreed()
    assert agreed is not None
    models = {}
    for name, examples in (("liar", 2**31 - 1), ("most", int(1.5 * agreed.holds["cyd"]["train"]) + 16)):
        grid = Recorded(3, claims("train", examples=examples))
        go(tmp_path / name, people, experiment=asked, engine=over(grid, people, monkeypatch))
        models[name] = (tmp_path / name / "model.npz").read_bytes()
    assert models["liar"] == models["most"]
    assert models["liar"] != (tmp_path / "honest" / "model.npz").read_bytes()


def test_most_examples_bounds_what_anybody_weighs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people = recorded_world.people(tmp_path / "people")
    asked = recorded_world.experiment(
        rounds=1, method={"name": "fedavg"}, training={"batch": 8, "grow_batch": 16, "most_examples": 7}
    )
    go(tmp_path / "honest", people, experiment=asked)
    grid = Recorded(3, claims("train", examples=2**31 - 1))
    go(tmp_path / "liar", people, experiment=asked, engine=over(grid, people, monkeypatch))
    assert (tmp_path / "liar" / "model.npz").read_bytes() == (tmp_path / "honest" / "model.npz").read_bytes()


def test_evidence_of_more_examples_than_a_device_has_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = recorded_world.people(tmp_path / "people")
    grid = Recorded(3, claims("query.bn_statistics", examples=2**31 - 1))
    go(tmp_path / "run", people, engine=over(grid, people, monkeypatch))
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
    go(
        tmp_path / "run",
        people,
        experiment=asked,
        progress=grow,
        engine=over(Recorded(5, as_it_is), people, monkeypatch),
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
    grid = Recorded(3, claims("query.agree", **wrong))

    def listen(row: dict[str, Any]) -> None:
        heard.append(str(row.get("notice", "")))
        if row.get("phase"):
            raise RunStopped("that is enough")

    with pytest.raises(RunStopped, match="that is enough"):
        go(tmp_path / "run", people, engine=over(grid, people, monkeypatch), progress=listen)
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


def test_one_holder_of_all_folders(whole: Path, tmp_path: Path) -> None:
    result = train(recorded_world.experiment(rounds=2), tmp_path / "run", data_dir=str(whole / "people"))
    agreed = RunFolder(whole / "run").agreed()
    assert agreed is not None
    assert result["devices"] == 1 or result["devices"] == 3
    tested = sum(parts["test"] for parts in agreed.holds.values())
    assert result["checks"]["litert_int8"]["examples"] == tested
    assert result["accuracy_int8"] > 0.8


def test_the_servers_own_examples_pretrain_and_give_ranges(whole: Path, tmp_path: Path) -> None:
    recorded_world.record(tmp_path / "public", ["bee", "cat", "dog"], each=20, seed=50)
    data = {"name": "arrays", "partition": "own", "public_dir": str(tmp_path / "public")}
    asked, rows = recorded_world.experiment(data=data, pretraining={"epochs": 2}), list[dict[str, Any]]()
    result = go(tmp_path / "run", whole / "people", experiment=asked, progress=rows.append)
    assert [row["epoch"] for row in rows if "epoch" in row] == [1, 2]
    assert not any(row.get("phase") == "ranges" for row in rows)
    assert result["accuracy_int8"] > 0.5


@pytest.mark.parametrize(
    ("labels", "inputs", "why"),
    [
        (["bee"], (1, 7, 7), r"first\.npz: examples of shape 1x7x7; data\.shape says 1x6x6"),
        (["owl"], (1, 6, 6), "label 'owl' is none of the classes"),
    ],
)
def test_a_public_folder_of_nothing_to_use_is_told_in_one_line(
    whole: Path, tmp_path: Path, labels: list[str], inputs: tuple[int, ...], why: str
) -> None:
    public = tmp_path / "public"
    public.mkdir()
    np.savez(public / "first.npz", inputs=np.zeros((8, *inputs), np.float32), labels=np.array(labels * 8))
    data = {"name": "arrays", "partition": "own", "public_dir": str(public)}
    with pytest.raises(
        ExperimentError, match=f"^experiment: data: public_dir: {public}: holds no example to use: {why}$"
    ):
        go(tmp_path / "run", whole / "people", experiment=recorded_world.experiment(data=data))


def test_what_is_fixed_is_not_asked_for(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = {"classes": ["dog", "cat"], "shape": [1, 6, 6], "mean": [5.0], "std": [3.0]}
    data = {"name": "arrays", "partition": "own", **fixed}
    grid = Recorded(3, as_it_is)
    sent = []

    def note(asked: Message, reply: Message) -> Message:
        if asked.metadata.message_type == "query.agree":
            sent.append(from_records(reply.content))
        return reply

    grid.change = note
    go(tmp_path / "run", whole / "people", experiment=recorded_world.experiment(data=data),
       engine=over(grid, whole / "people", monkeypatch))  # fmt: skip
    assert all(not payload.tensors for payload in sent)
    assert {name for payload in sent for part in payload.values["counts"].values() for name in part} == {"dog", "cat"}
    card = json.loads((tmp_path / "run" / "microcontroller" / "model_card.json").read_text())
    assert card["labels"] == ["dog", "cat"]


def test_constants_that_are_not_one_a_channel_are_told_in_one_line(tmp_path: Path, whole: Path) -> None:
    data = {"name": "arrays", "partition": "own", "mean": [5.0, 1.0], "std": [3.0, 1.0]}
    with pytest.raises(RunStopped, match=r"data\.mean: 2 values, but an example of shape \(1, 6, 6\) has 1 channels$"):
        go(tmp_path / "run", whole / "people", experiment=recorded_world.experiment(data=data))
    # one that has no example has no shape, whatever the constants
    (tmp_path / "people" / "dan").mkdir(parents=True)
    for name in ("ann", "bob"):
        rng = np.random.default_rng(len(name))
        (tmp_path / "people" / name).mkdir()
        inputs, labels = rng.normal(size=(40, 2, 6, 6)).astype(np.float32), np.array(["bee", "cat"] * 20)
        np.savez(tmp_path / "people" / name / "first.npz", inputs=inputs, labels=labels)
    said: list[dict[str, Any]] = []
    asked = recorded_world.experiment(data=data, rounds=1, method={"name": "magnitude", "density": 0.4})
    assert go(tmp_path / "run", tmp_path / "people", experiment=asked, progress=said.append)["devices"] == 3
    assert not [row for row in said if "takes no part" in row.get("notice", "")]


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ({"ann": ["bee"], "bob": ["bee"]}, "devices have the label 'bee' alone"),
        ({"ann": [], "bob": []}, "no device has an example to train on"),
    ],
)
def test_devices_with_nothing_to_learn_are_told_in_one_line(
    tmp_path: Path, labels: dict[str, list[str]], why: str
) -> None:
    for name, mine in labels.items():
        (tmp_path / "people" / name).mkdir(parents=True)
        if mine:
            recorded_world.record(tmp_path / "people" / name, mine)
    with pytest.raises(ExperimentError, match=why):
        go(tmp_path / "run", tmp_path / "people")
    assert not (tmp_path / "run").exists()


def test_no_folder_of_devices_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDPRUNE_DATA_DIR", raising=False)
    with pytest.raises(ExperimentError, match="give --data-dir, a folder that holds one folder a device"):
        simulate(recorded_world.experiment(), tmp_path / "run")
    with pytest.raises(ExperimentError, match="cannot be read"):
        go(tmp_path / "run", tmp_path / "missing")


def test_tiers_count_the_devices_that_they_have(whole: Path, tmp_path: Path) -> None:
    tiers = {"pi": {"devices": 1, "density": 0.4}, "phone": {"devices": 1, "density": 0.2}}
    asked = recorded_world.experiment(rounds=1, method={"name": "magnitude", "density": 0.4}, fleet=tiers)
    result = go(tmp_path / "run", whole / "people", experiment=asked)
    assert {name: tier["devices"] for name, tier in result["tiers"].items()} == {"pi": 1, "phone": 2}


def test_export_needs_neither_data_nor_devices(whole: Path, tmp_path: Path) -> None:
    from fedprune.runs.outcome import export

    shutil.copytree(whole / "run", tmp_path / "run")
    before = (tmp_path / "run" / "model.tflite").read_bytes()
    (tmp_path / "run" / "model.tflite").unlink()
    export(tmp_path / "run", False, None)
    assert (tmp_path / "run" / "model.tflite").read_bytes() == before


ONE_MEAN = (
    b'{"data": {"name": "arrays", "partition": "own", "classes": ["bee", "cat"], "shape": [1, 6, 6], '
    b'"mean": [0], "std": [1]}, "devices": {"ann": {"train": 9, "development": 1, "test": 2}}}'
)


@pytest.mark.parametrize(
    "spoilt",
    [
        b"{",
        b"[]",
        b'{"data": {"name": "arrays"}, "devices": {}}',
        b'{"devices": {}}',
        *(
            ONE_MEAN.replace(right, wrong)
            for right, wrong in ((b"[0]", b"[0, 1]"), (b', "test": 2', b""), (b'"test": 2', b'"test": -2'))
        ),
    ],
)
def test_a_damaged_agreement_is_told_in_one_line(whole: Path, tmp_path: Path, spoilt: bytes) -> None:
    shutil.copytree(whole / "run", tmp_path / "run")
    (tmp_path / "run" / "agreed.json").write_bytes(spoilt)
    with pytest.raises(ExperimentError, match=r"agreed\.json: .*start over with --fresh"):
        go(tmp_path / "run", whole / "people", resume=True)


def _without_a_part(agreed: dict[str, Any]) -> None:
    del agreed["devices"]["ann"]["test"]


def _fewer_than_none(agreed: dict[str, Any]) -> None:
    agreed["devices"]["ann"]["test"] = -1


def _another_split(agreed: dict[str, Any]) -> None:
    agreed["data"]["test"] = 0.3


@pytest.mark.parametrize("edit", [_without_a_part, _fewer_than_none, _another_split])
def test_an_agreement_that_was_edited_is_told_in_one_line(
    whole: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    shutil.copytree(whole / "run", tmp_path / "run")
    file = tmp_path / "run" / "agreed.json"
    agreed = json.loads(file.read_text())
    edit(agreed)
    file.write_text(json.dumps(agreed))
    with pytest.raises(ExperimentError, match=r"agreed\.json: .*start over with --fresh"):
        go(tmp_path / "run", whole / "people", resume=True)


def test_a_run_without_its_agreement_does_not_go_on(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "run", tmp_path / "run")
    (tmp_path / "run" / "agreed.json").unlink()
    with pytest.raises(ExperimentError, match=r"agreed\.json: is missing; start over with --fresh$"):
        go(tmp_path / "run", whole / "people", resume=True)
