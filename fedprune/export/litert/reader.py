"""Reading any .tflite file into plain tensors and operators, the reverse of packing, whoever wrote it."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from fedprune.export.litert.flatbuffer import File, FileOperator
from fedprune.export.litert.reader_tensors import tensors
from fedprune.export.litert.tables import ModelError, Source, Table

__all__ = ["ModelError", "operator_name", "read"]

_VERSION, _IDENTIFIER = 3, b"TFL3"
_CUSTOM = 32
_MOST_GRAPHS = 64
_MOST = 2**16  # tensors, operators: no net has as many, and each takes a hundred times its bytes in memory

# Operators that compute nothing without these options, or something else.
_OPTIONS = {
    "CONV_2D": "Conv2D",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
    "TRANSPOSE_CONV": "TransposeConv",
    "FULLY_CONNECTED": "FullyConnected",
    "AVERAGE_POOL_2D": "Pool2D",
    "MAX_POOL_2D": "Pool2D",
    "CONCATENATION": "Concatenation",
    "STRIDED_SLICE": "StridedSlice",
    "SOFTMAX": "Softmax",
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"), "Reducer"),
    "PACK": "Pack",
    "UNPACK": "Unpack",
    "GATHER": "Gather",
    "DEPTH_TO_SPACE": "DepthToSpace",
    "SPACE_TO_DEPTH": "SpaceToDepth",
    "MIRROR_PAD": "MirrorPad",
    "RESIZE_BILINEAR": "ResizeBilinear",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighbor",
    "ADD": "Add",
    "MUL": "Mul",
    "WHILE": "While",
    "CALL_ONCE": "CallOnce",
    "VAR_HANDLE": "VarHandle",
}
_OF_NOTHING = ("ASSIGN_VARIABLE", "CALL_ONCE")  # operators without outputs


def read(content: bytes, *, every: bool = False) -> File:
    """Return the model in a .tflite file; `pack` writes it back.

    Constants are read-only arrays, copied; tensors that share bytes in the file share memory. An optional input that is
    not there has the index -1. Names of tensors are kept; metadata, signatures and the description are not.

    With ``every`` any sound file is read, to look at: what `File` has no place for is left out of it.

    Raises ``ModelError`` with one line for bytes that are no sound model, whatever they are, and without ``every`` for
    dynamic shapes and what `File` cannot hold: subgraphs that neither loops nor CALL_ONCE run, an operator with custom
    options, types of a part of a byte, zero points that differ by channel, sparse tensors other than by rows.
    """
    if len(content) < 8 or content[4:8] != _IDENTIFIER:
        raise ModelError(f"this is no .tflite file: its bytes 4 to 8 are not {_IDENTIFIER.decode()}")
    source = Source(content)
    model = source.table(source.number("I", 0))
    version = model.number(0, "I")
    if version != _VERSION:
        raise ModelError(f"the file's version is {version}, not {_VERSION}")
    count = model.count(2)
    if not 1 <= count <= _MOST_GRAPHS:
        raise ModelError(f"the model has {count} subgraphs; only models of 1 to {_MOST_GRAPHS} are read")
    first, *others = (_graph(model, model.item(2, place), every, place == 0) for place in range(count))
    run = set[int]()
    for position, operator in enumerate(first.operators):
        run |= _run_by(operator, position, len(others))
    if len(run) < len(others) and not every:
        raise ModelError(
            f"the model has {count} subgraphs, of which loops and CALL_ONCE run {len(run)}; others are not read"
        )
    return replace(first, subgraphs=others)


def _graph(model: Table, graph: Table, every: bool, first: bool) -> File:
    if max(graph.count(0), graph.count(3)) > _MOST:
        raise ModelError(f"the model has {graph.count(0)} tensors and {graph.count(3)} operators, more than {_MOST}")
    operators = [_operator(model, graph.item(3, position), position, every) for position in range(graph.count(3))]
    file = File(tensors(model, graph, every), operators, graph.integers(1), graph.integers(2))
    _check_ends(file, first and not every, every)
    _check_order(file, every)
    return file


def operator_name(operator: FileOperator) -> str:
    """Return what the schema calls an operator, ``CONV_2D``, or the name of a custom one."""
    return operator.custom or _names()[operator.code]


@cache
def _names() -> Mapping[int, str]:
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    return {number: name for name, number in vars(BuiltinOperator).items() if isinstance(number, int)}


def _who(position: int, name: str) -> str:
    return f"operator {position} {name[:60]!r}"  # on one line, whatever the name holds


def _operator(model: Table, table: Table, position: int, every: bool) -> FileOperator:
    index = table.number(0, "I")
    if index >= model.count(1):
        raise ModelError(f"operator {position} is of kind {index}, and there are {model.count(1)}")
    kind = model.item(1, index)
    # Old writers know only the first byte, which ends at 127.
    code = max(kind.number(0, "b"), kind.number(3, "i"))
    if code not in _names():
        raise ModelError(f"operator {position} is of the unknown kind {code}")
    custom = kind.text(1) if code == _CUSTOM else ""
    if code == _CUSTOM and not custom:
        raise ModelError(f"operator {position} is a custom one without a name")
    what = _who(position, custom or _names()[code])
    outputs, inputs = table.integers(2), table.integers(1)
    if not outputs and not every and _names()[code] not in _OF_NOTHING:
        raise ModelError(f"{what} has no output")
    if outputs and min(outputs) < 0 and not every:
        raise ModelError(f"{what} writes tensor {min(outputs)}")
    if not every and (table.part(5, 1) or table.number(9, "Q") > 1):
        raise ModelError(f"{what} has custom options, which are not read")
    if table.number(11, "B") and not every:
        raise ModelError(f"{what} has options of a newer kind, which are not read")
    model.source.spend(4 * (len(inputs) + len(outputs)))  # whoever follows them takes a step for each
    number, options = _options(table, what)
    wanted = _OPTIONS.get(_names()[code])
    if wanted and (not every or wanted == "While") and type(options).__name__ != f"{wanted}OptionsT":
        raise ModelError(f"{what} lacks its {wanted}Options")
    first, *others = outputs or (-1,)
    return FileOperator(code, kind.number(2, "i", 1), inputs, first, options, number, custom, (*others,))


def _options(table: Table, what: str) -> tuple[int, Any]:
    from ai_edge_litert.schema_py_generated import BuiltinOptionsCreator
    from flatbuffers.table import Table as Unchecked

    number, inside = table.number(3, "B"), table.child(4)
    if number == 0 or inside is None:
        return 0, None
    try:
        options = BuiltinOptionsCreator(number, Unchecked(table.source.content, inside.position))
    # What the schema's own readers raise where a field lies outside the file.
    except (struct.error, ValueError, TypeError, IndexError, OverflowError) as error:
        raise ModelError(f"{what} has damaged options") from error
    if options is None:
        raise ModelError(f"{what} has options of the unknown kind {number}")
    for name, value in vars(options).items():
        if isinstance(value, np.ndarray | bytes):
            table.source.spend(len(value))
        if isinstance(value, np.ndarray):
            setattr(options, name, value.tolist())
    return number, options


def _run_by(operator: FileOperator, position: int, count: int) -> set[int]:
    """The subgraphs that an operator runs."""
    name = operator_name(operator)
    if name not in ("WHILE", "CALL_ONCE") or operator.options is None:
        return set()
    said = operator.options
    numbers = (said.condSubgraphIndex, said.bodySubgraphIndex) if name == "WHILE" else (said.initSubgraphIndex,)
    if not all(1 <= number <= count for number in numbers):
        raise ModelError(
            f"{_who(position, name)} runs the subgraphs {numbers}, and there are {count} besides the first"
        )
    return {*numbers}


def _check_ends(file: File, needed: bool, every: bool) -> None:
    count = len(file.tensors)
    for name, indices in (("inputs", file.inputs), ("outputs", file.outputs)):
        if not indices:
            if needed:
                raise ModelError(f"the model has no {name}")
            continue
        if every:
            _check_places(file, indices, name, 0)
            continue
        if len(set(indices)) < len(indices) or min(indices) < 0 or max(indices) >= count:
            raise ModelError(f"the model's {name} are not among its {count} tensors, each once")
    if any(file.tensors[index].data is not None for index in file.inputs):
        raise ModelError("an input of the model is a constant")


def _check_places(file: File, indices: Sequence[int], what: str, least: int) -> None:
    if not all(least <= index < len(file.tensors) for index in indices):
        raise ModelError(f"{what} names a tensor that is not among the {len(file.tensors)}")


def _check_order(file: File, every: bool) -> None:
    if every:
        for position, operator in enumerate(file.operators):
            _check_places(file, operator.inputs, _who(position, operator_name(operator)), -1)
            _check_places(file, operator.outputs, _who(position, operator_name(operator)), 0)
        return
    count = len(file.tensors)
    made = {index for index, tensor in enumerate(file.tensors) if tensor.data is not None or tensor.variable}
    made |= {*file.inputs}
    for position, operator in enumerate(file.operators):
        what = _who(position, operator_name(operator))
        for index in operator.inputs:
            if not -1 <= index < count:
                raise ModelError(f"{what} reads tensor {index}, and there are {count}")
            if index >= 0 and index not in made:
                raise ModelError(f"{what} reads tensor {index}, which no operator before it makes")
        for index in operator.outputs:
            if not 0 <= index < count:
                raise ModelError(f"{what} writes tensor {index}, and there are {count}")
            if index in made:
                raise ModelError(f"{what} writes tensor {index}, which is already there")
            made.add(index)
    if not made.issuperset(file.outputs):
        raise ModelError("an output of the model is made by no operator")
