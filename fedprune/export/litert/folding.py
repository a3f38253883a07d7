"""Operators of a float file that a convolution can do as well: scales and shifts by channel, pads with zeros."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fedprune.export.litert import layout
from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor
from fedprune.export.litert.reader import operator_name
from fedprune.types import Tensor

CHANNEL_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}
"""Axis of output channels in an operator's weight."""


def folded(file: File) -> File:
    """Return a float file that computes the same, its convolutions scaling, shifting and padding on their own.

    A MUL or ADD by channel goes into the weights and the bias before it, a PAD into padding SAME where that is the
    same. Tensors and constants that nothing uses any more are left out.
    """
    for rule in (_scaled, _padded):
        file = rule(file)
    return _used(file)


def _scaled(file: File) -> File:
    tensors = list(file.tensors)
    operators: list[FileOperator] = []
    users = _users(file)
    open_ended: dict[int, int] = {}  # tensor -> place of the convolution whose only user may go into it
    for operator in file.operators:
        change = _CHANGES.get(operator_name(operator))
        place = next((open_ended[index] for index in operator.inputs if index in open_ended), None)
        values = None if change is None or place is None else _by_channel(tensors, operator, operators[place])
        if change is None or place is None or values is None:
            place = len(operators)
            operators.append(operator)
        else:
            operators[place] = operator = _changed(tensors, operators[place], operator, values, change)
        constants = [tensors[index].data for index in operator.inputs[1:] if index >= 0]
        is_open = operator_name(operator) in CHANNEL_AXIS and not operator.options.fusedActivationFunction
        if is_open and users[operator.output] == 1 and len([data for data in constants if data is not None]) == 2:
            open_ended[operator.output] = place
    return replace(file, tensors=tensors, operators=operators)


_CHANGES: Mapping[str, Callable[..., Any]] = {"MUL": np.multiply, "ADD": np.add}


def _by_channel(tensors: list[FileTensor], operator: FileOperator, conv: FileOperator) -> Tensor | None:
    """Return the operator's constant, one value a channel; None if it has none, or does more than that."""
    if tensors[operator.output].shape != tensors[conv.output].shape:
        return None
    channels = tensors[operator.output].shape[-1]
    for index in operator.inputs:
        data = tensors[index].data
        if data is not None and (data.size == 1 or data.size == channels == data.shape[-1]):
            return np.broadcast_to(data.ravel(), channels)
    return None


def _changed(
    tensors: list[FileTensor], conv: FileOperator, by: FileOperator, values: Tensor, change: Callable[..., Any]
) -> FileOperator:
    source, *constants = conv.inputs
    weight, bias = (tensors[index].data for index in constants)
    assert weight is not None
    assert bias is not None
    inputs = [source, constants[0]]
    if change is np.multiply:
        by_row = values.reshape([-1 if axis == CHANNEL_AXIS[operator_name(conv)] else 1 for axis in range(4)])
        tensors.append(replace(tensors[constants[0]], data=(weight * by_row).astype(np.float32)))
        inputs[1] = len(tensors) - 1
    tensors.append(replace(tensors[constants[1]], data=change(bias, values).astype(np.float32)))
    options = _options(conv.options, fusedActivationFunction=by.options.fusedActivationFunction)
    return replace(conv, inputs=(*inputs, len(tensors) - 1), output=by.output, options=options)


def _options(options: Any, **values: Any) -> Any:
    """Return a copy of an operator's options with some of them replaced."""
    changed = type(options)()
    vars(changed).update(vars(options), **values)
    return changed


def _padded(file: File) -> File:
    from ai_edge_litert.schema_py_generated import Padding

    made = {operator.output: operator for operator in file.operators}
    operators = []
    for operator in file.operators:
        before = made.get(operator.inputs[0])
        if (
            operator_name(operator) in CHANNEL_AXIS
            and operator.options.padding == Padding.VALID
            and before is not None
            and operator_name(before) == "PAD"
            and _is_same(file, before, operator)
        ):
            options = _options(operator.options, padding=Padding.SAME)
            operator = replace(operator, inputs=(before.inputs[0], *operator.inputs[1:]), options=options)
        operators.append(operator)
    return replace(file, operators=operators)


def _is_same(file: File, pad: FileOperator, conv: FileOperator) -> bool:
    sides = file.tensors[pad.inputs[1]].data
    size = file.tensors[pad.inputs[0]].shape
    kernel = file.tensors[conv.inputs[1]].shape
    if sides is None or len(size) != 4 or sides[[0, 3]].any():
        return False
    options = conv.options
    dilation = (options.dilationHFactor, options.dilationWFactor)
    extent = [d * (k - 1) + 1 for d, k in zip(dilation, kernel[1:3], strict=True)]
    same = layout.same((size[1], size[2]), (extent[0], extent[1]), (options.strideH, options.strideW))
    return bool(np.array_equal(sides[1:3], same))


def _users(file: File) -> Counter[int]:
    """Return how often each tensor is read, once more where it leaves the file."""
    return Counter([*(index for operator in file.operators for index in operator.inputs), *file.outputs])


def _used(file: File) -> File:
    needed, operators = set(file.outputs), []
    for operator in reversed(file.operators):
        if operator.output in needed:
            operators.append(operator)
            needed.update(operator.inputs)
    kept = sorted({*needed, *file.inputs} - {-1})
    places = {-1: -1, **{index: place for place, index in enumerate(kept)}}

    def at(indices: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(places[index] for index in indices)

    renamed = [replace(op, inputs=at(op.inputs), output=places[op.output]) for op in reversed(operators)]
    return File([file.tensors[index] for index in kept], renamed, at(file.inputs), at(file.outputs))
