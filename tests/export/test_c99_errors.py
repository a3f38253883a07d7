"""Models that cannot become C: one line says what is wrong, whatever the file holds."""

import random
import re
import struct
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from c99_files import Draft
from c99_nets import MOVERS, chain
from export_files import changed, on_tensor, small
from export_nets import Signal
from hypothesis import given, settings
from hypothesis import strategies as st

from fedprune.export import c99
from fedprune.export.c99.rules import RULES
from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor, pack
from fedprune.export.litert.reader import ModelError, read


def refused(model: bytes) -> str:
    """Return the line that refuses a model."""
    with pytest.raises(ModelError) as caught:
        c99.generate(model)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 400
    return line


def test_floats_are_refused() -> None:
    said = refused(small(Signal)[1])
    assert said.startswith("the model works on float32, and this is for int8: fedprune export FILE --calibrate DATA")


def test_a_dynamic_shape_is_refused() -> None:
    assert "has a dynamic shape; fix it to a batch of one" in refused(
        changed(on_tensor(0, shapeSignature=[1, -1, 3, 1]))
    )


def test_a_model_that_computes_nothing_is_refused() -> None:
    draft = Draft((1, 2, 2, 3))
    assert refused(draft.file(draft.reshape(draft.input, (1, 12)))) == (
        "the model computes nothing: its output is its input"
    )


def test_an_operator_without_a_kernel_is_named() -> None:
    draft = Draft((1, 2, 2, 3))
    last = draft.unary("SIN", draft.unary("RELU", draft.input))
    assert refused(draft.file(last)) == "no C kernel covers SIN (operator 1)"
    custom = FileOperator(32, 1, (draft.input,), last, None, 0, "Detect\nall")
    assert refused(pack(File(draft.tensors, [custom], (draft.input,), (last,)))).startswith(
        "no C kernel covers 'Detect\\nall' (operator 0)"
    )


SHAPE = (1, 4, 5, 6)


def conv(draft: Draft, **values: Any) -> int:
    return draft.conv(draft.input, 4, **values)


def add(code: str, inputs: tuple[int, ...], shape: tuple[int, ...] = SHAPE, **values: Any) -> Callable[[Draft], int]:
    return lambda draft: draft.add(code, inputs, draft.activation(shape, draft.grid(draft.input)), 2, **values)


def pool(shape: tuple[int, ...], **values: Any) -> Callable[[Draft], int]:
    plain = {"padding": 1, "strideH": 1, "strideW": 1, "filterHeight": 1, "filterWidth": 1}
    return add("MAX_POOL_2D", (0,), shape, **{**plain, **values})


def with_weights(layer: Callable[[Draft], int], **values: Any) -> Callable[[Draft], int]:
    def make(draft: Draft) -> int:
        last = layer(draft)
        at = draft.operators[-1].inputs[1]
        draft.tensors[at] = replace(draft.tensors[at], **values)
        return last

    return make


def soft(scale: float, beta: float, result: float = 1 / 256) -> Callable[[Draft], int]:
    return lambda draft: draft.unary("SOFTMAX", conv(draft, grid=(scale, 3)), (result, -128), beta=beta)


def many_inputs(draft: Draft) -> int:
    tall = draft.pad(draft.input, ((0, 0), (0, 106), (0, 95), (0, 0)))
    return draft.linear(tall, 1, levels=np.full((1, 110 * 100 * 6), 127, np.int8), factor=1e-6)


def masked(draft: Draft) -> int:
    last = draft.slice(draft.input, (0, 0, 0, 0), SHAPE, (1, 1, 1, 1))
    draft.operators[-1].options.newAxisMask = 1
    return last


def moved(code: str, shape: tuple[int, ...], *constants: Any, **values: Any) -> Callable[[Draft], int]:
    return lambda draft: draft.moved(code, draft.input, shape, *constants, **values)


def scattered(draft: Draft) -> int:
    return draft.reduced("SUM", draft.reshape(draft.input, (2, 2, 5, 6)), (0, 2))


def tokens(draft: Draft, **values: Any) -> int:
    last = draft.tokens(4, 9, 3)
    for name, value in values.items():
        setattr(draft.operators[-1].options, name, value)
    return last


def added_tokens(draft: Draft) -> int:
    draft.tokens(4, 9, 3)
    return draft.both("ADD", draft.input, draft.input)


def floats(draft: Draft) -> int:
    draft.tensors[draft.input] = replace(draft.tensors[draft.input], dtype=np.dtype(np.float32))
    return draft.unary("QUANTIZE", draft.input)


WRONG: list[tuple[str, Callable[[Draft], int]]] = [
    ("operator 0, CONV_2D, has a fused activation of kind 4", lambda draft: conv(draft, clip=4)),
    ("operator 0, ADD, has a fused activation of kind 5", lambda draft: draft.both("ADD", 0, 0, clip=5)),
    ("CONV_2D, has scales that make a factor of .*; less than 1.*e.09 will", lambda draft: conv(draft, factor=2.0**33)),
    ("has sums that could leave 32 bits", lambda draft: conv(draft, bias=np.full(4, 2**31 - 99), factor=1e-9)),
    ("CONV_2D, has weights without a scale for each filter and zero", with_weights(conv, zero_point=3)),
    ("FULLY_CONNECTED, has weights without a scale for each filter and zero points of 0",
     with_weights(lambda draft: draft.linear(draft.input, 5, single=True), zero_point=3)),
    ("CONV_2D, has no constant int8 input 1", with_weights(conv, dtype=np.dtype(np.int16), data=np.ones((4, 3, 3, 6)))),
    ("CONV_2D, has 7 filters in 2 groups", lambda draft: draft.conv(draft.input, 7, groups=2)),
    ("a layer has filters of so many weights", many_inputs),
    ("SOFTMAX, has an input of scale 1e-09 and a beta of 1, too small", soft(1e-9, 1)),
    ("SOFTMAX, has an input of scale 0.1 and a beta of nan", soft(0.1, float("nan"))),
    ("SOFTMAX, has an output of scale 0.0", soft(0.1, 1, 0.01)),
    ("LOGISTIC, is refused by the reference kernels: ", lambda draft: draft.unary("LOGISTIC", draft.input)),
    ("GELU, is refused .*Didn't find", lambda draft: draft.unary("GELU", draft.input, version=9)),
    ("the model works on float32; ", floats),
    ("RELU, has input and output of different shapes", add("RELU", (0,), (1, 5, 4, 6))),
    ("RELU, has no input", add("RELU", ())),
    ("RELU, has input and output of different shapes", add("RELU", (0,), (2, 4, 5, 6))),
    ("RELU, has a tensor of shape .1, 1, 1, 4, 5, 6.; at most five axes", add("RELU", (0,), (1, 1, 1, 4, 5, 6))),
    ("ADD, has less than 2 input", add("ADD", (0, -1))),
    ("ADD, has operands of shapes", add("ADD", (0, 0), (1, 4, 6, 5))),
    ("MUL, has operands of shapes", add("MUL", (0, 0), (1, 4, 6, 5))),
    ("RESHAPE, has no input", add("RESHAPE", (), (1, 120))),
    ("RESHAPE, changes the number of values", add("RESHAPE", (0,), (1, 121))),
    ("RESHAPE, has input and output of different", lambda draft: draft.add("RESHAPE", (0,), draft.activation(SHAPE))),
    ("CONCATENATION, has no input", add("CONCATENATION", (), axis=3)),
    ("CONCATENATION, names axis 4 of a tensor of 4 axes", add("CONCATENATION", (0,), axis=4)),
    ("CONCATENATION, joins maps that do not fit", add("CONCATENATION", (0, 0), axis=0)),
    ("CONCATENATION, joins maps that do not fit", add("CONCATENATION", (0, 0), (1, 4, 10, 7), axis=2)),
    ("MAX_POOL_2D, makes 4 rows or columns of 4, which", pool(SHAPE, filterHeight=2)),
    ("MAX_POOL_2D, has a stride, dilation or kernel of zero", pool(SHAPE, strideW=0)),
    ("MAX_POOL_2D, has a kernel of 300; at most 255 will do", pool(SHAPE, padding=0, filterHeight=300)),
    ("MAX_POOL_2D, has input and output of different scales or channels", pool((1, 4, 5, 7))),
    ("SUM, is over axes .0, 2. of 4, too scattered", scattered),
    ("MEAN, has no constant int32 input 1", add("MEAN", (0, 0), keepDims=True)),
    ("SUM, is over axes .1., which do not give its output", lambda draft: draft.add(
        "SUM", (0, draft.constant([1])), draft.activation((1, 5, 6)), keepDims=True)),
    ("SUM, has sums that could leave 32 bits", lambda draft: draft.reduced("SUM", 0, (1,), grid=(1e-8, 0))),
    ("REDUCE_MAX, has input and output of different scales", lambda draft: draft.reduced("REDUCE_MAX", 0, (1,))),
    ("STRIDED_SLICE, makes shapes .* of outputs of", masked),
    ("TRANSPOSE, has the order .0, 1, 1, 3. for 4 axes", moved("TRANSPOSE", SHAPE, (0, 1, 1, 3))),
    ("TRANSPOSE, makes shapes .*1, 5, 4, 6.* of outputs of", moved("TRANSPOSE", SHAPE, (0, 2, 1, 3))),
    ("SLICE, has no start and size for each axis", moved("SLICE", SHAPE, (0, 0, 0), (1, 4, 5))),
    ("GATHER, has indices by batch, or outside its input", moved("GATHER", SHAPE, [0, 1, 4, 2], axis=1)),
    ("DEPTH_TO_SPACE, makes blocks of 2 of 6 channels", moved("DEPTH_TO_SPACE", SHAPE, blockSize=2)),
    ("SPACE_TO_DEPTH, makes blocks of 2 of 4 x 5 positions", moved("SPACE_TO_DEPTH", SHAPE, blockSize=2)),
    ("MIRROR_PAD, mirrors more than there is",
     moved("MIRROR_PAD", (1, 8, 5, 6), ((0, 0), (4, 0), (0, 0), (0, 0)), mode=0)),
    ("BROADCAST_TO, spreads a shape that does not fit", moved("BROADCAST_TO", (1, 4, 5, 7), (1, 4, 5, 7))),
    ("RESIZE_BILINEAR, makes 115 rows or columns of 4: its steps",
     moved("RESIZE_BILINEAR", (1, 115, 5, 6), (115, 5), version=3)),
    ("RESIZE_BILINEAR, aligns corners and takes",
     moved("RESIZE_BILINEAR", SHAPE, (4, 5), version=3, alignCorners=True, halfPixelCenters=True)),
    ("SPLIT, splits 5 values into 2", lambda draft: draft.parts("SPLIT", 0, [(1, 4, 2, 6)] * 2, 2, numSplits=2)[0]),
    ("TRANSPOSE_CONV, has a stride of zero", lambda draft: draft.transposed(0, 3, (2, 2), (2, 2), strideW=0)),
    ("GATHER, is not of a matrix's rows", lambda draft: tokens(draft, axis=1)),
    ("ADD, works on int32; ", added_tokens),
]  # fmt: skip


@pytest.mark.parametrize(("line", "wrong"), WRONG, ids=[line for line, _ in WRONG])
def test_what_has_no_kernel_is_refused_in_one_line(line: str, wrong: Callable[[Draft], int]) -> None:
    draft = Draft(SHAPE)
    last = wrong(draft)
    assert re.search(line, refused(draft.file(last)))


@cache
def nets() -> list[bytes]:
    return [chain(seed, 5, 6, MOVERS if seed % 2 else ()) for seed in range(10)]


def sound(content: bytes) -> None:
    """Export; all that may come is ModelError with a line, or sources."""
    try:
        made = c99.generate(content)
    except ModelError as error:
        said = str(error)
    else:
        said = made.header.partition("\n")[0]
        assert "model_run" in made.source
    assert said
    assert "\n" not in said


@settings(max_examples=120)
@given(which=st.integers(0, 9), seed=st.integers(0, 2**32), whole=st.booleans())
def test_damaged_bytes_give_a_line_or_sources(which: int, seed: int, whole: bool) -> None:
    content, chance = bytearray(nets()[which]), random.Random(seed)
    for _ in range(chance.randint(1, 4)):
        if whole:
            place = 4 * chance.randrange(len(content) // 4)
            content[place : place + 4] = chance.choice((chance.randbytes(4), struct.pack("<I", chance.randrange(64))))
        else:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    sound(bytes(content))


def resized(tensor: FileTensor, shape: tuple[int, ...]) -> FileTensor:
    return replace(tensor, shape=shape, data=None if tensor.data is None else np.resize(tensor.data, shape))


def tensor_changed(tensor: FileTensor, chance: random.Random) -> FileTensor:
    shape, kind = [*tensor.shape], chance.randrange(6)
    if kind == 0 and shape:
        shape[chance.randrange(len(shape))] += chance.choice((-1, 1, 7, 300))
    elif kind == 1:
        shape = chance.choice(([], [1, *shape], shape[1:], shape[::-1]))
    elif kind == 2 and tensor.scales is not None:
        factor = chance.choice((0, 1e-42, 1e-10, 0.01, 1.1, 1e4, 1e10, 1e30))
        return replace(tensor, scales=(tensor.scales * factor).astype(np.float32))
    elif kind == 3 and tensor.scales is not None:
        return (
            replace(tensor, scales=None) if chance.random() < 0.5 else replace(tensor, zero_point=chance.randrange(128))
        )
    elif kind == 4:
        dtype = np.dtype(chance.choice(("int8", "int32", "uint8", "float32", "int16", "bool")))
        return replace(tensor, dtype=dtype, data=None if tensor.data is None else tensor.data.astype(dtype))
    elif tensor.data is not None and tensor.dtype == np.int32:
        numbers = [chance.choice((-(2**31), 2**31 - 1, -1, 0, 1, 2, 5, 100)) for _ in range(tensor.data.size)]
        return replace(tensor, data=np.array(numbers, np.int32).reshape(tensor.shape))
    return resized(tensor, (*shape,)) if min(shape, default=1) > 0 else tensor


def operator_changed(operator: FileOperator, chance: random.Random, tensors: int) -> FileOperator:
    inputs, kind = [*operator.inputs], chance.randrange(4)
    if kind == 0:
        codes = [getattr(schema.BuiltinOperator, name) for name in RULES]
        return replace(operator, code=chance.choice(codes), version=chance.choice((1, 2, 9)))
    if kind == 1 and operator.options is not None:
        options = copy(operator.options)
        numbers = [name for name, value in vars(options).items() if type(value) in (int, float)]
        for name in numbers and [chance.choice(numbers)]:
            setattr(options, name, chance.choice((0, 1, 2, 3, 4, 5, 100, 127)))
        return replace(operator, options=options)
    if kind == 2 and inputs:
        del inputs[chance.randrange(len(inputs))]
    else:
        inputs.insert(chance.randrange(len(inputs) + 1), chance.choice((-1, chance.randrange(tensors))))
    return replace(operator, inputs=(*inputs,))


@settings(max_examples=150)
@given(which=st.integers(0, 9), seed=st.integers(0, 2**32))
def test_foreign_fields_give_a_line_or_sources(which: int, seed: int) -> None:
    file, chance = read(nets()[which]), random.Random(seed)
    tensors, operators = [*file.tensors], [*file.operators]
    for _ in range(chance.randint(1, 2)):
        if chance.random() < 0.5:
            at = chance.randrange(len(tensors))
            tensors[at] = tensor_changed(tensors[at], chance)
        else:
            at = chance.randrange(len(operators))
            operators[at] = operator_changed(operators[at], chance, len(tensors))
    sound(pack(File(tensors, operators, file.inputs, file.outputs)))
