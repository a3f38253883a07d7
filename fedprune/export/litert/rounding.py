"""A graph with the rounding of its int8 file, beside torch: biases that make up for it, and the noise it leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fedprune.export.litert.numbers import Integers, takes_tokens
from fedprune.export.litert.quantise import Affine, Ranges, grids, to_float, to_int8, wide
from fedprune.graph import Constant, Conv2d, Graph, Linear, Operation, Parameter, parameters
from fedprune.graph.running import clipped, compute, moves_batch
from fedprune.types import FloatTensor, Tensor

if TYPE_CHECKING:
    import torch

EXAMPLES = 64
"""As many calibration examples as are worth their time: means over positions settle early."""


class Rounded(NamedTuple):
    """A graph for the int8 file, and what the file's rounding costs."""

    graph: Graph
    """Biases corrected where that was asked for; for float files keep the graph as it was."""
    noise_db: Mapping[str, float]
    """Layer -> ``10 log10 (Σ x² / Σ (x - q)²)`` of what it gives, q in int8 and x in torch; the noisiest first.

    Layers are called by their parameters, as the model calls them. One that is free of noise, or gives nothing but
    zeros, is left out.
    """


def rounded(graph: Graph, ranges: Ranges, inputs: Tensor, *, correct: bool) -> Rounded:
    """Run the first `EXAMPLES` of ``inputs`` in float32 and on the grids of the file, layer by layer.

    With ``correct`` each convolution's and linear layer's bias b gives way to ``b - mean(q - x)`` by output channel, q
    what it computes of rounded weights and of what the rounded layers before it gave, x what torch does (Nagel et al.,
    2019, section 4.2, measured). What a layer of little variance would magnify is a channel's mean error above all.
    """
    import torch

    scales, sixteen = grids(graph, ranges), wide(graph)
    shape = graph.shapes[graph.input]
    apart = moves_batch(graph)  # then each example is computed alone
    first = torch.as_tensor(np.asarray(inputs[:EXAMPLES], np.float32)).reshape(-1, *shape[0 if apart else 1 :])
    exact = {graph.input: first}
    on_grid = {graph.input: first if takes_tokens(graph) else _on_grid(first, scales[graph.input], False)}
    readers = Counter(name for op in graph.operations for name in set(op.inputs))
    operations, noise = [], {}
    with torch.no_grad():
        for op in graph.operations:
            wanted = _computed(graph, op, exact, apart)
            given = _computed(graph, _on_weight_grids(op, scales), on_grid, apart)
            if correct and isinstance(op, Conv2d | Linear):
                error = _mean_error(op, given - wanted)
                given = given - error
                op = replace(op, bias=_less(op, error))
            operations.append(op)
            exact[op.output] = clipped(op, wanted)
            on_grid[op.output] = _on_grid(clipped(op, given), scales[op.output], op.output in sixteen)
            if (held := parameters(op)) and not isinstance(op, Constant):
                noise[held[0].name.rpartition(".")[0] or op.output] = _decibels(exact[op.output], on_grid[op.output])
            for name in set(op.inputs):  # of a large net, all tensors of all examples would not fit
                readers[name] -= 1
                if not readers[name]:
                    del exact[name], on_grid[name]
    found = {layer: value for layer, value in noise.items() if value is not None}
    return Rounded(replace(graph, operations=tuple(operations)), dict(sorted(found.items(), key=lambda each: each[1])))


def _computed(graph: Graph, op: Operation, values: Mapping[str, torch.Tensor], apart: bool) -> torch.Tensor:
    import torch

    given = [values[name] for name in op.inputs]
    if not apart or isinstance(op, Constant):
        return compute(graph, op, given)
    constants = {each.output for each in graph.operations if isinstance(each, Constant)}
    whole = [name in constants for name in op.inputs]
    count = next(len(each) for each, fixed in zip(given, whole, strict=True) if not fixed)
    samples = ([each if fixed else each[at] for each, fixed in zip(given, whole, strict=True)] for at in range(count))
    return torch.stack([compute(graph, op, sample) for sample in samples])


def _on_grid(values: torch.Tensor, grid: Affine, is_wide: bool) -> torch.Tensor:
    import torch

    if is_wide:
        return (values / grid.scale).round().clamp(-32767, 32767) * grid.scale
    return torch.from_numpy(to_float(to_int8(values.numpy(), grid), grid))


def _on_weight_grids(op: Operation, scales: Mapping[str, Affine]) -> Operation:
    if not isinstance(op, Conv2d | Linear):
        return op
    stored = Integers(scales).constants(op.weight.value, _bias(op), 0, op.inputs[0], op.output).weight
    assert stored.data is not None
    assert stored.scales is not None
    steps = stored.scales.reshape(-1, *[1] * (op.weight.value.ndim - 1))
    return replace(op, weight=Parameter(op.weight.name, (stored.data * steps).astype(np.float32)))


def _bias(op: Conv2d | Linear) -> FloatTensor:
    return np.zeros(len(op.weight.value), np.float32) if op.bias is None else op.bias.value


def _less(op: Conv2d | Linear, error: torch.Tensor) -> Parameter:
    name = f"{op.weight.name}.bias" if op.bias is None else op.bias.name
    return Parameter(name, (_bias(op) - error.numpy().reshape(-1)).astype(np.float32))


def _mean_error(op: Conv2d | Linear, error: torch.Tensor) -> torch.Tensor:
    """Of each output channel, in a shape that broadcasts."""
    channel = error.ndim - (3 if isinstance(op, Conv2d) else 1)
    others = [axis for axis in range(error.ndim) if axis != channel]
    return error.double().mean(others, keepdim=True).float()  # in double precision: the same for any thread count


def _decibels(wanted: torch.Tensor, given: torch.Tensor) -> float | None:
    signal, noise = (float(each.double().square().sum()) for each in (wanted, wanted - given))
    return round(float(10 * np.log10(signal / noise)), 1) if signal and noise else None
