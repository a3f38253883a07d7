"""Recurrent layers as a loop: WHILE runs a subgraph once a step, so that the file holds every weight once.

The loop carries where it is in the sequence (the start of a slice), the sequence, the hidden state, an LSTM's cell, and
the states so far. In an int8 file what is inside the loop is int16: a state that changes by less than half of an int8
step would never change. The gates' sums have fixed grids, beyond whose ends a sigmoid or tanh is flat.
"""

from collections.abc import Sequence
from math import ceil, log2
from typing import Any

import numpy as np

from fedprune.export.litert import layout
from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor
from fedprune.export.litert.lowering import Lowering
from fedprune.export.litert.quantise import Affine, weight_scales
from fedprune.graph import Lstm, Recurrent, Rnn
from fedprune.types import FloatTensor

_ONE = 2.0**-15
"""Step of what lies within -1 and 1; kernels of int16 give sigmoids and tanhs so."""
_SUM = 2.0**-11
"""Step of the sums that go into a sigmoid or tanh, and of an LSTM's cell: up to 16."""
_COARSE = 2.0**-12
"""The largest step of a state that still follows slow changes."""
_LEVELS = 32767

# Operator -> version for floats, for int16: the oldest that has the kernel.
_VERSIONS = {
    "CONV_2D": (1, 4), "CONCATENATION": (1, 3), "LOGISTIC": (1, 3), "TANH": (1, 3), "MUL": (1, 4), "SUB": (1, 5),
    "ADD": (1, 3), "SLICE": (1, 2),
}  # fmt: skip


def recurrent(made: Lowering, op: Recurrent) -> None:
    """Write the operators of a recurrent layer, from a tensor (1, 1, T, I) to one (1, 1, T, H)."""
    steps, values = made.shape(op.inputs[0])[1], made.shape(op.inputs[0])[3]
    source = made.read(op.inputs[0], _IN_ORDER, (1, 1, steps, values))
    shape = made.shape(op.output)
    result = made.make(op.output, (1, 1, steps, shape[3]), layout.plain(shape, _IN_ORDER))
    _Loop(made, op, source, result).write()


_IN_ORDER = (0, 2, 1, 3)  # axes of (1, T, 1, F)


class _Part:
    """A subgraph in the making."""

    def __init__(self, schema: Any, wide: bool) -> None:
        self.schema, self.wide = schema, wide
        self.tensors: list[FileTensor] = []
        self.operators: list[FileOperator] = []

    def add(self, tensor: FileTensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def integers(self, *values: int) -> int:
        return self.add(FileTensor((len(values),), np.dtype(np.int32), np.array(values, np.int32)))

    def vector(self, size: int, scale: float) -> int:
        """A new tensor (1, 1, 1, size), of int16 or of floats."""
        return self.add(_vector(size, scale, self.wide))

    def emit(self, code: str, inputs: Sequence[int], output: int, options: str = "", **values: Any) -> int:
        made = getattr(self.schema, f"{options}OptionsT")() if options else None
        for key, value in values.items():
            setattr(made, key, value)
        kind = getattr(self.schema.BuiltinOptions, f"{options}Options") if options else 0
        version = _VERSIONS.get(code, (1, 1))[self.wide]
        number = getattr(self.schema.BuiltinOperator, code)
        self.operators.append(FileOperator(number, version, tuple(inputs), output, made, kind))
        return output

    def both(self, code: str, a: int, b: int, scale: float) -> int:
        size = self.tensors[a].shape[-1]
        # as general grids: powers of two have kernels of their own in one runtime, which take few of them
        values = {} if code == "MUL" else {"potScaleInt16": not self.wide}
        return self.emit(code, (a, b), self.vector(size, scale), code.capitalize(), **values)

    def unary(self, code: str, source: int, scale: float = _ONE) -> int:
        return self.emit(code, (source,), self.vector(self.tensors[source].shape[-1], scale))

    def at(self, index: int, scale: float) -> int:
        """The values of a vector on another grid."""
        scales = self.tensors[index].scales
        return index if scales is None or scales[0] == np.float32(scale) else self.unary("QUANTIZE", index, scale)

    def product(self, source: int, weight: FloatTensor, bias: FloatTensor, scale: float = _SUM, clip: int = 0) -> int:
        """``W x + b``, as a convolution of one position: its rows have scales of their own."""
        rows, filters = len(weight), weight[:, None, None, :]
        result = self.vector(rows, scale)
        if self.wide:
            scales = self.tensors[source].scales
            assert scales is not None
            ends = Affine(float(scales[0]), 0), Affine(scale, 0)
            steps = weight_scales(weight, bias, *ends)
            levels = np.clip(np.rint(filters / steps[:, None, None, None]), -127, 127)
            whole = np.rint(bias / (ends[0].scale * steps.astype(np.float64)))
            constants = (
                FileTensor(filters.shape, np.dtype(np.int8), levels, steps),
                FileTensor(bias.shape, np.dtype(np.int64), whole),
            )
        else:
            single = np.dtype(np.float32)
            constants = (FileTensor(filters.shape, single, filters), FileTensor(bias.shape, single, bias))
        inputs = (source, *map(self.add, constants))
        window = {"padding": self.schema.Padding.VALID, "strideH": 1, "strideW": 1}
        return self.emit("CONV_2D", inputs, result, "Conv2D", **window, fusedActivationFunction=clip)


def _vector(size: int, scale: float, wide: bool) -> FileTensor:
    if not wide:
        return FileTensor((1, 1, 1, size), np.dtype(np.float32))
    return FileTensor((1, 1, 1, size), np.dtype(np.int16), None, np.array([scale], np.float32))


class _Loop:
    """One recurrent layer: what its loop carries, and the two subgraphs."""

    def __init__(self, made: Lowering, op: Recurrent, source: int, result: int) -> None:
        self.made, self.op, self.source, self.result = made, op, source, result
        self.wide = bool(made.numbers.integer)
        self.sequence, self.states = made.tensors[source], made.tensors[result]
        self.steps, self.values = self.sequence.shape[-2:]
        self.size = self.states.shape[-1]
        self.input_step, self.state_step = self._grids()

    def _grids(self) -> tuple[float, float]:
        """The steps of the sequence and of the state inside of an int8 file's loop.

        All are powers of two: products of others are rounded otherwise by some runtimes.
        """
        if not self.wide:
            return 1.0, 1.0
        bounded = not (isinstance(self.op, Rnn) and self.op.nonlinearity == "relu")
        most = max(_furthest(self.sequence), 1.0 if bounded else _furthest(self.states))
        step = 2.0 ** ceil(log2(most / _LEVELS - 2.0**-40))
        if isinstance(self.op, Rnn) and bounded:
            return step, _ONE  # as tanh gives it
        return step, step if step <= _COARSE or not bounded else _ONE

    def write(self) -> None:
        made, graphs = self.made, self.made.subgraphs
        back = self.op.reverse
        main = _Part(made.schema, self.wide)
        main.tensors, main.operators = made.tensors, made.operators
        start = main.integers(0, 0, self.steps - 1 if back else 0, 0)
        shape = main.integers(*self.states.shape)
        zero = self.states.zero_point
        number = FileTensor((), self.states.dtype, np.array(zero), self.states.scales, zero)
        empty = main.emit("FILL", (shape, main.add(number)), main.add(_unnamed(self.states)), "Fill")
        held = [_zeros(self.size, step, self.wide) for step in self._held()]
        inputs = (start, self.source, empty, *map(main.add, held))
        others = (main.add(_unnamed(self.sequence)), self.result, *(main.add(_unnamed(each)) for each in held))
        position = main.add(FileTensor((4,), np.dtype(np.int32)))
        options = made.schema.WhileOptionsT()
        options.condSubgraphIndex, options.bodySubgraphIndex = len(graphs) + 1, len(graphs) + 2
        number_of = made.schema.BuiltinOperator.WHILE, made.schema.BuiltinOptions.WhileOptions
        made.operators.append(FileOperator(number_of[0], 1, inputs, position, options, number_of[1], "", others))
        graphs += [self._condition(), self._body()]

    def _held(self) -> list[float]:
        """The steps of what is carried from turn to turn: the hidden state, and an LSTM's cell."""
        return [self.state_step, *([_SUM] if isinstance(self.op, Lstm) else [])]

    def _carried(self, part: _Part) -> tuple[int, ...]:
        tensors = [FileTensor((4,), np.dtype(np.int32)), _unnamed(self.sequence), _unnamed(self.states)]
        return tuple(map(part.add, (*tensors, *(_vector(self.size, step, self.wide) for step in self._held()))))

    def _condition(self) -> File:
        part = _Part(self.made.schema, self.wide)
        carried = self._carried(part)
        at, goes_on = part.add(FileTensor((1,), np.dtype(np.int32))), part.add(FileTensor((1,), np.dtype(np.bool_)))
        part.emit("SLICE", (carried[0], part.integers(2), part.integers(1)), at, "Slice")
        if self.op.reverse:
            part.emit("GREATER", (at, part.integers(-1)), goes_on, "Greater")
        else:
            part.emit("LESS", (at, part.integers(self.steps)), goes_on, "Less")
        return File(part.tensors, part.operators, carried, (goes_on,))

    def _body(self) -> File:
        part = _Part(self.made.schema, self.wide)
        position, sequence, states, *held = carried = self._carried(part)
        row = FileTensor(
            (1, 1, 1, self.values), self.sequence.dtype, None, self.sequence.scales, self.sequence.zero_point
        )
        x = part.emit("SLICE", (sequence, position, part.integers(1, 1, 1, self.values)), part.add(row), "Slice")
        if self.wide:
            x = part.unary("QUANTIZE", x, self.input_step)
        state = self._next(part, x, *held)
        end = FileTensor((1, 1, 1, self.size), self.states.dtype, None, self.states.scales, self.states.zero_point)
        shown = part.emit("QUANTIZE", (state[0],), part.add(end)) if self.wide else state[0]
        made = part.emit("DYNAMIC_UPDATE_SLICE", (states, shown, position), part.add(_unnamed(self.states)))
        step = part.integers(0, 0, -1 if self.op.reverse else 1, 0)
        following = part.emit("ADD", (position, step), part.add(FileTensor((4,), np.dtype(np.int32))), "Add")
        return File(part.tensors, part.operators, carried, (following, sequence, made, *state))

    def _next(self, part: _Part, x: int, hidden: int, *cell: int) -> tuple[int, ...]:
        """The state that follows."""
        op, step = self.op, self.state_step
        seen = part.at(hidden, self.input_step)
        both = part.vector(self.values + self.size, self.input_step)
        part.emit("CONCATENATION", (x, seen), both, "Concatenation", axis=3)

        def gate(number: int) -> int:
            return part.product(both, *self._weights(number))

        if isinstance(op, Rnn):
            if op.nonlinearity == "relu":
                return (part.product(both, *self._weights(0), step, part.schema.ActivationFunctionType.RELU),)
            return (part.unary("TANH", gate(0)),)
        if isinstance(op, Lstm):
            write, keep, show = (part.unary("LOGISTIC", gate(number)) for number in (0, 1, 3))
            new = part.both("MUL", write, part.unary("TANH", gate(2)), _SUM)
            after = part.both("ADD", part.both("MUL", keep, cell[0], _SUM), new, _SUM)
            return part.both("MUL", show, part.unary("TANH", after), step), after
        reset, keep = (part.unary("LOGISTIC", gate(number)) for number in (0, 1))
        (of_x, bias_x), (of_h, bias_h) = self._parts(2)
        heard = part.both("MUL", reset, part.product(seen, of_h, bias_h), _SUM)
        new = part.unary("TANH", part.both("ADD", part.product(x, of_x, bias_x), heard, _SUM))
        # (1 - z) n + z h
        change = part.both("MUL", keep, part.both("SUB", hidden, new, 2 * _ONE), 2 * _ONE)
        return (part.both("ADD", new, change, step),)

    def _parts(self, number: int) -> list[tuple[FloatTensor, FloatTensor]]:
        """(weights, biases) of a gate, for the input and for the state."""
        op, rows = self.op, slice(number * self.size, (number + 1) * self.size)
        nothing = np.zeros(self.size, np.float32)
        pairs = ((op.weight_ih, op.bias_ih), (op.weight_hh, op.bias_hh))
        return [(weight.value[rows], nothing if bias is None else bias.value[rows]) for weight, bias in pairs]

    def _weights(self, number: int) -> tuple[FloatTensor, FloatTensor]:
        (of_x, bias_x), (of_h, bias_h) = self._parts(number)
        return np.concatenate([of_x, of_h], 1), bias_x + bias_h


def _furthest(tensor: FileTensor) -> float:
    """The largest absolute value on a tensor's grid."""
    assert tensor.scales is not None
    return float(tensor.scales[0]) * max(128 + tensor.zero_point, 127 - tensor.zero_point)


def _unnamed(tensor: FileTensor) -> FileTensor:
    return FileTensor(tensor.shape, tensor.dtype, None, tensor.scales, tensor.zero_point)


def _zeros(size: int, scale: float, wide: bool) -> FileTensor:
    like = _vector(size, scale, wide)
    return FileTensor(like.shape, like.dtype, np.zeros(like.shape), like.scales)
