"""What a .tflite file holds: each operator, what its weights take as stored, and what the model needs to run."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from fedprune.export.inspection.arena import arena
from fedprune.export.inspection.weights import Weight, constant, unpacked
from fedprune.export.litert import Affine, Port
from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor
from fedprune.export.litert.loops import flat
from fedprune.export.litert.reader import ModelError, operator_name, read
from fedprune.export.litert.tokens import vocabulary


class Row(NamedTuple):
    """One operator of a file."""

    operator: str
    """``CONV_2D``, or the name of a custom one."""
    output: tuple[int, ...]
    """Shape of what it gives."""
    weight: tuple[int, ...]
    """Shape of its weight as the file orders it; empty without one."""
    weight_bytes: int
    """As stored, with all that it takes to unpack them."""
    encoding: str
    """``dense``, ``sparse`` (SparsityParameters), ``DECODE bitmap``, ``DECODE table``; empty without a weight."""
    zeros: float | None
    """Fraction of its weights that are zero; None without a weight, or where the encoding hides it."""
    macs: int
    """Multiply-adds of one inference, those with zeros too; 0 where it neither convolves nor multiplies a matrix."""


@dataclass(frozen=True)
class Inspection:
    """What a .tflite file holds."""

    name: str
    rows: tuple[Row, ...]
    """In running order, without operators that unpack constants: the row of who uses them names the encoding.

    What a loop runs stands there once, in its stead.
    """
    file_bytes: int
    weight_bytes: int
    """Of all rows; what two of them share counts once."""
    bias_bytes: int
    activations: tuple[str, ...]
    """Number types of all that the operators pass on: ``("int8",)``."""
    weights: tuple[str, ...]
    """Number types of the weights once unpacked."""
    arena_bytes: int | None
    """Predicted arena of TensorFlow Lite Micro; None where that is not known, as for floats."""
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def other_bytes(self) -> int:
        """Bytes of the file that are neither weights nor biases: shapes, scales, operators, names."""
        return self.file_bytes - self.weight_bytes - self.bias_bytes

    @property
    def macs(self) -> int:
        """Multiply-adds of one inference, those with zeros too."""
        return sum(row.macs for row in self.rows)

    @property
    def zeros(self) -> float | None:
        """Fraction of all weights that are zero; None without weights, or where an encoding hides it."""
        parts = [(row.zeros, math.prod(row.weight)) for row in self.rows if row.encoding]
        known = [zeros * size for zeros, size in parts if zeros is not None]
        return sum(known) / sum(size for _, size in parts) if known and len(known) == len(parts) else None


def inspect(content: bytes, name: str = "") -> Inspection:
    """Return what a .tflite file holds, int8 or float, without running it; ``name`` is only passed on.

    Raises ``ModelError`` as `fedprune.export.litert.reader.read`, and where a weight does not fit its operator.
    """
    whole = read(content, every=True)
    file, turns = _once_each(whole)
    graphs = [_graph(file, turns), *(_graph(graph, {}) for graph in _others(whole))]
    weights = [weight for graph in graphs for weight in graph.weights]
    biases = [bias for graph in graphs for bias in graph.biases]
    weight_bytes = _bytes(weights)
    return Inspection(
        name=name,
        rows=tuple(row for graph in graphs for row in graph.rows),
        file_bytes=len(content),
        weight_bytes=weight_bytes,
        bias_bytes=_bytes([*weights, *biases]) - weight_bytes,
        activations=tuple(sorted({dtype for graph in graphs for dtype in graph.passed})),
        weights=tuple(sorted({weight.kind or weight.dtype.name for weight in weights})),
        arena_bytes=arena(file),
        inputs=tuple(
            _port(file.tensors[index])._replace(vocabulary=vocabulary(file, place))
            for place, index in enumerate(file.inputs)
        ),
        outputs=tuple(_port(file.tensors[index]) for index in file.outputs),
    )


class _Graph(NamedTuple):
    """What one graph of a file holds."""

    rows: list[Row]
    weights: list[Weight]
    biases: list[Weight]
    passed: set[str]


def _graph(file: File, turns: Mapping[int, int]) -> _Graph:
    ready = unpacked(file)
    shown = [(at, operator) for at, operator in enumerate(file.operators) if operator.output not in ready]
    layers = {at: _layer(file, operator, at) for at, operator in shown if operator_name(operator) in _LAYERS}
    weights = {at: found for at, layer in layers.items() if (found := _constant(file, ready, layer.weight))}
    biases = [found for layer in layers.values() if (found := _constant(file, ready, layer.bias))]
    rows = [_row(file, operator, weights.get(at), layers.get(at), turns.get(at, 1)) for at, operator in shown]
    passed = {*file.inputs, *(index for _, operator in shown for index in operator.outputs)} - {-1}
    kinds = {file.tensors[index].kind.lower() or file.tensors[index].dtype.name for index in passed}
    return _Graph(rows, [*weights.values()], biases, kinds)


def _others(whole: File) -> list[File]:
    """The graphs that no loop of the first runs, such as what sets variables up."""
    looped = set[int]()
    for operator in whole.operators:
        if operator_name(operator) == "WHILE":
            looped |= {operator.options.condSubgraphIndex, operator.options.bodySubgraphIndex}
    return [graph for number, graph in enumerate(whole.subgraphs, 1) if number not in looped]


def _once_each(file: File) -> tuple[File, Mapping[int, int]]:
    """A file with the operators of its loops among the others, and how often each of those runs."""
    try:
        found = flat(file)
    except ModelError:  # a loop whose length is not told
        return file, {}
    return found.file, {at: each.turns for each in found.repeats for at in range(each.first, each.last + 1)}


class _Places(NamedTuple):
    """Where an operator has its weight and its bias, and over what each weight is multiplied."""

    bias: int
    axes: int
    channels: int
    """Axis of the weight along which the elements of ``counted`` have weights of their own."""
    counted: int | None
    """The input whose every element is multiplied; None for the output."""


_WEIGHT = 1
_LAYERS = {
    "CONV_2D": _Places(2, 4, 0, None),
    "DEPTHWISE_CONV_2D": _Places(2, 4, 3, None),
    "FULLY_CONNECTED": _Places(2, 2, 0, None),
    "TRANSPOSE_CONV": _Places(3, 4, 3, 2),
}


class _Layer(NamedTuple):
    """Tensors of weight and bias (-1 without), and the multiply-adds."""

    weight: int
    bias: int
    macs: int


def _layer(file: File, operator: FileOperator, position: int) -> _Layer:
    name = operator_name(operator)
    places = _LAYERS[name]
    inputs = (*operator.inputs, *[-1] * 4)
    counted = operator.output if places.counted is None else inputs[places.counted]
    weight = file.tensors[inputs[_WEIGHT]].shape if inputs[_WEIGHT] >= 0 else ()
    if len(weight) != places.axes or counted < 0:
        raise ModelError(f"operator {position} {name!r} has no weight of {places.axes} axes, or lacks an input")
    elements = math.prod(file.tensors[counted].shape)
    macs = elements * math.prod(weight) // weight[places.channels]
    return _Layer(inputs[_WEIGHT], inputs[places.bias], macs)


def _constant(file: File, ready: Mapping[int, Weight], index: int) -> Weight | None:
    return None if index < 0 else ready.get(index) or constant(file.tensors[index])


def _row(file: File, operator: FileOperator, weight: Weight | None, layer: _Layer | None, turns: int) -> Row:
    name, output = operator_name(operator), file.tensors[operator.output].shape if operator.outputs else ()
    macs = turns * layer.macs if layer else 0
    if weight is None:
        return Row(name, output, (), 0, "", None, macs)
    return Row(name, output, weight.shape, _bytes([weight]), weight.encoding, weight.zeros, macs)


def _bytes(constants: Iterable[Weight]) -> int:
    # Tensors that share bytes in the file share memory.
    parts = {part.__array_interface__["data"][0]: part.nbytes for each in constants for part in each.stored}
    return sum(parts.values())


def _port(tensor: FileTensor) -> Port:
    grid = None if tensor.scales is None else Affine(float(tensor.scales[0]), tensor.zero_point)
    return Port(tensor.shape, grid)
