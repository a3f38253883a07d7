"""Operators that keep variables of their own from run to run as layers: SVDF, UNIDIRECTIONAL_SEQUENCE_LSTM."""

from math import frexp

import numpy as np

from fedprune.export.c99.lowering import Lowering
from fedprune.export.c99.program import ALL_ROWS, Array, At, Fields, Layer, State, Structs
from fedprune.export.c99.wide import points
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


_HIDDEN, _CELL = 18, 19
_GATE, _ONE = 2.0**-12, 2.0**-15  # the scales of what a gate's curve takes and gives
_TANH = 4


def lstm(made: Lowering, operator: FileOperator) -> None:
    """Lower UNIDIRECTIONAL_SEQUENCE_LSTM of int8, without peepholes, projection and layer norms."""
    source, result = made.ends(operator)
    options, shape = made.options(operator), made.tensor(operator.inputs[0]).shape
    if len(operator.inputs) != 24 or len(shape) != 3 or made.tensor(operator.output).shape[:2] != shape[:2]:
        raise made.wrong("has not 24 inputs, or not a batch, steps and channels")
    if further := [at for at in (9, 10, 11, 16, 17, 20, 21, 22, 23) if made.has(operator, at)]:
        what = "peepholes, projections and layer norms"
        raise made.wrong(f"has an input {further[0]}: {what} are not covered, and TensorFlow Lite Micro takes none")
    if options.fusedActivationFunction != _TANH or shape[bool(options.timeMajor)] != 1:
        raise made.wrong("has another activation than TANH, or a batch of more than one")
    steps, inputs, units = max(shape[:2]), shape[2], made.tensor(operator.output).shape[2]
    hidden, given = kept(made, operator, _HIDDEN, positions=1)
    cell, cells = kept(made, operator, _CELL, positions=1)
    if given.dtype != np.int8 or cells.dtype != np.int16 or made.maps[hidden].size * 2 != made.maps[cell].size:
        raise made.wrong("keeps what it gave in another type than int8, or its cell in another than int16")
    if made.maps[hidden].size != units or cells.zero_point:
        raise made.wrong(f"keeps {made.maps[hidden].size} values for {units} units, or a cell with a zero point")
    scale, last = _scale(made, operator, _CELL), _scale(made, operator, _HIDDEN)
    power = frexp(scale)[1] - 1
    if 2.0**power != scale or not -31 <= power + 12 <= 8:
        raise made.wrong(f"has a cell of scale {scale}, which is no power of two that the runtime takes")
    taken = made.grid(operator.inputs[0])
    ends = (inputs, taken.scale), (units, last)
    factors = {"keep": _ONE, "new": _ONE * _ONE / scale, "out": _ONE * _ONE / last}
    fields: Fields = {
        "in": At(source), "hidden": At(hidden), "cell": At(cell), "out": At(result),
        "gates": Structs("lstm_gate", [_gate(made, operator, at, units, ends) for at in range(4)]),
        "points": Array("uint16_t", points()), "inputs": inputs, "units": units, "steps": steps,
        "most": int(min(max(options.cellClip, 0) / scale, 32767)), "in_zero": taken.zero_point,
        "out_zero": given.zero_point, "cell_multiplier": 3 << max(power + 12, 0), "cell_right": max(-power - 12, 0),
        **{f"{name}_multiplier": made.factor(real).multiplier for name, real in factors.items()},
        **{f"{name}_shift": made.factor(real).shift for name, real in factors.items()},
    }  # fmt: skip
    made.emit(Layer("lstm", (source, hidden, cell), result, fields, ALL_ROWS, helpers=("curved",)))


def _gate(
    made: Lowering, operator: FileOperator, at: int, units: int, ends: tuple[tuple[int, float], tuple[int, float]]
) -> Fields:
    """The fields of the gate whose weights are the inputs 1 + ``at`` and 5 + ``at``."""
    bias = _biases(made, operator, units, 12 + at)
    most = int(np.abs(bias.astype(np.int64)).max())
    found: dict[str, Array | int] = {"bias": _array(bias)}
    for name, prefix, place, (size, scale) in zip(("weights", "again"), ("", "again_"), (1, 5), ends, strict=True):
        weight = made.constant(operator, place + at)
        if weight.shape != (units, size):
            raise made.wrong(f"has weights of shape {weight.shape} for {size} values and {units} units")
        by = made.factor(scale * _scale(made, operator, place + at) / _GATE)
        if (int(np.abs(weight.astype(np.int64)).sum(1).max()) * 255 + most) << max(by.shift, 0) >= _LIMIT:
            raise made.wrong("has sums that could leave 32 bits")
        found |= {name: _array(weight), f"{prefix}multiplier": by.multiplier, f"{prefix}shift": by.shift}
    return found


def _scale(made: Lowering, operator: FileOperator, position: int) -> float:
    tensor = made.tensor(operator.inputs[position])
    if tensor.scales is None or len(tensor.scales) != 1 or not 0 < tensor.scales[0] < np.inf:
        raise made.wrong(f"has an input {position} without one scale")
    if tensor.data is not None and tensor.zero_point:
        raise made.wrong(f"has weights with a zero point of {tensor.zero_point}")
    return float(tensor.scales[0])


def _biases(made: Lowering, operator: FileOperator, count: int, position: int = 3) -> Tensor:
    if not made.has(operator, position):
        return np.zeros(count, np.int32)
    bias = made.constant(operator, position, np.int32).reshape(-1)
    if len(bias) != count:
        raise made.wrong(f"has {len(bias)} biases for {count} outputs")
    return bias


def _array(values: Tensor) -> Array:
    return Array(f"{values.dtype.name}_t", values.reshape(-1).tolist())
