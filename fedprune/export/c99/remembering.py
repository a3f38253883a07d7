"""Operators that keep a variable of their own from run to run as layers: SVDF."""

import numpy as np

from fedprune.export.c99.lowering import Lowering
from fedprune.export.c99.program import ALL_ROWS, Array, At, Fields, Layer, State
from fedprune.export.litert.flatbuffer import FileOperator, FileTensor
from fedprune.types import Tensor

_LIMIT = 2**31


def kept(made: Lowering, operator: FileOperator, position: int, *, positions: int) -> tuple[int, FileTensor]:
    """Return the map, in so many positions, and the tensor of an operator's variable; it begins with what stands for 0.

    Raises ``ModelError`` for one that is none, or another operator's too.
    """
    tensor = made.tensor(operator.inputs[position]) if made.has(operator, position) else None
    if tensor is None or not tensor.variable or tensor.data is not None or tensor.dtype not in (np.int8, np.int16):
        raise made.wrong(f"has no variable of int8 or int16 for its input {position}")
    if (key := operator.inputs[position]) in made.states:
        raise made.wrong("has a variable that another operator has, too")
    size = tensor.dtype.itemsize * int(np.prod(tensor.shape))
    index = made.between(1, positions, size // positions)
    made.states[key] = State(index, np.full(tensor.shape, tensor.zero_point, tensor.dtype).tobytes())
    return index, tensor


def svdf(made: Lowering, operator: FileOperator) -> None:
    """Lower SVDF of int8, with a memory of int8 or int16."""
    source, result = made.ends(operator)
    options, feature = made.options(operator), made.constant(operator, 1)
    time = made.constant(operator, 2, made.tensor(operator.inputs[4]).dtype if made.has(operator, 4) else np.int16)
    filters, rank = len(feature), made.within("rank", int(options.rank), 0x7FFF)
    units = made.maps[result].size
    fits = feature.ndim == time.ndim == 2 and feature.shape[1] == made.maps[source].size and len(time) == filters
    if not fits or rank < 1 or filters != units * rank or len(made.tensor(operator.inputs[0]).shape) != 2:
        raise made.wrong(f"has weights of shapes {feature.shape} and {time.shape} for {units} outputs of rank {rank}")
    if options.fusedActivationFunction not in (0, 1):  # the runtime clips at the type's limits whatever it says
        raise made.wrong(f"has a fused activation of kind {options.fusedActivationFunction}")
    state, memory = kept(made, operator, 4, positions=filters)
    if memory.zero_point:
        raise made.wrong("has a memory with a zero point, where the runtime's versions differ in what they clip")
    if int(np.prod(memory.shape)) != time.size or time.shape[1] < 1:
        raise made.wrong(f"keeps a tensor of shape {memory.shape} for time weights of shape {time.shape}")
    ends = made.grid(operator.inputs[0]), made.grid(operator.output)
    scales = [np.float32(each) for each in (ends[0].scale, *(_scale(made, operator, at) for at in (1, 2, 4)))]
    taken = made.factor(float(scales[0] * scales[1] / scales[3]))  # as the runtime multiplies, in single precision
    given = made.factor(float(scales[3] * scales[2] / np.float32(ends[1].scale)))
    if (np.abs(feature.astype(np.int64)).sum(1) * 255).max() << max(taken.shift, 0) >= _LIMIT:
        raise made.wrong("has sums that could leave 32 bits")
    fields: Fields = {
        "in": At(source), "state": At(state), "out": At(result), "feature": _array(feature), "time": _array(time),
        "bias": Array("int32_t", _biases(made, operator, units).tolist()), "in_multiplier": taken.multiplier,
        "out_multiplier": given.multiplier, "memory": time.shape[1], "rank": rank,
        "in_zero": ends[0].zero_point, "out_zero": ends[1].zero_point, "in_shift": taken.shift,
        "out_shift": given.shift, "wide": int(memory.dtype == np.int16),
    }  # fmt: skip
    made.emit(Layer("svdf", (source, state), result, fields, ALL_ROWS))


def _scale(made: Lowering, operator: FileOperator, position: int) -> float:
    tensor = made.tensor(operator.inputs[position])
    if tensor.scales is None or len(tensor.scales) != 1 or not 0 < tensor.scales[0] < np.inf:
        raise made.wrong(f"has an input {position} without one scale")
    if tensor.data is not None and tensor.zero_point:
        raise made.wrong(f"has weights with a zero point of {tensor.zero_point}")
    return float(tensor.scales[0])


def _biases(made: Lowering, operator: FileOperator, count: int) -> Tensor:
    if not made.has(operator, 3):
        return np.zeros(count, np.int32)
    bias = made.constant(operator, 3, np.int32).reshape(-1)
    if len(bias) != count:
        raise made.wrong(f"has {len(bias)} biases for {count} outputs")
    return bias


def _array(values: Tensor) -> Array:
    return Array(f"{values.dtype.name}_t", values.reshape(-1).tolist())
