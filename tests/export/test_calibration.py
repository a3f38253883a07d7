"""Rules of calibration: what they leave out, by hand and as laws; and what files gain or lose by them."""

import numpy as np
import pytest
import torch
from export_nets import NETS, Plain, made, signal_to_noise_db
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedprune import graph as graphs
from fedprune.export import litert
from fedprune.export.litert.calibration import RULES, Histogram, extremes, least_squares, named, percentile
from fedprune.graph import Graph
from fedprune.int8 import affine
from fedprune.training import evidence


def traced(model: nn.Module, inputs: torch.Tensor) -> Graph:
    return graphs.inference(graphs.trace(model, inputs))


def test_percentile_worked_by_hand() -> None:
    # 100 values in ten intervals of [-1, 9]: up to one may go at each end for 99 %, up to five for 95 %.
    values = Histogram(-1.0, 9.0, np.array([1, 3, 2, 40, 30, 20, 3, 0, 0, 1]))
    assert percentile(99)(values) == (0.0, 6.0)  # the outermost value of each end, and two empty intervals
    assert percentile(95)(values) == (1.0, 5.0)  # one and three are four; two more would be six
    assert percentile(100)(values) == extremes(values) == (-1.0, 9.0)


def test_least_squares_worked_by_hand() -> None:
    # A million values in [0, 1] and one at 32. Over [0, h] rounding costs 10^6 (h / 255)² / 12 = 1.2815 h², saturating
    # the one (32 - h)²: least where h = 32 / 2.2815 = 14.03, and hardly more two steps of h beside it.
    counts = np.zeros(32 * 64, np.int64)
    counts[:64], counts[-1] = 1_000_000 // 64, 1
    low, high = least_squares(Histogram(0.0, 32.0, counts))
    assert (low, high) == (0.0, pytest.approx(14, abs=2))
    # on the other side of zero it is the same
    assert least_squares(Histogram(-32.0, 0.0, counts[::-1])) == (pytest.approx(-14, abs=2), 0.0)
    counts[-1] = 20  # twenty at 32: 32 20 / 21.2815 = 30.07
    assert least_squares(Histogram(0.0, 32.0, counts))[1] == pytest.approx(30, abs=2)


HISTOGRAMS = st.builds(
    Histogram,
    low=st.floats(-1024, 0, width=32),
    high=st.floats(2**-10, 1024, width=32),
    counts=st.lists(st.integers(0, 1000), min_size=1, max_size=64).map(np.array).filter(lambda counts: counts.any()),
)


@given(values=HISTOGRAMS)
def test_no_rule_goes_beyond_what_was_seen(values: Histogram) -> None:
    for name, rule in RULES.items():
        low, high = rule(values)
        assert values.low <= low <= high <= values.high, name


@given(values=HISTOGRAMS)
def test_least_squares_is_never_worse_than_the_extremes(values: Histogram) -> None:
    middles = values.low + (np.arange(len(values.counts)) + 0.5) * (values.high - values.low) / len(values.counts)

    def error(low: float, high: float) -> float:
        scale, zero = affine(low, high)
        levels = np.clip(np.rint(middles / scale) + zero, -128, 127)
        return float((values.counts * ((levels - zero) * scale - middles) ** 2).sum())

    assert error(*least_squares(values)) <= error(values.low, values.high) * (1 + 1e-12)


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("name", RULES)
def test_every_rule_gives_a_file_near_the_model(kind: type[nn.Module], name: str) -> None:
    model, inputs = made(kind)
    graph = traced(model, inputs)
    full, ranges = litert.calibrate(graph, inputs.numpy()), litert.calibrate(graph, inputs.numpy(), by=RULES[name])
    assert ranges.keys() == full.keys() == graph.shapes.keys()
    for tensor, (low, high) in ranges.items():
        assert full[tensor][0] <= low <= 0 <= high <= full[tensor][1]
    found = litert.run(litert.write_int8(graph, ranges), inputs.numpy(), reference=True)
    assert signal_to_noise_db(model(inputs).detach().numpy(), found) > 20
    if name == "minmax":
        assert ranges == full


def test_what_a_rectifier_makes_begins_at_zero_under_every_rule() -> None:
    model, inputs = made(Plain)
    graph = traced(model, inputs)
    rectified = [op.output for op in graph.operations if getattr(op, "bounds", graphs.FREE) == graphs.RELU]
    assert len(rectified) >= 3
    for rule in RULES.values():
        ranges = litert.calibrate(graph, inputs.numpy(), by=rule)
        assert all(ranges[tensor][0] == 0 < ranges[tensor][1] for tensor in rectified)


def test_a_broken_sensor_takes_the_steps_of_everything_else_but_under_percentiles() -> None:
    model, inputs = made(Plain)
    graph = traced(model, inputs)
    seen = inputs.numpy().copy()
    seen[0, 0, 0, 0] = 300.0
    expected = model(inputs[1:]).detach().numpy()
    noise = {}
    for name, rule in RULES.items():
        file = litert.write_int8(graph, litert.calibrate(graph, seen, by=rule))
        noise[name] = signal_to_noise_db(expected, litert.run(file, inputs[1:].numpy(), reference=True))
    assert noise["percentile"] > noise["minmax"] + 6
    assert noise["mse"] > noise["minmax"]


def test_a_rule_of_ones_own_is_a_function() -> None:
    inputs = np.linspace(-2, 6, 64, dtype=np.float32).reshape(16, 1, 2, 2)
    graph = graphs.trace(nn.Sequential(nn.ReLU()), inputs)
    ranges = litert.calibrate(graph, inputs, by=lambda values: (values.low / 2, values.high / 2))
    assert ranges == {graph.input: (-1.0, 3.0), graph.outputs[0]: (0.0, 3.0)}
    # zero is within, whatever a rule says; and a tensor that is always zero has a range of nothing
    assert litert.calibrate(graph, inputs, by=lambda values: (1.0, 2.0))[graph.input] == (0.0, 2.0)
    assert litert.calibrate(graph, -np.abs(inputs), by=RULES["mse"])[graph.outputs[0]] == (0.0, 0.0)


def test_evidence_of_ranges_merges_exactly() -> None:
    model, inputs = made(Plain)
    graph = traced(model, inputs)
    parts = [inputs.numpy()[:11], inputs.numpy()[11:12], inputs.numpy()[12:]]
    whole = evidence.ranges(graph, [inputs.numpy()])
    some = np.stack([evidence.ranges(graph, [part]) for part in parts])
    assert whole.dtype == np.float32
    np.testing.assert_allclose(np.stack([some.min(0)[:, 0], some.max(0)[:, 1]], 1), whole, rtol=1e-5)
    ranges = named(graph, whole + np.float32([-1, 1]))  # wider, so that rounding by batch size loses no value
    counts = [evidence.histograms(graph, [part], ranges, 8) for part in parts]
    for name, shape in graph.shapes.items():
        assert sum(each[name].sum() for each in counts) == len(inputs) * np.prod(shape)


def test_ranges_of_another_graph_or_not_finite_are_refused() -> None:
    model, inputs = made(Plain)
    graph = traced(model, inputs)
    found = evidence.ranges(graph, [inputs.numpy()])
    with pytest.raises(ValueError, match=f"the graph has {len(graph.shapes)}"):
        named(graph, found[1:])
    broken = inputs.numpy().copy()
    broken[3, 0, 2, 2] = np.nan
    assert np.isnan(evidence.ranges(graph, [inputs.numpy(), broken, inputs.numpy()])).any()  # not lost in a later batch
    with pytest.raises(ValueError, match=f"tensor {graph.input} is not finite"):
        litert.calibrate(graph, broken)
