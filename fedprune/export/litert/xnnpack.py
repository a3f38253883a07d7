"""The nets whose zeros XNNPACK skips on aarch64, recognised in their files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedprune.export.litert import layout
from fedprune.export.litert.flatbuffer import File, FileOperator

_MEAN_AXES = [1, 2]


class Window(NamedTuple):
    """A convolution that reads more than one position, and its map along both axes."""

    kernel: int
    stride: int
    before: tuple[int, int]
    """Zeros read in front of the map."""
    size: tuple[int, int]
    result: tuple[int, int]
    pad: int | None
    """Position of the operator that adds the zeros, if one does."""


class Body(NamedTuple):
    """A net of the kind from its input to its global mean, by positions of operators."""

    windows: Mapping[int, Window]
    pointwise: Sequence[int]
    """The 1x1 convolutions, whose zeros are skipped."""
    mean: int
    is_mirrored: bool
    """Whether its windows fit a mirrored image alone."""


def body(file: File) -> Body | None:
    """Return the part of the net whose zeros XNNPACK would skip, or None if the net is not of the kind.

    Of the kind is a float32 net of one input that starts with a 3x3 convolution at stride 2 over 3 channels, goes on
    with 1x1 convolutions, depthwise ones of 3x3 or 5x5 and additions, and has one global mean, with anything after it.
    Its windows are padded all round; at stride 2 a row may be missing at one end, the same end all through the net.
    XNNPACK knows more operators. These are the ones with which every runtime was seen to give the right result.
    """
    codes = _schema().BuiltinOperator
    means = [position for position, operator in enumerate(file.operators) if operator.code == codes.MEAN]
    if len(file.inputs) != 1 or len(means) != 1:
        return None
    read = Counter(index for operator in file.operators for index in operator.inputs)
    pads: dict[int, int] = {}  # padded tensor -> position of its operator
    windows: dict[int, Window] = {}
    pointwise: list[int] = []
    inside: set[int] = set()
    for position, operator in enumerate(file.operators[: means[0]]):
        origin = operator.inputs[0]
        if operator.code == codes.PAD and read[operator.output] == 1 and _is_around(file, operator):
            pads[operator.output] = position
            continue
        pad = pads.get(origin)
        origin = origin if pad is None else file.operators[pad].inputs[0]
        is_first = origin == file.inputs[0] and read[origin] == 1
        if operator.code == codes.CONV_2D and pad is None and origin in inside and _is_pointwise(file, operator):
            pointwise.append(position)
        elif (operator.code == codes.CONV_2D and is_first and _is_stem(file, operator)) or (
            operator.code == codes.DEPTHWISE_CONV_2D and origin in inside and _is_depthwise(file, operator)
        ):
            windows[position] = _window(file, operator, pad)
        elif operator.code != codes.ADD or not inside.issuperset(operator.inputs) or not _is_alike(file, operator):
            return None
        inside.add(operator.output)
    mean, after = file.operators[means[0]], file.operators[means[0] + 1 :]
    needed = {index for operator in after for index in operator.inputs}.union(file.outputs)
    if mean.inputs[0] not in inside or not inside.union(pads).isdisjoint(needed) or not _is_global(file, mean):
        return None
    for is_mirrored in (False, True):
        if all(_fits(window, is_mirrored) for window in windows.values()):
            return Body(windows, pointwise, means[0], is_mirrored)
    return None


def _fits(window: Window, is_mirrored: bool) -> bool:
    zeros = window.kernel // 2
    for before, size, result in zip(window.before, window.size, window.result, strict=True):
        after = (result - 1) * window.stride + window.kernel - size - before
        all_round = (size + 2 * zeros - window.kernel) // window.stride + 1
        if (after if is_mirrored else before) != zeros or result != all_round:
            return False
    return True


def _window(file: File, operator: FileOperator, pad: int | None) -> Window:
    padded, weight = (file.tensors[index].shape for index in operator.inputs[:2])
    kernel, stride = weight[1], operator.options.strideH
    first = (0, 0)
    if operator.options.padding == _schema().Padding.SAME:
        sides = layout.same((padded[1], padded[2]), (kernel, kernel), (stride, stride))
        first = (sides[0][0], sides[1][0])
    size = padded
    if pad is not None:
        size = file.tensors[file.operators[pad].inputs[0]].shape
        zeros = file.tensors[file.operators[pad].inputs[1]].data
        assert zeros is not None
        first = (first[0] + int(zeros[1][0]), first[1] + int(zeros[2][0]))
    result = file.tensors[operator.output].shape
    return Window(kernel, stride, first, (size[1], size[2]), (result[1], result[2]), pad)


def _is_pointwise(file: File, operator: FileOperator) -> bool:
    channels, shape = file.tensors[operator.inputs[0]].shape[3], _filter(file, operator)
    return shape is not None and shape[1:] == (1, 1, channels) and _strides(operator) == (1, 1)


def _is_stem(file: File, operator: FileOperator) -> bool:
    channels, shape = file.tensors[operator.inputs[0]].shape[3], _filter(file, operator)
    return shape is not None and shape[1:] == (3, 3, 3) and channels == 3 and _strides(operator) == (2, 2)


def _is_depthwise(file: File, operator: FileOperator) -> bool:
    channels, shape = file.tensors[operator.inputs[0]].shape[3], _filter(file, operator)
    return shape in ((1, 3, 3, channels), (1, 5, 5, channels)) and _strides(operator) in ((1, 1), (2, 2))


def _filter(file: File, operator: FileOperator) -> tuple[int, ...] | None:
    """Return the shape of its weight, or None if it is dilated or not float32."""
    weight, options = file.tensors[operator.inputs[1]], operator.options
    is_plain = weight.data is not None and weight.dtype == np.float32 and weight.sparsity is None
    return weight.shape if is_plain and (options.dilationHFactor, options.dilationWFactor) == (1, 1) else None


def _strides(operator: FileOperator) -> tuple[int, int]:
    return operator.options.strideH, operator.options.strideW


def _is_alike(file: File, operator: FileOperator) -> bool:
    return len({file.tensors[index].shape for index in (*operator.inputs, operator.output)}) == 1


def _is_around(file: File, operator: FileOperator) -> bool:
    sides = file.tensors[operator.inputs[1]].data
    return sides is not None and not np.any(np.asarray(sides)[[0, -1]])


def _is_global(file: File, operator: FileOperator) -> bool:
    axes = file.tensors[operator.inputs[1]].data
    return axes is not None and np.ravel(axes).tolist() == _MEAN_AXES


def _schema() -> Any:
    from ai_edge_litert import schema_py_generated

    return schema_py_generated
