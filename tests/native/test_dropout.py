"""Dropout by counter: the very mask, its gradients, its shares, what must not change a bit of it, and rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from dropped import imposed, philox
from natively import apart, batch_of, in_torch, masked, natively, same
from torch import nn

from fedprune.graph import Dropout, trace, without_dropout
from fedprune.graph.message import of_text, to_text
from fedprune.graph.shared import unique_state
from fedprune.native import library, program
from fedprune.native.machine import Machine
from fedprune.native.state import state
from fedprune.training import evidence, native, native_growth
from fedprune.training.lean import PLAIN, Lean
from fedprune.types import Sgd, Tensor

pytestmark = pytest.mark.skipif(library.library() is None, reason="the compiled trainer is not installed")
DRAW = 2**63 + 12345


def dropping() -> nn.Module:
    """Values and whole channels, in place and not, around what has a halo, a norm and a sum, and last."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.conv, self.norm = nn.Dropout(0.3), nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
            self.other = nn.Dropout2d(0.25)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            dropped = self.drop(x)
            return torch.relu(self.norm(self.conv(dropped)) + self.other(x) + dropped)

    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU6(), nn.Dropout2d(0.2), nn.Conv2d(6, 6, 3, padding=1), Block(),
        nn.Dropout(0.1, inplace=True), nn.Conv2d(6, 5, 3, 2, 1), nn.Hardswish(), nn.Flatten(), nn.Dropout(0.5),
        nn.Linear(5 * 12, 9), nn.ReLU(), nn.Dropout(0.4), nn.Linear(9, 4), nn.Dropout(0.05),
    )  # fmt: skip


def without_norms() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Dropout(0.1), nn.Conv2d(3, 17, 3, padding=1), nn.ReLU(), nn.Dropout2d(0.3), nn.MaxPool2d(2),
        nn.Conv2d(17, 33, 3, 2, 1), nn.Dropout(0.5), nn.Flatten(), nn.Linear(33 * 16, 20), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(20, 10),
    )  # fmt: skip


def test_words_are_those_of_philox() -> None:
    """Known answers of its authors."""
    assert philox((0, 0, 0, 0), (0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = 2**32 - 1
    assert philox((ones, ones, ones, ones), (ones, ones)) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


@pytest.mark.parametrize("density", [0.3, 1.0])
@pytest.mark.parametrize("examples", [2, 8, 33])
def test_outputs_and_gradients_are_those_of_torch_with_the_very_mask(examples: int, density: float) -> None:
    model = dropping()
    masks = masked(model, density)
    inputs, labels = batch_of((3, 10, 8), 4, examples)
    right = in_torch(imposed(model, inputs, DRAW), inputs, labels)
    assert apart(natively(model, masks, inputs, labels, draw=DRAW), right, masks) < 2e-4
    assert not same(natively(model, masks, inputs, labels, draw=DRAW + 1), natively(model, masks, inputs, labels))


@pytest.mark.parametrize("density", [0.2, 1.0])
def test_any_cut_into_micro_batches_drops_the_same(density: float) -> None:
    model = without_norms()
    masks = masked(model, density)
    batch = batch_of((3, 16, 16), 10, 37)
    whole = natively(model, masks, *batch, draw=DRAW)
    for at_a_time in (1, 7, 8, 16, 30):
        assert same(natively(model, masks, *batch, at_a_time=at_a_time, draw=DRAW), whole)


@pytest.mark.parametrize("threads", [2, 3, 40])
def test_threads_drop_the_same(threads: int) -> None:
    model = dropping()
    batch = batch_of((3, 10, 8), 4, 12)
    assert same(natively(model, {}, *batch, threads=threads, draw=DRAW), natively(model, {}, *batch, draw=DRAW))


@pytest.mark.parametrize("every", [1, 2])
def test_blocks_computed_twice_drop_the_same(every: int) -> None:
    for make, shape, classes in ((dropping, (3, 10, 8), 4), (without_norms, (3, 16, 16), 10)):
        model, batch = make(), batch_of(shape, classes, 12)
        whole = natively(model, {}, *batch, draw=DRAW)
        assert same(natively(model, {}, *batch, recompute=every, draw=DRAW), whole)


def dropped(chance: float, draw: int, *, instructions: str = "", channels: bool = False) -> Tensor:
    """What becomes of 37 examples of ones, (37, 20, 5, 5) or a vector of as many, after two dropouts in a row."""
    drops = nn.Dropout2d if channels else nn.Dropout
    model = nn.Sequential(drops(chance), drops(chance), nn.Flatten(), nn.Linear(500, 500))
    with torch.no_grad():
        model[3].weight.copy_(torch.eye(500))
        model[3].bias.zero_()
    inputs, labels = np.ones((37, 20, 5, 5), np.float32), np.zeros(37, np.int64)
    return natively(model, {}, inputs, labels, draw=draw, instructions=instructions).outputs.reshape(37, 20, 25)


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("chance", [0.05, 0.5, 0.9])
def test_as_many_are_kept_as_chance_says(chance: float, channels: bool) -> None:
    """And no layer, step or example goes by another's draws."""
    one, other = (dropped(chance, draw, channels=channels) for draw in (DRAW, DRAW + 2**32))
    if channels:
        assert (one == one[:, :, :1]).all()
        one, other = one[:, :, :1], other[:, :, :1]
    share = (1 - chance) ** 2  # of two layers that know nothing of each other
    assert np.allclose(np.unique(one), [0, 1 / share], rtol=1e-6)
    for found, expected, count in (
        (one > 0, share, one.size),
        ((one > 0) & (other > 0), share**2, one.size),
        ((one > 0)[1:] & (one > 0)[:-1], share**2, one[1:].size),
        ((one > 0)[:, 1:] & (one > 0)[:, :-1], share**2, one[:, 1:].size),
    ):
        assert abs(found.sum() - count * expected) < 5 * (count * expected * (1 - expected)) ** 0.5


def test_every_instruction_set_drops_the_same() -> None:
    best = dropped(0.3, DRAW)
    for instructions in ("baseline", "avx2"):
        assert np.array_equal(dropped(0.3, DRAW, instructions=instructions), best)


def test_all_may_go_and_none() -> None:
    assert not dropped(1.0, DRAW).any()
    assert (dropped(0.0, DRAW) == 1).all()
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.0), nn.Linear(4, 2))
    assert not any(isinstance(op, Dropout) for op in trace(model, np.zeros((1, 4)), dropout=True).operations)


def test_the_graph_at_rest_is_the_one_that_files_are_written_from() -> None:
    model, inputs = dropping(), np.zeros((1, 3, 10, 8), np.float32)
    rest, plain = without_dropout(trace(model, inputs, dropout=True)), trace(model, inputs)
    said = [[(type(op), op.inputs, op.output) for op in graph.operations] for graph in (rest, plain)]
    assert said[0] == said[1]
    assert (list(rest.shapes.items()), rest.outputs, rest.modules) == (
        list(plain.shapes.items()), plain.outputs, plain.modules,
    )  # fmt: skip


def test_nothing_is_dropped_at_rest_nor_of_evidence() -> None:
    model = dropping()
    rng = np.random.default_rng(0)
    params = {name: value.detach().numpy() for name, value in unique_state(model).items()}
    masks = {"3.weight": rng.random(params["3.weight"].shape) < 0.5}
    params["3.weight"] *= masks["3.weight"]
    inputs, labels = batch_of((3, 10, 8), 4, 12)
    own, bare = (native.Model(trace(model, inputs, dropout=kept), params) for kept in (True, False))
    batches = [(inputs, labels)]
    assert native.evaluate(own, batches, 12) == native.evaluate(bare, batches, 12)
    model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in params.items()})
    there = evidence.bn_statistics(model, batches)
    for name, moments in native.bn_statistics(own, batches, 12).items():
        assert np.allclose(moments.mean, there[name].mean, atol=1e-5)
        assert np.allclose(moments.variance, there[name].variance, rtol=1e-4)
    right = evidence.top_gradients(model, inputs, labels, masks, {"3.weight": 20})["3.weight"]
    found = native_growth.top_gradients(own, inputs, labels, masks, {"3.weight": 20})["3.weight"]
    assert np.array_equal(found.position, right.position)
    assert np.allclose(found.value, right.value, rtol=1e-3)


def test_training_draws_anew_in_each_step_and_by_its_number_alone() -> None:
    model = without_norms()
    params = {name: value.detach().numpy() for name, value in unique_state(model).items()}
    inputs, labels = batch_of((3, 16, 16), 10, 24)
    own = native.Model(trace(model, inputs, dropout=True), params)
    seen: list[int] = []

    def trained(numbers: tuple[int, ...]) -> dict[str, Tensor]:
        def drawn(step: int) -> int:
            seen.append(step)
            return numbers[step]

        batches = [(inputs[:12], labels[:12]), (inputs[12:], labels[12:])]
        return dict(native.train(own, batches, Sgd(0.1), {}, examples=12, drawn=drawn)[1])

    first = trained((5, 6))
    assert seen == [0, 1]
    assert all(np.array_equal(first[name], value) for name, value in trained((5, 6)).items())
    for others in ((5, 7), (4, 6), (6, 5)):
        assert any(not np.array_equal(first[name], value) for name, value in trained(others).items())


def test_in_little_memory_it_trains_the_same_bits() -> None:
    model = without_norms()
    params = {name: value.detach().numpy() for name, value in unique_state(model).items()}
    inputs, labels = batch_of((3, 16, 16), 10, 23)
    own = native.Model(trace(model, inputs, dropout=True), params)
    batches = [(inputs[:12], labels[:12]), (inputs[12:], labels[12:])]
    found = [
        native.train(own, batches, Sgd(0.1), {}, examples=12, lean=lean, drawn=lambda step: DRAW + step)[1]
        for lean in (PLAIN, Lean(micro_batch=5), Lean(micro_batch=1, recompute=True))
    ]
    assert any(not np.array_equal(value, params[name]) for name, value in found[0].items())
    for other in found[1:]:
        assert all(np.array_equal(value, other[name]) for name, value in found[0].items())


def test_of_one_dimension_whole_channels_go() -> None:
    torch.manual_seed(5)
    body = nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout1d(0.4), nn.Conv1d(6, 4, 3), nn.Dropout(0.2)
    model = nn.Sequential(*body, nn.Flatten(), nn.Linear(4 * 9, 4))
    inputs, labels = batch_of((3, 13), 4, 19)
    right = in_torch(imposed(model, inputs, DRAW), inputs, labels)
    assert apart(natively(model, {}, inputs, labels, draw=DRAW), right, {}) < 2e-4


def test_a_graph_travels_with_what_it_drops() -> None:
    model, inputs = dropping(), np.zeros((1, 3, 10, 8), np.float32)
    graph = trace(model, inputs, dropout=True)
    params = {name: value.detach().numpy() for name, value in unique_state(model).items()}
    there = of_text(to_text(graph, {}), params)
    said = [[(op.chance, op.channels) for op in each.operations if isinstance(op, Dropout)] for each in (graph, there)]
    assert said[0] == said[1]
    assert said[0][:4] == [(0.2, True), (0.3, False), (0.25, True), (0.1, False)]
    for chance in (0.0, -0.1, 1.5, float("nan")):
        wrong = tuple(replace(op, chance=chance) if isinstance(op, Dropout) else op for op in graph.operations)
        with pytest.raises(ValueError, match="not a graph"):
            of_text(to_text(replace(graph, operations=wrong), {}), params)


def test_a_program_that_drops_nothing_has_no_room_for_it() -> None:
    """What an arena takes is a fact of the nets that are known: dropout alone adds to it."""
    model, inputs = without_norms(), np.zeros((1, 3, 16, 16), np.float32)
    sizes = []
    for dropout in (False, True):
        plan = program.plan(trace(model, inputs, dropout=dropout), 8)
        held = state(list(plan.nodes), {})
        own = program.training(plan, held, program.cross_entropy(10))
        assert (own.ends.drawn is not None) == dropout
        sizes.append(Machine(plan, held, [own]).elements)
    assert sizes[0] < sizes[1]
