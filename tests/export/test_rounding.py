"""What the int8 file's rounding costs each layer, biases that make up for it, and the choice of the best file."""

from typing import Any

import numpy as np
import pytest
import torch
from export_nets import NETS, made
from torch import nn

from fedprune import graph as graphs
from fedprune.export import litert
from fedprune.export.litert import choosing
from fedprune.export.litert.calibration import RULES, calibrate_by
from fedprune.export.litert.choosing import Way, choose, classes, squares
from fedprune.export.litert.rounding import rounded
from fedprune.graph import Conv2d, Graph, parameters


def magnifying() -> tuple[Graph, np.ndarray]:
    """Channel 0 is the input, 0 to 255; two more are 10.4 throughout: 10 in int8, which the last layer magnifies."""
    first, second = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 1, 1)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([1.0, 0.0, 0.0]).reshape(3, 1, 1, 1))
        first.bias.copy_(torch.tensor([0.0, 10.4, 10.4]))  # type: ignore[union-attr]
        second.weight.copy_(torch.tensor([10.0, 10.0, 10.0]).reshape(1, 3, 1, 1))
        second.bias.fill_(-208.0)  # type: ignore[union-attr]
    inputs = np.arange(256, dtype=np.float32).reshape(16, 1, 4, 4)
    return graphs.inference(graphs.trace(nn.Sequential(first, second), inputs)), inputs


def biases(graph: Graph) -> list[np.ndarray]:
    return [op.bias.value for op in graph.operations if isinstance(op, Conv2d) and op.bias is not None]


def decibels(wanted: np.ndarray, given: np.ndarray) -> float:
    return float(10 * np.log10((wanted.astype(float) ** 2).sum() / ((wanted - given).astype(float) ** 2).sum()))


def test_a_bias_takes_back_what_rounding_adds_worked_by_hand() -> None:
    graph, inputs = magnifying()
    ranges = litert.calibrate(graph, inputs)
    plain, corrected = (rounded(graph, ranges, inputs, correct=each) for each in (False, True))
    # 20 (10 - 10.4) = -8 in every output, so 8 more of bias; the first layer computes its channels exactly
    first, second = biases(corrected.graph)
    np.testing.assert_allclose(second, [-200.0], atol=1e-3)
    np.testing.assert_allclose(first, [0.0, 10.4, 10.4], atol=1e-4)
    # outputs are 0 to 2550 on a grid of 10: all but the first are a step too low, and none is once corrected
    outputs = 10 * np.arange(256.0)
    assert plain.noise_db["1"] == pytest.approx(10 * np.log10((outputs**2).sum() / (255 * 100)), abs=0.1)
    assert corrected.noise_db.get("1", 200.0) > plain.noise_db["1"] + 50
    assert biases(plain.graph)[1] == -208
    assert [*plain.noise_db] == sorted(plain.noise_db, key=lambda layer: plain.noise_db[layer])


def test_the_file_does_what_the_bias_promises() -> None:
    graph, inputs = magnifying()
    ranges = litert.calibrate(graph, inputs)
    wanted = graphs.run(graph, inputs)[graph.outputs[0]]
    better = rounded(graph, ranges, inputs, correct=True).graph
    plain, corrected = (litert.run(litert.write_int8(each, ranges), inputs) - wanted for each in (graph, better))
    assert abs(plain).max() > 9
    assert abs(corrected).max() < 0.1
    assert choose(graph, {"minmax": ranges}, inputs, squares) == Way("minmax", corrected=True)


@pytest.mark.parametrize("kind", NETS)
def test_the_noise_is_the_files_own_and_only_biases_change(kind: type[nn.Module]) -> None:
    model, inputs = made(kind)
    graph, seen = graphs.inference(graphs.trace(model, inputs)), inputs.numpy()
    ranges = litert.calibrate(graph, seen)
    for correct in (False, True):
        found = rounded(graph, ranges, seen, correct=correct)
        given = litert.run(litert.write_int8(found.graph, ranges), seen, reference=True)
        last = next(op for op in reversed(graph.operations) if parameters(op))
        if last.output == graph.outputs[0]:
            layer = parameters(last)[0].name.rpartition(".")[0]
            wanted = graphs.run(graph, seen)[last.output]
            assert found.noise_db[layer] == pytest.approx(decibels(wanted, given.reshape(wanted.shape)), abs=2)
        assert len(found.noise_db) <= sum(1 for op in graph.operations if parameters(op))
        for old, new in zip(graph.operations, found.graph.operations, strict=True):
            changed = {key for key, value in vars(new).items() if value is not vars(old)[key]}
            assert changed <= ({"bias"} if correct else set())


def test_how_far_two_outputs_are_apart_worked_by_hand() -> None:
    wanted = np.array([[0.0, 2.0], [2.0, 0.0]], np.float32)  # variance 1
    given = np.array([[0.0, 2.0], [0.0, 1.0]], np.float32)  # 4 + 1 over 4 values
    assert squares(wanted, given) == (1.25,)
    assert classes(wanted, given) == (0.5, 1.25)
    assert squares(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32)) == (0.0,)


def test_classes_come_before_squares_and_a_tie_goes_to_the_first() -> None:
    inputs = np.linspace(-2, 6, 64, dtype=np.float32).reshape(16, 4, 1, 1)
    graph = graphs.trace(nn.Sequential(nn.ReLU()), inputs)
    ranges = litert.calibrate(graph, inputs)
    assert choose(graph, {"minmax": ranges, "mse": ranges}, inputs) == Way("minmax")
    assert choose(graph, {"mse": ranges, "minmax": ranges}, inputs) == Way("mse")
    halved = {name: (low / 2, high / 2) for name, (low, high) in ranges.items()}
    assert choose(graph, {"percentile": halved, "minmax": ranges}, inputs, squares) == Way("minmax")


def test_where_no_file_runs_the_first_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, inputs = magnifying()

    def refuses(*_: Any, **__: Any) -> np.ndarray:
        raise RuntimeError("no runtime for .tflite files is installed")

    monkeypatch.setattr(choosing.litert, "run", refuses)
    assert choose(graph, calibrate_by(RULES, graph, inputs), inputs) == Way("minmax")


def test_all_rules_at_once_are_each_rule_alone() -> None:
    model, inputs = made(NETS[0])
    graph, seen = graphs.inference(graphs.trace(model, inputs)), inputs.numpy()
    together = calibrate_by(RULES, graph, seen)
    assert together == {name: litert.calibrate(graph, seen, by=rule) for name, rule in RULES.items()}
