"""WHILE as layers that run several times: its body stands once among the operators, and says how often it runs."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor
from fedprune.export.litert.reader import ModelError, operator_name
from fedprune.types import Tensor

_MOST_TURNS = 2**15
_MOST_COUNTED = 2**24  # numbers, of all turns and loops


class Repeat(NamedTuple):
    """Consecutive operators that run several times, one after the other and again."""

    first: int
    last: int
    turns: int


@dataclass(frozen=True, eq=False)
class Flat:
    """A file without subgraphs: an operator of a loop stands there once, and may write what is there already."""

    file: File
    repeats: Sequence[Repeat]
    counters: Mapping[int, Tensor]
    """Tensor of integers that follows from constants alone -> its values at each turn (turns, values)."""


def flat(file: File) -> Flat:
    """Return a file whose loops are written out, once each.

    Raises ``ModelError`` for loops that end when values say so, that exchange what they carry, or are no loops at all.
    """
    made = _Flattening(file)
    for position, operator in enumerate(file.operators):
        if operator_name(operator) == "WHILE":
            made.loop(position, operator)
        else:
            made.plain(operator)
    return made.done()


_Known = dict[int, Tensor]
_INTEGER: Mapping[str, Callable[..., Any]] = {
    "ADD": np.add, "SUB": np.subtract, "MUL": np.multiply, "LESS": np.less, "LESS_EQUAL": np.less_equal,
    "GREATER": np.greater, "GREATER_EQUAL": np.greater_equal, "EQUAL": np.equal, "NOT_EQUAL": np.not_equal,
    "LOGICAL_AND": np.logical_and, "RESHAPE": lambda values, shape: values.reshape(shape),
    "CONCATENATION": lambda *parts: np.concatenate([part.reshape(-1) for part in parts]),
    "SLICE": lambda values, start, size: values[tuple(map(slice, start, start + size))],
}  # fmt: skip


def _followed(graph: File, known: _Known) -> _Known:
    """What of a subgraph follows from the integers that are known of it."""
    found = dict(known)
    for index, tensor in enumerate(graph.tensors):
        if tensor.data is not None and tensor.dtype.kind in "ib" and tensor.scales is None:
            found[index] = tensor.data.reshape(tensor.shape)
    for operator in graph.operators:
        rule = _INTEGER.get(operator_name(operator))
        if rule is None or any(index not in found for index in operator.inputs):
            continue
        try:
            result = np.asarray(rule(*(found[index] for index in operator.inputs)))
        except (TypeError, ValueError, IndexError):  # of operands that do not go together
            continue
        said = graph.tensors[operator.output]
        if result.size == np.prod(said.shape):
            found[operator.output] = result.astype(said.dtype).reshape(said.shape)
    return found


class _Flattening:
    def __init__(self, file: File) -> None:
        self.file = file
        self.tensors = list(file.tensors)
        self.operators: list[FileOperator] = []
        self.repeats: list[Repeat] = []
        self.counters: dict[int, Tensor] = {}
        self.names: dict[int, int] = {}
        self.readers = Counter(index for operator in file.operators for index in operator.inputs)
        self.readers.update((*file.inputs, *file.outputs))
        self.counted = 0

    def done(self) -> Flat:
        outputs = tuple(self.named(index) for index in self.file.outputs)
        return Flat(
            File(self.tensors, self.operators, self.file.inputs, outputs, self.file.subgraphs),
            self.repeats,
            self.counters,
        )

    def named(self, index: int) -> int:
        return self.names.get(index, index)

    def plain(self, operator: FileOperator) -> None:
        self.operators.append(replace(operator, inputs=tuple(map(self.named, operator.inputs))))

    def loop(self, position: int, operator: FileOperator) -> None:
        self.what = f"operator {position}, WHILE,"
        graphs, options = self.file.subgraphs, operator.options
        condition, body = graphs[options.condSubgraphIndex - 1], graphs[options.bodySubgraphIndex - 1]
        inputs = tuple(map(self.named, operator.inputs))
        self._check(inputs, operator, condition, body)
        start = {at: data for at, index in enumerate(inputs) if (data := self._counts(index)) is not None}
        every = self._turns(condition, body, start)
        moved = self._moved(body, every)
        carried = self._carried(inputs, operator, body, moved, start)
        first, known = len(self.operators), every[0]
        for each in body.operators:
            if not all(index in known for index in each.outputs):
                self.operators.append(_renamed(each, moved))
        for index, held in carried:  # what is not made where it is carried
            self.operators.append(self._copy(moved[index], held, len(every)))
        self.repeats.append(Repeat(first, len(self.operators) - 1, len(every)))

    def _check(self, inputs: Sequence[int], operator: FileOperator, condition: File, body: File) -> None:
        ends = [operator.outputs, condition.inputs, body.inputs, body.outputs]
        if {len(each) for each in ends} != {len(inputs)} or len(condition.outputs) != 1 or min(inputs) < 0:
            raise ModelError(f"{self.what} carries {len(inputs)} tensors, and its subgraphs do not")
        graphs = (self.file, condition, body, body)
        for given, *others in zip(inputs, *ends, strict=True):
            kinds = {_kind(graph.tensors[index]) for graph, index in zip(graphs, others, strict=True)}
            if kinds != {_kind(self.tensors[given])}:
                raise ModelError(f"{self.what} carries tensors whose shapes, types or scales change")

    def _counts(self, index: int) -> Tensor | None:
        tensor = self.tensors[index]
        counts = tensor.data is not None and tensor.dtype == np.int32 and tensor.scales is None
        return tensor.data.reshape(tensor.shape) if counts and tensor.data is not None else None

    def _turns(self, condition: File, body: File, start: _Known) -> list[_Known]:
        """What follows from constants in the body, for every turn."""
        now, every = start, list[_Known]()
        while True:
            seen = _followed(condition, {condition.inputs[at]: value for at, value in now.items()})
            goes_on = seen.get(condition.outputs[0])
            if goes_on is None or goes_on.size != 1:
                raise ModelError(f"{self.what} ends when values say so; only loops of a fixed length are covered")
            if not goes_on.item():
                break
            if len(every) == _MOST_TURNS or self.counted > _MOST_COUNTED:
                raise ModelError(f"{self.what} runs more than {_MOST_TURNS} times")
            every.append(_followed(body, {body.inputs[at]: value for at, value in now.items()}))
            self.counted += sum(value.size for value in every[-1].values())
            now = {at: every[-1][body.outputs[at]] for at in start if body.outputs[at] in every[-1]}
        if not every:
            raise ModelError(f"{self.what} never runs")
        return every

    def _moved(self, body: File, every: list[_Known]) -> dict[int, int]:
        """The body's tensors among all others."""
        offset = len(self.tensors)
        self.tensors += body.tensors
        for index in every[0]:
            if body.tensors[index].data is None and all(index in known for known in every):
                values = np.stack([known[index].reshape(-1) for known in every])
                self.counters[offset + index] = values.astype(np.int64)
        return {-1: -1, **{index: offset + index for index in range(len(body.tensors))}}

    def _carried(
        self, inputs: Sequence[int], operator: FileOperator, body: File, moved: dict[int, int], start: _Known
    ) -> list[tuple[int, int]]:
        """Name what the loop carries; return (what the body makes, where it is carried) where these are two."""
        apart, taken = [], set[int]()
        for at, (given, held, before, after) in enumerate(
            zip(inputs, operator.outputs, body.inputs, body.outputs, strict=True)
        ):
            if at in start:
                continue
            if before == after:  # it stays as it is
                moved[before] = self.names[held] = given
                continue
            if after in body.inputs or body.tensors[after].data is not None:
                raise ModelError(f"{self.what} exchanges what it carries, or carries constants")
            self._begin(given, held)
            moved[before] = held
            if after not in taken and _in_place(body, before, after):
                moved[after] = held
            else:
                apart.append((after, held))
            taken.add(after)
        return apart

    def _begin(self, given: int, held: int) -> None:
        """Write the operators that put the first values where a tensor is carried."""
        data = self.tensors[given].data
        if data is not None:
            first = np.asarray(data).reshape(-1)[:1]
            if (data != first).any():
                raise ModelError(f"{self.what} begins with constants that are not all the same")
            value = self._add(replace(self.tensors[given], shape=(), data=first.reshape(())))
            shape = self._constant(self.tensors[held].shape)
            self.operators.append(self._made("FILL", (shape, value), held))
        elif self.readers[given] == 1 and given not in self.names.values() and self._is_made(given):
            self.operators = [replace(op, output=held) if op.output == given else op for op in self.operators]
        else:
            self.operators.append(self._copy(given, held, 1))

    def _is_made(self, index: int) -> bool:
        return any(operator.output == index for operator in self.operators)

    def _copy(self, source: int, result: int, turns: int) -> FileOperator:
        shape = self.tensors[source].shape
        start = self._constant([0] * len(shape))
        self.counters[start] = np.zeros((turns, len(shape)), np.int64)  # else it would be no copy, but another name
        return self._made("SLICE", (source, start, self._constant(shape)), result)

    def _made(self, name: str, inputs: tuple[int, ...], output: int) -> FileOperator:
        from ai_edge_litert.schema_py_generated import BuiltinOperator

        return FileOperator(getattr(BuiltinOperator, name), 1, inputs, output, None, 0)

    def _constant(self, values: Sequence[int]) -> int:
        data = np.array(values, np.int32)
        return self._add(FileTensor(data.shape, data.dtype, data))

    def _add(self, tensor: FileTensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1


def _renamed(operator: FileOperator, moved: Mapping[int, int]) -> FileOperator:
    inputs, (first, *others) = (tuple(moved[index] for index in ends) for ends in (operator.inputs, operator.outputs))
    return replace(operator, inputs=inputs, output=first, others=tuple(others))


def _in_place(body: File, before: int, after: int) -> bool:
    """Whether what a body makes may lie where what it carries has lain: nothing reads that any more."""
    makers = [at for at, operator in enumerate(body.operators) if after in operator.outputs]
    readers = [at for at, operator in enumerate(body.operators) if before in operator.inputs]
    updates = bool(makers) and operator_name(body.operators[makers[0]]) == "DYNAMIC_UPDATE_SLICE"
    if updates and body.operators[makers[0]].inputs[:1] == (before,):
        return readers == makers
    return bool(makers) and max(readers, default=-1) < makers[0]


def _kind(tensor: FileTensor) -> tuple[object, ...]:
    scales = () if tensor.scales is None else tuple(float(scale) for scale in tensor.scales)
    return tensor.shape, tensor.dtype, scales, tensor.zero_point
