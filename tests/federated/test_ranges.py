"""Ranges that devices measure instead of the server's public examples; and rounds that train with int8's rounding."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dealt
import fleets
import numpy as np
import pytest
import tiny_world
from flwr.app import Message

from fedprune.experiment import ExperimentError
from fedprune.export import litert
from fedprune.federated.link.records import from_records, to_records
from fedprune.federated.rounds.asking import RunStopped
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases.measure import measure
from fedprune.federated.rounds.rounds import measured
from fedprune.runs import forms, outcome, shipping
from fedprune.runs.run import simulate
from fedprune.runs.setting import prepare
from fedprune.types import Ask

ASKED = {"ranges": "devices"}
WITHOUT_PUBLIC = {"name": "tiny_world:load", "partition": "iid", "devices": 4, "public": 0.0}


def experiment(**changes: Any) -> Any:
    return tiny_world.experiment(**{"rounds": 2, "export": ASKED, **changes})


@pytest.fixture(scope="module")
def asked(in_tmp: Callable[..., Any]) -> Any:
    """A run that ends with the devices' ranges, without a public example."""
    return in_tmp(experiment(data=WITHOUT_PUBLIC))


def test_the_phase_comes_last_and_costs_the_devices_two_numbers_a_tensor(asked: Any) -> None:
    assert [row["phase"] for row in asked.rows].count("ranges") == 1
    last = asked.rows[-1]
    assert (last["round"], last["phase"], last["devices"], last["faults"]) == (2, "ranges", 4, {})
    found = measured(asked.state, "")
    assert found is not None
    assert last["bytes_up"] < 4 * (found.nbytes + 100)


def test_ranges_are_the_extremes_of_all_devices_training_parts(asked: Any) -> None:
    setting = prepare(experiment(data=WITHOUT_PUBLIC), "test")
    assert not len(setting.public)
    graph = shipping.shipped(setting, asked.state)
    inputs = np.concatenate([each.train.inputs for each in dealt.dealt(setting).devices])
    expected = litert.calibrate(graph, setting.schema.normalise(inputs))
    found = measured(asked.state, "")
    assert found is not None
    np.testing.assert_allclose(found, np.array(list(expected.values())), rtol=1e-5)
    replies = [
        from_records(reply.content).tensors["ranges"]
        for asked, reply in asked.crossed
        if asked.metadata.message_type == "query.ranges"
    ]
    assert len({reply.tobytes() for reply in replies}) == 4  # each device saw something else


def test_the_file_is_written_on_these_ranges_and_does_what_the_model_does(asked: Any) -> None:
    setting = prepare(experiment(data=WITHOUT_PUBLIC), "test")
    made = forms.make(setting, asked.state)
    found = measured(asked.state, "")
    assert found is not None
    low, high = (float(end) for end in found[0])  # of the input
    assert litert.quantisation(made.litert_int8).input.grid == litert.quantise.affine(low, high)
    checked = fleets.checked(setting, made, asked.state)
    for form in ("litert_int8", "tflm"):
        assert checked.forms[form]["agreement"] > 0.95, form
    inputs, _ = dealt.test_set(setting)
    dense, small = (litert.run(each, inputs) for each in (made.litert_int8_dense, made.litert_int8))
    assert np.mean(dense.argmax(1) == small.argmax(1)) > 0.95


def test_a_whole_simulation_without_a_public_example(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r'data\.public: .* set it above 0, or export\.ranges = "devices"$'):
        simulate(tiny_world.experiment(data=WITHOUT_PUBLIC), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    result = simulate(experiment(data=WITHOUT_PUBLIC), tmp_path / "run", engine=tiny_world.HERE)
    assert abs(result["accuracy_int8"] - result["accuracy_float"]) < 0.06
    before = (tmp_path / "run" / "model.tflite").read_bytes()
    (tmp_path / "run" / "model.tflite").unlink()
    outcome.export(tmp_path / "run", False, None)
    assert (tmp_path / "run" / "model.tflite").read_bytes() == before


def test_training_is_the_same_whoever_measures_the_ranges(in_tmp: Callable[..., Any], whole: Any) -> None:
    other = in_tmp(experiment(rounds=3))
    assert {name: value.tobytes() for name, value in other.state.params.items()} == {
        name: value.tobytes() for name, value in whole.state.params.items()
    }
    assert measured(whole.state, "") is None


@pytest.mark.parametrize("stop", ["evaluate", "ranges"])
def test_a_run_that_stopped_near_its_end_goes_on(tmp_path: Path, asked: Any, go: Any, stop: str) -> None:
    class Stopped(Exception):
        pass

    def until(row: dict[str, Any]) -> None:
        if row.get("phase") == stop and row["round"] == 2:
            raise Stopped

    with pytest.raises(Stopped):
        go(experiment(data=WITHOUT_PUBLIC), progress=until)
    again = go(experiment(data=WITHOUT_PUBLIC), resume=True)
    fleets.assert_same(again.state, asked.state)
    assert again.rows[-1]["phase"] == "ranges"
    # what is measured is not measured twice
    assert not [1 for message, _ in go(experiment(data=WITHOUT_PUBLIC), resume=True).crossed if is_ranges(message)]


def is_ranges(message: Message) -> bool:
    return bool(message.metadata.message_type == "query.ranges")


def lying(change: Callable[[np.ndarray], np.ndarray | None], devices: int = 1) -> Callable[[Message, Message], Message]:
    """The last ``devices`` devices send something else; None sends nothing."""

    def changed(asked: Message, reply: Message) -> Message:
        if not is_ranges(asked) or asked.metadata.dst_node_id < 1004 - devices:
            return reply
        payload = from_records(reply.content)
        found = change(payload.tensors["ranges"].copy())
        tensors = {} if found is None else {"ranges": found}
        return Message(to_records(payload._replace(tensors=tensors)), reply_to=asked)

    return changed


def with_value(row: int, column: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(found: np.ndarray) -> np.ndarray:
        found[row, column] = value
        return found

    return change


LIES: dict[str, tuple[Callable[[np.ndarray], np.ndarray | None], str]] = {
    "NaN": (with_value(2, 0, np.nan), "not finite"),
    "infinite": (with_value(2, 1, np.inf), "not finite"),
    "low above high": (lambda found: found[:, ::-1], "not finite, or one is without zero"),
    "without zero": (with_value(1, 0, 0.5), "without zero"),
    "a tensor less": (lambda found: found[1:], r"float32\(\d+, 2\), expected float32\(\d+, 2\)"),
    "of another type": (lambda found: found.astype(np.float64), "ranges are float64"),
    "nothing": (lambda found: None, "expected the ranges of activations alone"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_device_that_sends_nonsense_is_left_out(go: Any, name: str) -> None:
    change, expected = LIES[name]
    run = go(experiment(rounds=1), change=lying(change))
    (row,) = [row for row in run.rows if row["phase"] == "ranges"]
    assert list(row["faults"]) == ["3"]
    assert re.search(expected, row["faults"]["3"])
    honest = [
        from_records(reply.content).tensors["ranges"]
        for message, reply in run.crossed
        if is_ranges(message) and message.metadata.dst_node_id != 1003
    ]
    found = measured(run.state, "")
    assert found is not None
    assert np.array_equal(found[:, 0], np.min(honest, axis=0)[:, 0])
    assert np.array_equal(found[:, 1], np.max(honest, axis=0)[:, 1])


def test_too_few_good_answers_stop_the_run_and_it_can_go_on(go: Any) -> None:
    with pytest.raises(RunStopped, match=r"query\.ranges: 1 of 4 devices answered well"):
        go(experiment(rounds=1), change=lying(lambda found: None, devices=3))
    assert measured(go(experiment(rounds=1), resume=True).state, "") is not None


@pytest.mark.parametrize("method", ["fedtiny", "heterofl"])
def test_every_part_has_ranges_of_its_own(in_tmp: Callable[..., Any], method: str) -> None:
    wanted = fleets.fleet_of(method, rounds=1, export=ASKED)
    run = in_tmp(wanted)
    setting = prepare(wanted, "test")
    rows = [row for row in run.rows if row["phase"] == "ranges"]
    assert [row["part"] for row in rows] == list(run.state.parts) == ["large", "middle", "small"]
    found = {part: measured(run.state, part) for part in run.state.parts}
    for part, mine in found.items():
        assert mine is not None
        graph = shipping.shipped(setting, run.state.view(part))
        assert mine.shape == (len(graph.shapes), 2)
        made = forms.make(setting, run.state.view(part), part=part)
        assert litert.quantisation(made.litert_int8).output.grid == litert.quantise.affine(*map(float, mine[-1]))
    assert len({mine.tobytes() for mine in found.values() if mine is not None}) == 3
    # a narrow part travels narrow: its device has no room for the whole
    if method == "heterofl":
        large, _, small = [row["bytes_down"] for row in rows]
        assert small < large / 2


def test_a_device_takes_few_examples_at_a_time_where_its_memory_is_short(asked: Any) -> None:
    setting = prepare(experiment(data=WITHOUT_PUBLIC), "test")
    phase = measure(Ask("ranges", shipping.shipped(setting, asked.state)), 2)
    seen: list[int] = []

    class Watched(Device):
        def batches(self, examples: Any, size: int) -> Any:
            seen.append(size)
            return super().batches(examples, size)

    device = Watched(0, setting.experiment, setting.schema, dealt.dealt(setting).devices[0])
    replies = []
    for batch in (0, 250, 8):
        request = phase.request(asked.state, Job(batch=batch))
        crossed = from_records(to_records(request))
        replies.append(phase.device(device, crossed).tensors["ranges"])
    assert seen[0] == 64
    assert 1 <= seen[2] < 8 <= seen[1] < 250
    for reply in replies[1:]:
        np.testing.assert_allclose(reply, replies[0], rtol=1e-5)


def test_ranges_of_another_model_are_refused_in_one_line(asked: Any) -> None:
    setting = prepare(experiment(data=WITHOUT_PUBLIC), "test")
    found = measured(asked.state, "")
    assert found is not None
    state = State(2, asked.state.params, asked.state.masks, notes={"ranges/": found[1:]})
    with pytest.raises(ExperimentError, match=r"^export\.ranges: ranges of \d+ tensors, but the graph has \d+; run"):
        forms.make(setting, state)
    with pytest.raises(ExperimentError, match=r"^export\.ranges: no device has measured any; run again"):
        forms.make(setting, State(2, asked.state.params, asked.state.masks))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"export": {"ranges": "device"}}, "export.ranges: 'device' is not one of public, devices"),
        ({"export": {"calibration": "max"}}, "export.calibration: 'max' is not one of best, minmax, percentile, mse"),
        ({"export": {"calibrate": "mse"}}, "export.calibrate: unknown key; did you mean calibration?"),
        ({"export": {"ranges": "devices", "calibration": "mse"}}, "export.calibration: devices send extremes alone"),
        ({"training": {"quantise_last": -1}}, "training.quantise_last: expected a whole number >= 0"),
        ({"training": {"quantise_last": 3}}, "training.quantise_last: at most the 2 rounds there are"),
        (
            {"training": {"quantise_last": 1}, "fleet": {"a": {"devices": 4, "train_memory_bytes": "1 GiB"}}},
            "training.quantise_last: no plan counts what it takes",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_line(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ExperimentError, match="^tiny: " + re.escape(expected)) as error:
        tiny_world.experiment(**{"rounds": 2, **changes})
    assert "\n" not in str(error.value)


def calibrated(**export: str) -> tuple[shipping.Calibrated, str]:
    data = {"name": "digits", "devices": 2, "public": 0.3}
    setting = prepare(tiny_world.experiment(model="digits_cnn", data=data, export=export), "test")
    graph = shipping.graph(setting, setting.model())
    whole, small, way = shipping.calibrated(setting, None, graph, graph)
    assert whole.ranges == small.ranges
    assert litert.write_int8(*whole[:2]) == litert.write_int8(*small[:2])
    assert (small.graph.operations == graph.operations) == (not way.corrected)
    assert small.noise_db
    return small, str(way)


def test_calibration_is_chosen_by_its_name() -> None:
    found = {name: calibrated(calibration=name) for name in ("minmax", "percentile", "mse")}
    assert all(way == name for name, (_, way) in found.items())
    extremes, percentiles, squares = (each.ranges for each, _ in found.values())
    for some in (percentiles, squares):
        assert some != extremes
        assert all(extremes[name][0] <= low <= high <= extremes[name][1] for name, (low, high) in some.items())
    assert percentiles != squares


def test_the_best_calibration_is_one_of_these_and_the_same_every_time() -> None:
    best, way = calibrated()
    again, same = calibrated(calibration="best")
    assert way == same
    assert litert.write_int8(*best[:2]) == litert.write_int8(*again[:2])
    assert best.ranges == calibrated(calibration=way.partition(",")[0])[0].ranges


def test_devices_ranges_are_tried_with_and_without_corrected_biases_where_there_are_public_examples(
    in_tmp: Callable[..., Any], asked: Any
) -> None:
    run = in_tmp(experiment(rounds=1))
    made = forms.make(prepare(experiment(rounds=1), "test"), run.state)
    assert made.calibration in ("minmax", "minmax, biases corrected")
    assert made.noise_db
    blind = forms.make(prepare(experiment(data=WITHOUT_PUBLIC), "test"), asked.state)
    assert (blind.calibration, blind.noise_db) == ("minmax", {})


# -- training with the rounding of int8


def aware(last: int, **changes: Any) -> Any:
    return tiny_world.experiment(rounds=3, training={"batch": 8, "grow_batch": 16, "quantise_last": last}, **changes)


def test_the_last_rounds_alone_are_quantisation_aware(in_tmp: Callable[..., Any], whole: Any) -> None:
    run = in_tmp(aware(1))
    for mine, plain in zip(run.states[:3], whole.states[:3], strict=True):
        fleets.assert_same(mine, plain)
    assert any(not np.array_equal(run.state.params[name], value) for name, value in whole.state.params.items())
    assert tiny_world.pruned_are_zero(run.state.params, run.state.masks)
    fleets.assert_same(in_tmp(aware(1), workers=2).state, run.state)


def test_a_device_that_has_trained_so_tests_the_plain_model(in_tmp: Callable[..., Any]) -> None:
    run = in_tmp(aware(3))
    setting = prepare(aware(3), "test")
    # a process keeps its model between messages
    model = setting.model(run.state.params)
    right = sum(
        int((model(_images(setting, part.test.inputs)).argmax(1).numpy() == part.test.labels).sum())
        for part in dealt.dealt(setting).devices
    )
    tested = [row for row in run.rows if row["phase"] == "evaluate"][-1]
    assert tested["accuracy"] == right / sum(parts["test"] for parts in setting.holds.values())


def _images(setting: Any, inputs: np.ndarray) -> Any:
    from fedprune.training.batches import as_input

    return as_input(setting.schema.normalise(inputs))


@pytest.mark.parametrize("method", ["fedtiny", "fjord"])
def test_tiers_train_so_as_well(in_tmp: Callable[..., Any], method: str) -> None:
    changes = {"rounds": 1, "training": {"quantise_last": 1}}
    run = in_tmp(fleets.fleet_of(method, **changes))
    fleets.assert_whole(run.state)
    assert not any(row.get("faults") for row in run.rows)


def test_what_nobody_asks_for_is_not_said() -> None:
    from fedprune.experiment import from_json, to_json

    plain, loud = tiny_world.experiment(), aware(1, export={"calibration": "mse"})
    assert "quantise" not in to_json(plain)
    assert "export" not in to_json(plain)
    assert from_json(to_json(loud)) == loud
