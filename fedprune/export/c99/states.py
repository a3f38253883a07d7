"""Variables as maps that keep their values from run to run: what a streaming model remembers."""

from collections.abc import Mapping

import numpy as np

from fedprune.export.c99.lowering import Lowering, Rule, cells
from fedprune.export.c99.parts import copy
from fedprune.export.c99.places import PLACES_OF
from fedprune.export.c99.program import State
from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor
from fedprune.export.litert.reader import operator_name


def _name(made: Lowering, file: File, user: FileOperator) -> tuple[object, object]:
    """What the variable is called whose handle an operator has for its first input."""
    for operator in file.operators:
        if operator_name(operator) == "VAR_HANDLE" and operator.outputs == user.inputs[:1]:
            return operator.options.container or b"", operator.options.sharedName or b""
    raise made.wrong("names no variable of its own graph")


def _first(made: Lowering, name: tuple[object, object], tensor: FileTensor) -> bytes:
    """The values with which a variable begins: those that CALL_ONCE gives it, else what stands for 0."""
    zeros = np.full(tensor.shape, tensor.zero_point, tensor.dtype)
    for caller in made.file.operators:
        if operator_name(caller) != "CALL_ONCE":
            continue
        graph = made.file.subgraphs[caller.options.initSubgraphIndex - 1]
        for operator in graph.operators:
            if operator_name(operator) == "ASSIGN_VARIABLE" and _name(made, graph, operator) == name:
                data = graph.tensors[operator.inputs[1]].data if made.has(operator, 1) else None
                if data is None or data.nbytes != zeros.nbytes:
                    raise made.wrong("begins with values that are no constant of its shape")
                return np.ascontiguousarray(data, tensor.dtype).tobytes()
    return zeros.tobytes()


def _state(made: Lowering, operator: FileOperator, tensor: FileTensor) -> int:
    """Return the map of the variable that an operator names, which holds what ``tensor`` does."""
    name = _name(made, made.file, operator)
    shape = cells(tensor.shape, tensor.dtype.itemsize)
    if shape is None:
        raise made.wrong(f"keeps a tensor of shape {tensor.shape}")
    if name not in made.states:
        made.states[name] = State(made.between(*shape), _first(made, name, tensor))
    kept = made.states[name].map
    if made.maps[kept].size != int(np.prod(shape)):
        raise made.wrong("keeps tensors of different shapes in one variable")
    return kept


def _read(made: Lowering, operator: FileOperator) -> None:
    kept = _state(made, operator, made.tensor(operator.output))
    if not _outlives(made, operator):
        made.map(operator.output, kept, wide=True)
        return
    copy(made, kept, made.map(operator.output, wide=True), (0, 0, 0, 0), made.maps[kept].size, 1)


def _outlives(made: Lowering, operator: FileOperator) -> bool:
    """Whether a value that was read is used after the variable has got another."""
    operators, same = made.file.operators, {operator.output}
    start, name = operators.index(operator), _name(made, made.file, operator)
    changes, uses = [len(operators)], [start]
    for at, each in enumerate(operators[start + 1 :], start + 1):
        if not same.isdisjoint(each.inputs):
            uses.append(at)
            if operator_name(each) in PLACES_OF:  # perhaps the same bytes
                same.update(each.outputs)
        if operator_name(each) == "ASSIGN_VARIABLE" and _name(made, made.file, each) == name:
            changes.append(at)
    last = len(operators) if not same.isdisjoint(made.file.outputs) else max(uses)
    return min(changes) < last


def _assign(made: Lowering, operator: FileOperator) -> None:
    if not made.has(operator, 1):
        raise made.wrong("has no value")
    source = made.map(operator.inputs[1], wide=True)
    kept = _state(made, operator, made.tensor(operator.inputs[1]))
    if made.maps[source].storage != made.maps[kept].storage:
        copy(made, source, kept, (0, 0, 0, 0), made.maps[kept].size, 1)


def _nothing(made: Lowering, operator: FileOperator) -> None:
    """What a variable is called, and how it begins, is asked for where it is read."""


STATES: Mapping[str, Rule] = {
    "VAR_HANDLE": _nothing,
    "CALL_ONCE": _nothing,
    "READ_VARIABLE": _read,
    "ASSIGN_VARIABLE": _assign,
}
