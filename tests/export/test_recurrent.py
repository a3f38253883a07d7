"""Recurrent layers: one operation each in the graph, one copy of their weights in the file, the same bits in C."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from c99_runs import computed, inputs, tflm
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_nets import NETS, LastStep, int8, made
from torch import nn

from fedprune import graph as graphs
from fedprune.budgets import compute
from fedprune.export import c99, litert
from fedprune.export.inspection import file as inspection
from fedprune.export.litert.flatbuffer import pack
from fedprune.export.litert.reader import ModelError, read
from fedprune.graph import Concat, Graph, Gru, Lstm, Parameter, Rnn, UnsupportedOperation
from fedprune.graph.message import from_message, to_message


def snr_db(wanted: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10(wanted.var() / ((wanted - found) ** 2).mean()))


class Whole(nn.Module):
    def __init__(self, rnn: nn.Module, part: int) -> None:
        super().__init__()
        self.rnn, self.part = rnn, part

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.rnn(x)[self.part]
        return found[0] if isinstance(found, tuple) else found


KINDS: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (nn.GRU, {}), (nn.LSTM, {}), (nn.RNN, {}), (nn.RNN, {"nonlinearity": "relu"}),
]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS), steps=st.integers(1, 9), values=st.integers(1, 6), states=st.integers(1, 6),
    layers=st.integers(1, 3), both=st.booleans(), bias=st.booleans(), first=st.booleans(), part=st.integers(0, 1),
)  # fmt: skip
def test_the_graph_is_torchs_layer(
    kind: tuple[type[nn.Module], dict[str, Any]], steps: int, values: int, states: int, layers: int, both: bool,
    bias: bool, first: bool, part: int,
) -> None:  # fmt: skip
    torch.manual_seed(steps)
    each = kind[0](values, states, layers, bias=bias, bidirectional=both, batch_first=first, **kind[1])
    model, sample = Whole(each, part).eval(), torch.randn((1, steps, values) if first else (steps, 1, values))
    graph = graphs.trace(model, sample) if first else _traced_steps_first(model, sample)
    for rewritten in (graph, graphs.inference(graph), from_message(*to_message(graph))):
        found = graphs.run(rewritten, sample.numpy() if first else sample[None].numpy())[rewritten.outputs[0]]
        wanted = model(sample).detach().numpy()
        np.testing.assert_allclose(found.reshape(wanted.shape), wanted, atol=1e-5)
    assert sum(isinstance(op, Gru | Lstm | Rnn) for op in graph.operations) == layers * (1 + both)


def _traced_steps_first(model: nn.Module, sample: torch.Tensor) -> Graph:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.inner(x[0])
            return found

    return graphs.trace(Turned(), sample[None])


@pytest.mark.parametrize("kind", NETS)
def test_every_sample_of_a_batch_is_run(kind: type[nn.Module]) -> None:
    net, samples = made(kind)
    graph = graphs.inference(graphs.trace(net, samples))
    found = graphs.run(graph, samples.numpy())[graph.outputs[0]]
    np.testing.assert_allclose(found, net(samples).detach(), atol=1e-5)


def test_last_states_of_both_directions_are_not_joined_first() -> None:
    net, samples = made(NETS[3])
    graph = graphs.inference(graphs.trace(net, samples))
    assert [op.axis for op in graph.operations if isinstance(op, Concat)] == [1]


class Begins(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.start = nn.GRU(5, 4, batch_first=True), nn.Parameter(torch.ones(1, 1, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x, self.start)[0]


class Cells(nn.Module):
    def __init__(self, **kind: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(5, 4, batch_first=True, **kind)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, (_, cells) = self.rnn(x)
        return states[:, -1] + cells[0]


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Begins(), "begins with states other than zeros"),
        (Cells(), "gives its last cell state"),
        (Whole(nn.LSTM(5, 4, batch_first=True, proj_size=2), 0), "has projections"),
    ],
)
def test_what_is_not_covered_names_its_line(model: nn.Module, why: str) -> None:
    with pytest.raises(UnsupportedOperation, match=rf"{why}.*test_recurrent\.py, line \d+"):
        graphs.trace(model, torch.zeros(1, 6, 5))


def test_multiply_adds_are_those_of_every_step() -> None:
    net, samples = made(LastStep)
    graph = graphs.trace(net, samples)
    assert compute.macs(graph) == 13 * (27 * 5 + 27 * 9) + 9 * 4
    assert compute.sparse_macs(graph, {"rnn.weight_hh_l0": 10}) == 13 * (27 * 5 + 10) + 9 * 4


@pytest.mark.parametrize("kind", NETS)
def test_files_give_torchs_outputs_and_c_their_bits(kind: type[nn.Module], tmp_path: Path) -> None:
    pytest.importorskip("tflite_micro")
    net, samples = made(kind, 0.5)
    wanted, given_ = net(samples).detach().numpy(), samples.numpy()
    graph = graphs.inference(graphs.trace(net, samples))
    plain, whole = litert.write_float(graph), litert.write_int8(graph, litert.calibrate(graph, given_))
    np.testing.assert_allclose(litert.run(plain, given_[:5]), wanted[:5], atol=1e-5)
    found = litert.run(whole, given_, reference=True)
    assert snr_db(wanted, found) > 27
    assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.95
    assert snr_db(found, litert.run(whole, given_)) > 35  # the fast kernels' sigmoids are others
    levels = inputs(whole, 9)
    common = tflm(whole, levels)
    assert np.ptp(common.astype(int)) > 100
    for optimise in (c99.smallest, c99.fastest):
        np.testing.assert_array_equal(computed(c99.generate(whole, optimise), levels, tmp_path), common)
    ends = litert.quantisation(whole)
    grid = ends.output.grid
    assert grid is not None
    shown = tflm(whole, litert.arrange(given_, ends.input))
    np.testing.assert_array_equal(np.rint(found / grid.scale) + grid.zero_point, shown)


def test_a_file_is_about_its_weights() -> None:
    torch.manual_seed(0)
    net = Whole(nn.GRU(40, 100, batch_first=True), 0).eval()
    sizes = []
    for steps in (8, 200):
        samples = torch.randn(4, steps, 40)
        graph = graphs.inference(graphs.trace(net, samples))
        whole = litert.write_int8(graph, litert.calibrate(graph, samples.numpy()))
        assert pack(read(whole)) == whole
        sizes.append(len(whole))
    weights = 300 * 140
    assert abs(sizes[0] - sizes[1]) < 32
    assert weights < sizes[1] < 1.25 * weights
    found = inspection.inspect(whole)
    assert found.weight_bytes == weights
    assert found.macs == 200 * weights


def test_zeros_take_no_flash_and_long_sequences_little_memory() -> None:
    sizes = [c99.generate(int8(NETS[2], density)) for density in (1.0, 0.1)]
    kept = [sum(int((p != 0).sum()) for p in made(NETS[2], d)[0].parameters() if p.ndim == 2) for d in (1.0, 0.1)]
    assert sizes[0].constants_bytes - sizes[1].constants_bytes > 0.6 * (kept[0] - kept[1])
    # a sequence of values, two of states in and two out, and what a step takes
    assert sizes[0].arena_bytes < 13 * (5 + 12 + 12) + 13 * 12 + 400


def test_slow_changes_are_followed() -> None:
    # z = 0.998: a state moves by 0.002 of what is left, less than half a step of int8 once it has come near
    steps, zeros = 900, np.zeros((3, 1), np.float32)
    bias = np.array([0, 6.2, 1.0], np.float32)
    weights = Parameter("w", zeros + np.array([[0], [0], [1e-3]], np.float32)), Parameter("u", zeros)
    op = Gru(("x",), "y", *weights, Parameter("b", bias), Parameter("c", 0 * bias), False)
    graph = Graph("x", ("y",), (op,), {"x": (1, steps, 1, 1), "y": (1, steps, 1, 1)})
    given_ = np.ones((1, steps, 1, 1), np.float32)
    wanted = graphs.run(graph, given_)["y"]
    whole = litert.write_int8(graph, litert.calibrate(graph, given_))
    found = litert.run(whole, given_.reshape(1, steps, 1, 1), reference=True).reshape(wanted.shape)
    assert wanted.max() > 0.6
    assert abs(found - wanted).max() < 0.01


def test_a_loop_of_no_fixed_length_is_refused_in_one_line() -> None:
    file = read(int8(LastStep))
    condition, body = file.subgraphs
    limit = next(at for at, tensor in enumerate(condition.tensors) if tensor.data is not None and 13 in tensor.data)
    tensors = [*condition.tensors]
    tensors[limit] = replace(tensors[limit], data=np.array([10**6]))
    endless = replace(file, subgraphs=[replace(condition, tensors=tensors), body])
    with pytest.raises(ModelError, match=r"operator \d+, WHILE, runs more than 32768 times"):
        c99.generate(pack(endless))
    with pytest.raises(ModelError, match=r"WHILE' runs the subgraphs \(1, 2\), and there are 1 besides the first"):
        read(pack(replace(file, subgraphs=[condition])))


PRUNED = cache(partial(int8, LastStep, 0.4))


@settings(max_examples=100, deadline=None)
@given(places=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_damaged_loop_gives_a_line_or_sources(places: list[tuple[int, int]]) -> None:
    content = bytearray(PRUNED())
    for place, value in places:
        content[place % len(content)] = value
    assert "\n" not in said(c99.generate, bytes(content)) + said(inspection.inspect, bytes(content))


def said(take: Callable[[bytes], Any], content: bytes) -> str:
    try:
        take(content)
    except ModelError as error:
        return str(error)
    return ""
