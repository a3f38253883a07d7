"""Laws of the cost model: counts worked by hand, bounds of encodings, and memory that grows with what it is for."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedprune.budgets import (
    Extra,
    arena_bytes,
    extra_of,
    macs,
    memory_bytes,
    seconds,
    smallest,
    sparse_macs,
    stored_bytes,
    training_memory,
)
from fedprune.budgets.passes import Step
from fedprune.budgets.profile import _cgroup_free
from fedprune.graph import Conv2d, Graph, Linear, inference, trace
from fedprune.models import build
from fedprune.training.lean import blocks
from fedprune.training.optimisers import Steps
from fedprune.types import Local, Optimiser

SHAPES = {"resnet8": (3, 16, 16), "dscnn": (1, 12, 10), "har_cnn": (3, 16), "digits_cnn": (1, 8, 8)}
GRAPHS: dict[str, tuple[Graph, tuple[str, ...]]] = {}


def graph_of(name: str) -> tuple[Graph, tuple[str, ...]]:
    """The graph of a shipped model, and the blocks that it recomputes."""
    if name not in GRAPHS:
        model = build(name, SHAPES[name], 5)
        GRAPHS[name] = trace(model, torch.zeros(1, *SHAPES[name])), blocks(model)
    return GRAPHS[name]


def weights(graph: Graph) -> dict[str, int]:
    return {op.weight.name: op.weight.value.size for op in graph.operations if isinstance(op, Conv2d | Linear)}


def two_layers() -> Graph:
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    return trace(net, torch.zeros(1, 1, 4, 4))


# worked by hand


def test_multiply_adds_of_two_layers() -> None:
    graph = two_layers()
    assert macs(graph) == 18 * 16 + 96
    assert sparse_macs(graph, {"0.weight": 9, "3.weight": 10}) == 9 * 16 + 10
    assert sparse_macs(graph, {"0.weight": 0}) == 96
    assert seconds(384, 100, 1e6) == pytest.approx(3 * 384 * 100 / 1e6)
    assert seconds(384, 100, 1e6, recompute=True) == pytest.approx(4 * 384 * 100 / 1e6)
    assert seconds(384, 100, 1e6, passes=2) == pytest.approx(5 * 384 * 100 / 1e6)


def test_activations_of_two_layers() -> None:
    graph = two_layers()
    assert arena_bytes(graph) == 32 + 32  # before and after the ReLU
    assert arena_bytes(graph, 4) == 4 * 64
    assert arena_bytes(inference(graph)) == 32 + 32  # the convolution's now, but a flatten may copy


def test_training_two_layers_in_batches_of_two() -> None:
    got = training_memory(two_layers(), batch=2, examples=5, example_bytes=16, runtime=1000)
    parameters = 4 * (18 + 96 + 3)
    assert got.phase == "train"
    assert got.weights == got.optimiser == parameters
    assert got.link == 2 * parameters  # the request, encoded and decoded
    assert got.data == 2 * 5 * 16 + 2 * 2 * 64
    # Fullest at the ReLU's backward pass: the input, the ReLU's output, and the gradients on both of its sides.
    assert got.gradients == 4 * (96 + 3)
    held = 4 * 2 * (16 + 32 + 32 + 32)
    assert held < got.activations <= 1.7 * held
    assert got.total == sum(got[:-1])
    assert training_memory(two_layers(), batch=2, micro_batch=2).activations == held


def test_what_a_methods_own_steps_add() -> None:
    parameters = 4 * (18 + 96 + 3)
    plain = training_memory(two_layers(), batch=2, examples=5, example_bytes=16)
    got = training_memory(two_layers(), batch=2, examples=5, example_bytes=16, extra=Extra(10, 200, slots=2))
    assert got.phase == plain.phase == "train"
    assert got.weights == parameters + 4 * 10  # a copy of what is trained; what is read is the request's
    assert got.gradients == plain.gradients + 4 * 10
    assert got.optimiser == 2 * (parameters + 4 * 10)
    assert got.activations == plain.activations + 4 * 10
    assert got.link == 2 * (parameters + 4 * 210)  # encoded and decoded
    assert got.data == plain.data


def test_what_a_reply_with_trained_memory_takes() -> None:
    graph = trace(nn.Sequential(nn.Flatten(), nn.Linear(16, 100)), torch.zeros(1, 1, 4, 4))
    parameters = 4 * 1700
    got = training_memory(graph, batch=1, micro_batch=1, extra=Extra(10, 20, slots=0))
    assert got.phase == "reply"
    assert got.weights == parameters + 4 * 10
    # What was asked, encoded and decoded; the reply's tensors, and they encoded.
    assert got.link == 2 * (parameters + 4 * 30) + 2 * (parameters + 4 * 10)


def test_choosing_examples_holds_them_as_floats() -> None:
    parameters, trained = 4 * (18 + 96 + 3), 7
    extra = Extra(trained, chooses=True)
    got = training_memory(two_layers(), batch=2, micro_batch=2, examples=500, example_bytes=16, extra=extra)
    assert got.phase == "choose"
    assert got.data == 2 * 500 * 16 + 2 * 500 * 64
    assert got.activations == 4 * 2 * (32 + 32)  # a batch at a time: before and after the ReLU
    assert got.weights == parameters + 4 * trained
    assert got.link == 2 * (parameters + 4 * trained)
    assert got.gradients == got.optimiser == 0


def test_a_local_says_what_it_takes() -> None:
    memory = {"score": np.zeros((3, 4)), "gate": np.zeros(5), "first": np.zeros((2, 2)), "unread": np.zeros(99)}
    adam = Optimiser(lambda trained: {}, lambda trained, grads, state, now: None, slots=2)
    assert extra_of(Local(), memory) == Extra() == Extra(0, 0, 1, False)
    assert extra_of(Local(), memory, Steps(lambda decayed: adam)).slots == 2
    assert extra_of(Local(), memory, Steps(proximal=0.1)).slots == 2  # velocity, and where training began
    local = Local(optimiser=adam, trains=("score", "gate"), reads=("first",), examples=lambda *given: np.arange(1))
    assert extra_of(local, memory) == Extra(17, 4, 2, True)
    assert extra_of(local, memory, Steps(lambda decayed: adam, proximal=0.1)).slots == 3  # its own optimiser's two
    with pytest.raises(KeyError, match="teacher"):
        extra_of(Local(reads=("teacher",)), memory)


def test_bytes_of_encodings() -> None:
    assert stored_bytes({"a": 100}, {}) == {"dense": 100, "bitmap": 113, "gaps4": 150, "gaps8": 200, "entropy": 100}
    half = stored_bytes({"a": 1000}, {"a": 500}, bits=4)
    assert (half["dense"], half["bitmap"], half["entropy"]) == (500, 125 + 250, 125 + 250)
    assert half["gaps4"] == math.ceil(500 * (4 * (1 + 2**-15 / (1 - 2**-15)) + 4) / 8)
    assert smallest({"a": 1000}, {"a": 500}) == ("bitmap", 625)
    assert smallest({"a": 1000}, {"a": 1000})[0] == "dense"
    assert smallest({"a": 1000}, {"a": 0}) == ("gaps4", 0)
    with pytest.raises(ValueError, match="a: 11 kept of 10"):
        stored_bytes({"a": 10}, {"a": 11})


# laws


@pytest.mark.parametrize("name", list(SHAPES))
def test_all_weights_kept_is_dense(name: str) -> None:
    graph, _ = graph_of(name)
    assert sparse_macs(graph, weights(graph)) == macs(graph)


@given(st.integers(1, 10**6), st.floats(0, 1), st.integers(1, 8))
def test_no_encoding_beats_the_entropy(size: int, density: float, bits: int) -> None:
    kept = round(density * size)
    found = stored_bytes({"a": size}, {"a": kept}, bits)
    assert all(found["entropy"] <= found[name] for name in ("bitmap", "gaps4", "gaps8"))
    assert found["bitmap"] <= found["dense"] + math.ceil(size / 8)
    assert smallest({"a": size}, {"a": kept}, bits)[1] <= found["dense"]


@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("way", [{}, {"recompute": True}, {"recompute": True, "micro_batch": 4}, {"sparse": True}])
def test_memory_never_falls_when_the_batch_grows(name: str, way: dict[str, object]) -> None:
    graph, names = graph_of(name)
    kept = {key: size // 10 for key, size in weights(graph).items()}
    given_ = {**way, "recompute": names if way.get("recompute") else (), "kept": kept}
    sizes = [training_memory(graph, batch=batch, **given_).total for batch in (1, 2, 4, 8, 16, 64)]  # type: ignore[arg-type]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("name", list(SHAPES))
def test_recomputing_blocks_holds_fewer_activations(name: str) -> None:
    graph, names = graph_of(name)
    whole = training_memory(graph, batch=64, micro_batch=64)
    assert training_memory(graph, batch=64, micro_batch=64, recompute=names).activations <= whole.activations
    assert training_memory(graph, batch=64, micro_batch=8).activations <= whole.activations


@pytest.mark.parametrize("name", list(SHAPES))
def test_sparse_training_costs_what_is_kept(name: str) -> None:
    graph, _ = graph_of(name)
    every = weights(graph)
    dense = training_memory(graph, batch=8, micro_batch=8)
    full = training_memory(graph, batch=8, micro_batch=8, sparse=True, kept=every)
    tenth = training_memory(graph, batch=8, micro_batch=8, sparse=True, kept={k: n // 10 for k, n in every.items()})
    if dense.phase == full.phase == "train":
        assert full.optimiser == dense.optimiser
        assert full.weights == dense.weights + sum(every.values())  # a mask of a byte a weight
    assert tenth.total <= full.total
    masked = training_memory(graph, batch=8, micro_batch=8, kept={k: n // 10 for k, n in every.items()})
    assert tenth.total <= masked.total


@given(
    name=st.sampled_from(list(SHAPES)),
    less=st.builds(Extra, *[st.integers(0, 10**6)] * 2, st.integers(0, 3), st.booleans()),
    more=st.builds(Extra, *[st.integers(0, 10**6)] * 2, st.integers(0, 3), st.booleans()),
    micro_batch=st.sampled_from([0, 4]),
)
def test_memory_never_falls_when_a_methods_own_steps_take_more(
    name: str, less: Extra, more: Extra, micro_batch: int
) -> None:
    graph, _ = graph_of(name)
    found = [
        training_memory(graph, batch=8, micro_batch=micro_batch, examples=100, extra=extra)
        for extra in (less, Extra(*(max(pair) for pair in zip(less, more, strict=True))))
    ]
    assert found[0].total <= found[1].total
    plain = training_memory(graph, batch=8, micro_batch=micro_batch, examples=100)
    assert training_memory(graph, batch=8, micro_batch=micro_batch, examples=100, extra=Extra()) == plain


@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("batch", [1, 8, 64])
def test_a_pass_without_gradients_takes_less_than_a_step(name: str, batch: int) -> None:
    graph, _ = graph_of(name)
    for holes in (0.0, 0.6):
        assert Step(graph, batch, holes=holes).infer().peak <= Step(graph, batch, holes=holes).run().peak


def test_phases_that_are_asked_for_count() -> None:
    graph, _ = graph_of("resnet8")
    small = training_memory(graph, batch=2)
    assert training_memory(graph, batch=2, evaluate_batch=4096).phase == "evaluate"
    grown = dict.fromkeys(weights(graph), 10)
    growing = training_memory(graph, batch=2, grow_batch=128, grown=grown)
    assert growing.phase == "grow"
    assert growing.total > small.total
    assert growing.top_k > 0


# what a process may use


def test_a_process_may_use_some_memory() -> None:
    assert 2**20 < memory_bytes() < 2**50


def test_the_smallest_control_group_counts(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/device/job\n")
    inner = tmp_path / "cgroup" / "device" / "job"
    inner.mkdir(parents=True)
    for folder, limit, usage in ((inner.parent, "1000", "400"), (inner, "max", "300")):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{usage}\n")
    assert _cgroup_free(tmp_path / "cgroup", own) == [600]
    (inner.parent / "memory.stat").write_text("anon 5\ninactive_file 50\n")
    assert _cgroup_free(tmp_path / "cgroup", own) == [650]

    old = tmp_path / "cgroup" / "memory" / "device"
    old.mkdir(parents=True)
    own.write_text("4:memory:/device\n")
    (old / "memory.limit_in_bytes").write_text("5000\n")
    (old / "memory.usage_in_bytes").write_text("4000\n")
    assert _cgroup_free(tmp_path / "cgroup", own) == [1000]
    (old / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert _cgroup_free(tmp_path / "cgroup", own) == []
