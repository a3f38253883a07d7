"""What a converter leaves in a float file, made right: moved axes, matrices as convolutions, scales and pads folded."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from fedprune.export.litert.flatbuffer import File, FileOperator
from fedprune.export.litert.folding import folded
from fedprune.export.litert.reader import operator_name
from fedprune.export.litert.rewriting import Rewriting
from fedprune.export.litert.views import View, as_map, columns, is_relabelled, long_axes, plain, spread, transposed


def mended(file: File) -> File:
    """Return a float file that computes the same with fewer operators.

    - Axes are moved only before an operator that needs them so: elementwise operators, pads and reductions work in
      whatever order their input has, a matrix behind a flattened map has its columns permuted.
    - FULLY_CONNECTED with a constant matrix is a convolution of one position: FULLY_CONNECTED has one scale for the
      whole matrix on runtimes in the field, and its int8 rounding differs between TFLM and LiteRT.
    - Reductions keep their axes; those over axes of one are gone.
    - Inputs and outputs have the shapes of `fedprune.export.litert.layout`: vectors are maps of one position.
    - Then `folded`: scales and shifts by channel, and pads that SAME says.
    """
    made = Rewriting(file)
    inputs = tuple(made.source(index) for index in file.inputs)
    for operator in file.operators:
        rule = _RULES.get(operator_name(operator))
        if rule is None or not rule(made, operator):
            made.positional(operator)
    outputs = tuple(made.moved(made.view(index), as_map(file.tensors[index].shape)) for index in file.outputs)
    return folded(File(made.tensors, made.operators, inputs, outputs))


def _transpose(made: Rewriting, operator: FileOperator) -> bool:
    source, axes = operator.inputs
    order = made.old[axes].data
    if order is None:
        return False
    given = tuple(int(axis) for axis in order)
    made.views[operator.output] = transposed(made.view(source), made.old[source].shape, given)
    return True


def _reshape(made: Rewriting, operator: FileOperator) -> bool:
    source = operator.inputs[0]
    before, after = made.old[source].shape, made.old[operator.output].shape
    view = made.view(source)
    if is_relabelled(before, after):
        made.views[operator.output] = view
        return True
    if len(long_axes(after)) == 1 and not view.is_plain:
        made.flattened[operator.output] = source
        return True
    return False


def _elementwise(made: Rewriting, operator: FileOperator) -> bool:
    shape = made.old[operator.output].shape
    moving = [index for index in operator.inputs if made.old[index].data is None]
    views = [made.view(index) for index in moving]
    same = {(view.order, made.base(view)) for view in views}
    if len(same) != 1 or any(made.old[index].shape != shape for index in moving):
        return False
    base = made.base(views[0])
    constants = ((index, made.old[index].data) for index in operator.inputs)
    inputs = [
        made.view(index).base if data is None else made.constant(spread(data, shape, views[0], base))
        for index, data in constants
    ]
    made.along(operator, tuple(inputs), views[0], base)
    return True


def _pad(made: Rewriting, operator: FileOperator) -> bool:
    source, sides = operator.inputs[:2]
    shape, data = made.old[source].shape, made.old[sides].data
    if data is None or any(data[axis].any() for axis, size in enumerate(shape) if size == 1):
        return False
    view = made.view(source)
    base = made.base(view)
    full = np.zeros((len(base), 2), data.dtype)
    full[list(view.order)] = data[list(long_axes(shape))]
    padded = tuple(size + int(sum(ends)) for size, ends in zip(base, full, strict=True))
    inputs = (view.base, made.constant(full), *(made.tensor(index) for index in operator.inputs[2:]))
    made.along(operator, inputs, view, padded)
    return True


def _reduce(made: Rewriting, operator: FileOperator) -> bool:
    source, axes = operator.inputs
    shape, data = made.old[source].shape, made.old[axes].data
    if data is None:
        return False
    view = made.view(source)
    places = dict(zip(long_axes(shape), view.order, strict=True))
    gone = sorted(places[axis] for axis in {int(axis) % len(shape) for axis in data.ravel()} if axis in places)
    if not gone:
        made.views[operator.output] = view
        return True
    kept = tuple(1 if axis in gone else size for axis, size in enumerate(made.base(view)))
    whole = replace(operator, options=made.options("Reducer", keepDims=True))
    made.along(whole, (view.base, made.constant(np.array(gone, np.int32))), view, kept)
    return True


def _matrix(made: Rewriting, operator: FileOperator) -> bool:
    source, matrix, *rest = operator.inputs
    weight = made.old[matrix].data
    if weight is None or weight.ndim != 2 or operator.options.weightsFormat:
        return False
    rows, size = weight.shape
    places = [extent for extent in made.old[source].shape[:-1] if extent > 1]
    shape = (1, *[1] * (2 - len(places)), *places, size)
    result = (*shape[:-1], rows)
    if len(shape) != 4 or not is_relabelled(result, made.old[operator.output].shape):
        return False
    stored = made.filters(matrix)
    if source in made.flattened and source not in made.views:
        view = made.view(made.flattened[source])
        stored = made.constant(weight[:, columns(view, made.base(view))].reshape(rows, 1, 1, size))
        whole = made.moved(View(view.base, tuple(sorted(view.order))), shape)
    else:
        whole = made.moved(made.view(source), shape)
    bias = made.tensor(rest[0]) if rest and rest[0] >= 0 else made.constant(np.zeros(rows, np.float32))
    output = made.activation(result)
    clipping = operator.options.fusedActivationFunction
    padding = made.schema.Padding.VALID
    options = made.options("Conv2D", padding=padding, strideH=1, strideW=1, fusedActivationFunction=clipping)
    made.emit("CONV_2D", (whole, stored, bias), output, options)
    made.views[operator.output] = plain(output, result)
    return True


_Rule = Callable[[Rewriting, FileOperator], bool]
"""Writes an old operator and returns True, or writes nothing and returns False."""

_ELEMENTWISE = """
    ABS ADD DIV ELU EQUAL EXP GELU GREATER GREATER_EQUAL HARD_SWISH LEAKY_RELU LESS LESS_EQUAL LOG LOGISTIC MAXIMUM
    MINIMUM MUL NEG POW RELU RELU6 RELU_N1_TO_1 RSQRT SELECT SELECT_V2 SQRT SQUARE SQUARED_DIFFERENCE SUB TANH
"""

_RULES: Mapping[str, _Rule] = {
    "TRANSPOSE": _transpose,
    "RESHAPE": _reshape,
    "PAD": _pad,
    "PADV2": _pad,
    "FULLY_CONNECTED": _matrix,
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"), _reduce),
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
}
