"""The .tflite operators of arithmetic, reductions and functions of one value, in whatever order values lie."""

from collections.abc import Callable, Mapping
from itertools import groupby
from math import prod
from typing import Any

import numpy as np

from fedprune.export.litert import layout
from fedprune.export.litert.layout import Dims, Shape
from fedprune.export.litert.lowering import Lowering, Seen
from fedprune.export.litert.rules_reduce import reduce, rsqrt
from fedprune.graph import (
    RELU,
    RELU6,
    Abs,
    Add,
    Clip,
    Constant,
    Divide,
    Elu,
    Exp,
    Gelu,
    HardSwish,
    LeakyRelu,
    LogSoftmax,
    Maximum,
    Minimum,
    Multiply,
    Narrow,
    Operation,
    PRelu,
    Reduce,
    Rsqrt,
    Sigmoid,
    Softmax,
    Subtract,
    Tanh,
    UnsupportedOperation,
    Widen,
)


def _constant(made: Lowering, op: Constant) -> None:
    """Written by whoever reads it, as that needs it."""


def _binary(code: str, options: str) -> Callable[[Lowering, Any], None]:
    def rule(made: Lowering, op: Any) -> None:
        bounds = getattr(op, "bounds", None)
        values = {} if bounds is None else {"fusedActivationFunction": made.clipping(op, bounds)}
        names, whole = op.inputs, made.shape(op.output)
        lead = next((name for name in names if name in made.seen and made.shape(name) == whole), None)
        if lead is None:
            inputs, shape, dims = _crossed(made, names, whole)
        else:
            shape, dims = _held(made, lead)
            if made.seen[lead].order is not None:
                inputs = _alike(made, names, lead)
            else:
                inputs = _beside(made, names, lead, shape, dims)
                shape = made.tensors[inputs[names.index(lead)]].shape
        order = None if lead is None else made.seen[lead].order
        result = made.make(op.output, shape, dims)
        made.seen[op.output] = made.seen[op.output]._replace(order=order)
        if isinstance(op, Maximum | Minimum):
            inputs = [made.onto(index, op.output) for index in inputs]
        made.emit(code, tuple(inputs), result, made.options(options, **values))

    return rule


def _held(made: Lowering, name: str) -> tuple[Shape, Dims]:
    seen = made.seen[name]
    return made.tensors[seen.tensor].shape, seen.dims


def _alike(made: Lowering, names: tuple[str, ...], lead: str) -> list[int]:
    # vectors in an order that dimensions do not say: all in that one
    for name in names:
        other, own = made.seen.get(name), made.seen[lead].order
        if other is None or other.order is None or own is None or not np.array_equal(other.order, own):
            raise UnsupportedOperation(f"{name} would need its values moved between channel orders")
    shape = made.tensors[made.seen[lead].tensor].shape
    return [made.shaped(name, made.seen[name].tensor, shape) for name in names]


def _beside(made: Lowering, names: tuple[str, ...], lead: str, shape: Shape, dims: Dims) -> list[int]:
    """Operands laid out so that they broadcast as they lie to the one that is whole."""
    parts = layout.held(shape, dims)
    shapes = [made.shape(name) for name in names]
    if parts is None or len(parts) > 3 or not all(_alike_along(part, shapes) for part in parts):
        # kernels know a batch and three axes
        parts = _fewest(dims, shapes)
        shape = (*[1] * (4 - len(parts)), *(prod(dim.size for dim in part) for part in parts))
        places = list(range(4 - len(parts), 4)) if len(parts) <= 4 else list(range(len(parts)))
    else:
        places = [place for place, size in enumerate(shape) if size > 1]
    inputs = []
    for name in names:
        if name == lead:
            inputs.append(made.shaped(name, made.seen[name].tensor, shape))
            continue
        own = made.shape(name)
        kept = tuple(dim for part in parts for dim in part if own[dim.axis] > 1)
        sizes = [1] * len(shape)
        for place, part in zip(places, parts, strict=True):
            sizes[place] = prod(dim.size for dim in part if own[dim.axis] > 1)
        inputs.append(made.arranged(name, kept, tuple(sizes)))
    return inputs


def _alike_along(part: Dims, shapes: list[Shape]) -> bool:
    return all(len({shape[dim.axis] > 1 for dim in part}) == 1 for shape in shapes)


def _fewest(dims: Dims, shapes: list[Shape]) -> list[Dims]:
    """Neighbours joined along which every operand is whole, or of size one."""
    found = list[list[layout.Dim]]()
    for dim in dims:
        kind = [shape[dim.axis] > 1 for shape in shapes]
        if found and [shape[found[-1][-1].axis] > 1 for shape in shapes] == kind:
            found[-1].append(dim)
        else:
            found.append([dim])
    return [tuple(part) for part in found]


def _crossed(made: Lowering, names: tuple[str, ...], whole: Shape) -> tuple[list[int], Shape, Dims]:
    # none is whole: each lies plainly, in the order of the graph's axes
    dims = layout.plain(whole, range(len(whole)))
    shape = tuple(whole) if len(whole) >= 4 else (*[1] * (4 - len(whole)), *whole)
    inputs = []
    for name in names:
        own = made.shape(name)
        plain = layout.plain(own, range(len(own)))
        inputs.append(made.arranged(name, plain, (*[1] * (len(shape) - len(own)), *own)))
    return inputs, shape, dims


def _alone(made: Lowering, op: Operation, code: str, options: Any = None) -> None:
    # value by value: it lies as its input does
    seen = made.seen[op.inputs[0]]
    result = made.make(op.output, made.tensors[seen.tensor].shape, seen.dims)
    made.seen[op.output] = made.seen[op.output]._replace(order=seen.order)
    made.emit(code, (seen.tensor,), result, options)


def _unary(code: str, options: str = "") -> Callable[[Lowering, Any], None]:
    return lambda made, op: _alone(made, op, code, made.options(options) if options else None)


def _clip(made: Lowering, op: Clip) -> None:
    _alone(made, op, {RELU: "RELU", RELU6: "RELU6"}[op.bounds])


def _gelu(made: Lowering, op: Gelu) -> None:
    _alone(made, op, "GELU", made.options("Gelu", approximate=op.approximate))


def _leaky_relu(made: Lowering, op: LeakyRelu) -> None:
    _alone(made, op, "LEAKY_RELU", made.options("LeakyRelu", alpha=op.slope))


def _prelu(made: Lowering, op: PRelu) -> None:
    seen, whole = made.seen[op.inputs[0]], made.shape(op.output)
    shape, _ = _held(made, op.inputs[0])
    parts = layout.held(shape, seen.dims)
    if parts is None:
        raise UnsupportedOperation(f"{op.output} has slopes by channel of a tensor that lies otherwise")
    slopes = op.weight.value.reshape(-1, *[1] * (len(whole) - 2))
    values = layout.spread(slopes, whole, seen.dims)
    sizes, at = [1] * len(shape), 0
    for place, size in enumerate(shape):
        if size > 1:
            part = values.shape[at : at + len(parts[0])]
            parts, at = parts[1:], at + len(part)
            sizes[place] = prod(part)
    slope = made.add(made.numbers.slopes(values.reshape(sizes[1:])))
    made.emit("PRELU", (seen.tensor, slope), made.make(op.output, shape, seen.dims))


def _softmax(code: str, options: str, **values: float) -> Callable[[Lowering, Any], None]:
    def rule(made: Lowering, op: Softmax | LogSoftmax) -> None:
        name, whole = op.inputs[0], made.shape(op.inputs[0])
        seen = made.seen[name]
        along = layout.Dim(whole[op.axis], op.axis, 1)
        if seen.order is None and (not seen.dims or seen.dims[-1] == along or whole[op.axis] == 1):
            source, dims = seen.tensor, seen.dims
        else:
            dims = layout.plain(whole, [*(axis for axis in range(len(whole)) if axis != op.axis), op.axis])
            source = made.arranged(name, dims, _rows(dims, whole[op.axis]))
        if made.tensors[source].shape[-1] != whole[op.axis]:
            source = made.shaped(name, source, _rows(dims, whole[op.axis]))
        result = made.make(op.output, made.tensors[source].shape, dims)
        made.emit(code, (source,), result, made.options(options, **values))

    return rule


def _rows(dims: Dims, size: int) -> Shape:
    return (1, 1, prod(layout.sizes(dims)) // size, size)


def _gather(made: Lowering, op: Widen | Narrow) -> None:
    """Put in order what a mean is taken over next, where it lies in more pieces than kernels on a chip take."""
    name, over = op.inputs[0], [each for each in made.graph.operations if each.inputs[:1] == (op.output,)]
    axes = next((each.axes for each in over if isinstance(each, Reduce)), ())
    pieces = [there for there, _ in groupby(made.seen[name].dims, key=lambda dim: dim.axis in axes)]
    if axes and len(pieces) > 3:
        shape = made.shape(name)
        dims = layout.plain(shape, range(len(shape)))
        made.seen[name] = Seen(made.arranged(name, dims, (*[1] * (4 - len(dims)), *layout.sizes(dims))), dims)


def _widen(made: Lowering, op: Widen | Narrow) -> None:
    if made.numbers.integer:
        _gather(made, op)
        _alone(made, op, "QUANTIZE", made.options("Quantize"))
    else:
        made.seen[op.output] = made.seen[op.inputs[0]]


VALUES: Mapping[type[Operation], Callable[[Lowering, Any], None]] = {
    Constant: _constant,
    Add: _binary("ADD", "Add"),
    Subtract: _binary("SUB", "Sub"),
    Multiply: _binary("MUL", "Mul"),
    Divide: _binary("DIV", "Div"),
    Maximum: _binary("MAXIMUM", "MaximumMinimum"),
    Minimum: _binary("MINIMUM", "MaximumMinimum"),
    Reduce: reduce,
    Clip: _clip,
    Softmax: _softmax("SOFTMAX", "Softmax", beta=1.0),
    LogSoftmax: _softmax("LOG_SOFTMAX", "LogSoftmax"),
    Sigmoid: _unary("LOGISTIC"),
    Tanh: _unary("TANH"),
    HardSwish: _unary("HARD_SWISH"),
    Gelu: _gelu,
    LeakyRelu: _leaky_relu,
    PRelu: _prelu,
    Elu: _unary("ELU"),
    Abs: _unary("ABS", "Abs"),
    Exp: _unary("EXP", "Exp"),
    Rsqrt: rsqrt,
    Widen: _widen,
    Narrow: _widen,
}
