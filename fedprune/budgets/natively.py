"""Peak memory of a device's process that trains natively: one arena, whose size is known before anything runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from math import gcd, prod
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from fedprune.budgets.memory import Memory
from fedprune.budgets.storage import stored_bytes
from fedprune.graph import Conv2d, GlobalMean, Graph, Linear, Parameter, parameters
from fedprune.native.program import Program, laid_out
from fedprune.native.state import State
from fedprune.training import native, native_growth
from fedprune.training.lean import PLAIN, Lean
from fedprune.training.native import Model
from fedprune.training.native_steps import Inner
from fedprune.types import Masks, Sgd, Tensor

RUNTIME_BYTES = 90_000_000
"""`Profile.runtime_bytes` of a fleet's device on 64-bit Linux that has loaded no torch: what a plan reckons with."""
_FLOAT = 4
_WHOLE = 3
"""Bytes for each value of a tensor that is made whole, measured: some of it lies where something else was."""
_GOLDEN = 0.6180339887


class Arena(NamedTuple):
    """Bytes of all that a device computes with, by what takes them."""

    weights: int
    """And statistics."""
    gradients: int
    velocity: int
    activations: int
    """And what sparse layers read, by position; all else."""

    @property
    def total(self) -> int:
        """The arena's size."""
        return sum(self)


def training(model: Model, masks: Masks, examples: int, lean: Lean = PLAIN, inner: Sequence[Inner] = ()) -> Arena:
    """What training takes, of batches of at most so many examples, with ``inner`` smaller models in turn."""
    _, forms = native.planned(model, masks, examples, lean, inner=inner)
    return _arena([form.held for form in forms], native.programs_of(forms))


def growth(model: Model, masks: Masks, examples: int, counts: Mapping[str, int]) -> Arena:
    """What the largest gradients of pruned weights take, over so many examples."""
    _, held, own, _ = native_growth.growing(model, masks, counts, examples)
    return _arena([held], [own])


def resting(model: Model, masks: Masks, examples: int) -> Arena:
    """What a test takes, so many examples at a time."""
    _, held, own = native.resting(model, masks, examples)
    return _arena([held], [own])


def _arena(held: Sequence[State], programs: Sequence[Program]) -> Arena:
    total = laid_out(programs, *held)
    weights = sum(each.values.elements + each.rest.elements for each in held)
    gradients = sum(each.gradients.elements for each in held)
    velocity = sum(each.velocity.elements for each in held)
    rest = total - weights - gradients - velocity
    return Arena(*(_FLOAT * each for each in (weights, gradients, velocity, rest)))


def step_seconds(model: Model, masks: Masks, batch: int, way: Lean = PLAIN, least_s: float = 0.0) -> float:
    """Seconds of one training step over a batch, measured here: the least of at least two, for at least so long."""
    shape, outputs = (model.graph.shapes[each] for each in (model.graph.input, model.graph.outputs[0]))
    labels = np.zeros(batch, np.int64) if model.numbers is None else np.zeros((batch, outputs[1]), np.float32)
    found: list[float] = []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        inputs = np.zeros((batch, *shape[1:]), np.float32)
        yield inputs, labels  # the first one touches memory that was not there before
        while sum(found) < least_s or len(found) < 2:
            started = time.perf_counter()
            yield inputs, labels
            found.append(time.perf_counter() - started)

    native.train(model, batches(), Sgd(0.0), masks, examples=batch, lean=way)
    return min(found)


def macs_per_second(seconds: float) -> float:
    """Multiply-adds a second of one thread, forwards and backwards, of a dense convolution; measured for so long."""
    channels, size, batch = 32, 16, 16
    weight = Parameter("weight", np.full((channels, channels, 3, 3), 0.01, np.float32))
    row = Parameter("row", np.full((2, channels), 0.01, np.float32))
    same = ((1, 1), (1, 1))
    operations = (
        Conv2d(("x",), "a", weight, None, (1, 1), same, (1, 1), 1),
        Conv2d(("a",), "b", Parameter("second", weight.value), None, (1, 1), same, (1, 1), 1),
        GlobalMean(("b",), "c"),
        Linear(("c",), "y", row, None),
    )
    map = (1, channels, size, size)
    graph = Graph("x", ("y",), operations, {"x": map, "a": map, "b": map, "c": (1, channels), "y": (1, 2)})
    params = {p.name: p.value for op in operations for p in parameters(op)}
    # forwards twice, backwards to the inputs of the second alone, and to both weights
    macs = 5 * batch * size * size * weight.value.size
    return macs / step_seconds(Model(graph, params), {}, batch, least_s=seconds)


def spread(kept: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> Masks:
    """Masks that keep so many weights each, evenly spread: what an arena takes hardly depends on which they are.

    >>> spread({"layer": 2}, {"layer": (2, 4)})["layer"].astype(int)
    array([[1, 0, 0, 0],
           [0, 1, 0, 0]])
    """
    found: dict[str, Tensor] = {}
    for name, count in kept.items():
        size = prod(shapes[name])
        step = max(1, round(_GOLDEN * size))
        while gcd(step, size) > 1:  # else some positions come twice
            step += 1
        mask = np.zeros(size, np.bool_)
        mask[np.arange(count, dtype=np.int64) * step % size] = True
        found[name] = mask.reshape(shapes[name])
    return found


def training_memory(
    model: Model,
    *,
    batch: int,
    way: Lean = PLAIN,
    kept: Mapping[str, int],
    examples: int = 0,
    example_bytes: int = 0,
    evaluate_batch: int = 0,
    grow_batch: int = 0,
    grown: Mapping[str, int] = MappingProxyType({}),
    inner: int = 0,
    runtime: int = RUNTIME_BYTES,
) -> Memory:
    """The fullest moment of a round on a device that trains ``model`` natively; as `budgets.training_memory`.

    Batches of 0 leave their phases out. ``inner`` smaller models are trained along.
    """
    graph = model.graph
    sizes = {p.name: int(p.value.size) for op in graph.operations for p in parameters(op)}
    shapes = {p.name: p.value.shape for op in graph.operations for p in parameters(op)}
    masks = spread(kept, shapes)
    codes = stored_bytes({name: sizes[name] for name in kept}, kept, 0)["entropy"]
    codes += sum(min(sizes[name] // 8, _FLOAT * count) for name, count in kept.items())
    encoded = _FLOAT * sum(kept.get(name, size) for name, size in sizes.items())
    # as it came; one tensor of it at a time is whole
    request = encoded + (1 + inner) * codes + _WHOLE * max(sizes.values())
    example = _FLOAT * prod(graph.shapes[graph.input])
    common = Memory(link=request, runtime=runtime)
    moments = []
    if batch:
        arena = training(model, masks, batch, way, [Inner(masks, {})] * inner)  # each at most as large
        moments.append(_moment(common, arena, 2 * batch * example, "train"))
        moments.append(_moment(common._replace(link=request + encoded), arena, 0, "reply"))
    if evaluate_batch:
        arena = resting(model, masks, evaluate_batch)
        moments.append(_moment(common, arena, 2 * evaluate_batch * example, "evaluate"))
    if grow_batch and grown:
        arena = growth(model, masks, grow_batch, grown)
        lists = sum((_FLOAT + 8) * count for count in grown.values())
        moment = _moment(common, arena, 2 * grow_batch * example, "grow")
        moments.append(moment._replace(top_k=lists))
    return holding(max(moments, key=lambda memory: memory.total), examples, example_bytes)


def holding(memory: Memory, examples: int, example_bytes: int) -> Memory:
    """The same of a device that holds so many examples more: the data set, and the copy of the device's own part.

    >>> holding(Memory(data=5), examples=10, example_bytes=64).data
    1285
    """
    return memory._replace(data=memory.data + 2 * examples * example_bytes)


def _moment(common: Memory, arena: Arena, data: int, phase: str) -> Memory:
    return common._replace(
        weights=arena.weights,
        gradients=arena.gradients,
        optimiser=arena.velocity,
        activations=arena.activations,
        data=data,
        phase=phase,
    )
