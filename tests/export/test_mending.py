"""Files as converters leave them, mended: the same numbers from fewer operators, whatever the operators."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given
from hypothesis import strategies as st

from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor, pack
from fedprune.export.litert.mending import mended
from fedprune.export.litert.reader import operator_name
from fedprune.export.stderr import caught

_RELU = schema.ActivationFunctionType.RELU


@dataclass
class Draft:
    """A float file in the making, a chain of operators from one input."""

    shape: tuple[int, ...]
    tensors: list[FileTensor] = field(default_factory=list)
    operators: list[FileOperator] = field(default_factory=list)
    last: int = 0

    def __post_init__(self) -> None:
        self.tensors.append(FileTensor(self.shape, np.dtype(np.float32)))

    def constant(self, values: Any) -> int:
        data = np.asarray(values)
        data = data.astype(np.float32 if data.dtype.kind == "f" else np.int32)
        self.tensors.append(FileTensor(data.shape, data.dtype, data))
        return len(self.tensors) - 1

    def then(self, code: str, shape: tuple[int, ...], *constants: Any, options: str = "", **values: Any) -> "Draft":
        inputs = (self.last, *(self.constant(each) for each in constants))
        made = getattr(schema, f"{options}OptionsT")() if options else None
        for key, value in values.items():
            setattr(made, key, value)
        kind = getattr(schema.BuiltinOptions, f"{options}Options") if options else 0
        self.shape = shape
        self.tensors.append(FileTensor(shape, np.dtype(np.float32)))
        self.last = len(self.tensors) - 1
        number = getattr(schema.BuiltinOperator, code)
        self.operators.append(FileOperator(number, 1, inputs, self.last, made, kind))
        return self

    def moved(self, *axes: int) -> "Draft":
        return self.then("TRANSPOSE", tuple(self.shape[axis] for axis in axes), axes, options="Transpose")

    def reshaped(self, *shape: int) -> "Draft":
        return self.then("RESHAPE", shape, shape, options="Reshape", newShape=list(shape))

    def padded(self, *sides: tuple[int, int]) -> "Draft":
        shape = tuple(size + sum(ends) for size, ends in zip(self.shape, sides, strict=True))
        return self.then("PAD", shape, sides, options="Pad")

    def by(self, code: str, values: Any, clipping: int = 0) -> "Draft":
        return self.then(code, self.shape, values, options=code.capitalize(), fusedActivationFunction=clipping)

    def mean(self, *axes: int, keep: bool = False) -> "Draft":
        left = [1 if axis in axes else size for axis, size in enumerate(self.shape) if keep or axis not in axes]
        return self.then("MEAN", tuple(left), axes, options="Reducer", keepDims=keep)

    def matrix(self, weight: np.ndarray, bias: np.ndarray) -> "Draft":
        shape = (*self.shape[:-1], len(weight))
        return self.then("FULLY_CONNECTED", shape, weight, bias, options="FullyConnected", keepNumDims=True)

    def conv(self, weight: np.ndarray, bias: np.ndarray, stride: int) -> "Draft":
        rows, columns = ((size - k) // stride + 1 for size, k in zip(self.shape[1:3], weight.shape[1:3], strict=True))
        values = {"padding": schema.Padding.VALID, "strideH": stride, "strideW": stride}
        return self.then("CONV_2D", (1, rows, columns, len(weight)), weight, bias, options="Conv2D", **values)

    def file(self) -> File:
        return File(self.tensors, self.operators, (0,), (self.last,))


def result(file: File, values: np.ndarray) -> np.ndarray:
    interpreter = Interpreter(model_content=pack(file), num_threads=1)
    caught(interpreter.allocate_tensors)
    source, sink = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.set_tensor(source["index"], values.reshape(source["shape"]))
    interpreter.invoke()
    return interpreter.get_tensor(sink["index"]).ravel()


def left_of(draft: Draft) -> list[str]:
    """Return the operators of the mended file, having checked that it computes the same."""
    before = draft.file()
    after = mended(before)
    values = np.random.default_rng(1).normal(size=before.tensors[0].shape).astype(np.float32)
    np.testing.assert_allclose(result(after, values), result(before, values), rtol=1e-4, atol=1e-4)
    return [operator_name(operator) for operator in after.operators]


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape)


def test_pads_channels_first_become_padding_of_the_convolution() -> None:
    draft = Draft((1, 8, 8, 4)).moved(0, 3, 1, 2).padded((0, 0), (0, 0), (0, 1), (0, 1)).moved(0, 2, 3, 1)
    assert left_of(draft.conv(normal(6, 3, 3, 4), normal(6), 2)) == ["CONV_2D"]
    draft = Draft((1, 8, 8, 4)).moved(0, 3, 1, 2).padded((0, 0), (0, 0), (1, 0), (1, 0)).moved(0, 2, 3, 1)
    assert left_of(draft.conv(normal(6, 3, 3, 4), normal(6), 2)) == ["PAD", "CONV_2D"]  # SAME pads behind


def test_a_batch_norm_of_one_dimension_goes_into_the_convolution() -> None:
    draft = Draft((1, 16, 3)).moved(0, 2, 1).reshaped(1, 3, 1, 16).moved(0, 2, 3, 1)
    draft.conv(normal(5, 1, 3, 3), normal(5), 1).moved(0, 3, 1, 2).reshaped(1, 5, 14)
    draft.by("MUL", normal(1, 5, 1)).by("ADD", normal(1, 5, 1), _RELU).mean(2)
    assert left_of(draft.matrix(normal(4, 5), normal(4))) == ["CONV_2D", "MEAN", "CONV_2D"]


def test_what_comes_after_a_clipping_stays_behind_it() -> None:
    draft = Draft((1, 4, 4, 3)).conv(normal(3, 1, 1, 3), normal(3), 1)
    assert left_of(draft.by("ADD", normal(3), _RELU).by("MUL", normal(3))) == ["CONV_2D", "MUL"]


def test_a_matrix_behind_a_flattened_map_has_its_columns_permuted() -> None:
    draft = Draft((1, 4, 5, 3)).moved(0, 3, 1, 2).reshaped(1, 60)
    assert left_of(draft.matrix(normal(7, 60), normal(7))) == ["RESHAPE", "CONV_2D"]


def test_a_flattened_map_that_something_else_reads_is_moved_after_all() -> None:
    draft = Draft((1, 4, 5, 3)).moved(0, 3, 1, 2).reshaped(1, 60).by("MUL", normal(1, 60))
    assert left_of(draft.matrix(normal(7, 60), normal(7))) == ["TRANSPOSE", "RESHAPE", "MUL", "RESHAPE", "CONV_2D"]


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    draft = Draft(tuple(draw(st.lists(st.integers(1, 4), min_size=2, max_size=4).map(lambda rest: [1, *rest]))))
    for _ in range(draw(st.integers(1, 7))):
        rank = len(draft.shape)
        step = draw(st.sampled_from(("move", "relabel", "flatten", "pad", "scale", "logistic", "mean", "matrix")))
        if step == "move" and rank <= 4:
            draft.moved(*draw(st.permutations(range(rank))))
        elif step == "relabel":
            long = [size for size in draft.shape if size > 1]
            places = draw(st.lists(st.booleans(), min_size=0, max_size=4 - len(long))) if len(long) < 4 else []
            for first in places:
                long.insert(0 if first else len(long), 1)
            draft.reshaped(*(long or [1]))
        elif step == "flatten":
            draft.reshaped(1, int(np.prod(draft.shape)))
        elif step == "pad" and np.prod(draft.shape) < 500:
            draft.padded(*draw(st.lists(st.tuples(*[st.integers(0, 1)] * 2), min_size=rank, max_size=rank)))
        elif step == "scale":
            wide = draw(st.lists(st.booleans(), min_size=rank, max_size=rank))
            shape = [size if full else 1 for size, full in zip(draft.shape, wide, strict=True)]
            draft.by(draw(st.sampled_from(("ADD", "MUL", "SUB"))), normal(*shape), draw(st.sampled_from((0, _RELU))))
        elif step == "logistic":
            draft.then("LOGISTIC", draft.shape)
        elif step == "mean" and rank > 1:
            axes = draw(st.sets(st.integers(0, rank - 1), min_size=1, max_size=rank - 1))
            draft.mean(*sorted(axes), keep=draw(st.booleans()))
        elif step == "matrix" and rank > 1:
            rows = draw(st.integers(1, 4))
            draft.matrix(normal(rows, draft.shape[-1]), normal(rows))
    return draft if draft.operators else draft.then("LOGISTIC", draft.shape)


@given(drafts())
def test_any_chain_computes_the_same(draft: Draft) -> None:
    left_of(draft)
