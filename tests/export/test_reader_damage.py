"""Damaged, hostile and foreign .tflite files: each gives one clear line, whatever its bytes."""

import random
import re
import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from ai_edge_litert import schema_py_generated as schema
from export_files import changed, net, on_tensor, small
from export_nets import NETS, Gated
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from fedprune.export.inspection.file import inspect
from fedprune.export.litert.flatbuffer import pack
from fedprune.export.litert.reader import ModelError, operator_name, read

_TYPES = schema.TensorType


def on_grid(index: int, **values: Any) -> Callable[[Any], None]:
    return lambda model: vars(model.subgraphs[0].tensors[index].quantization).update(values)


def on_operator(index: int, **values: Any) -> Callable[[Any], None]:
    return lambda model: vars(model.subgraphs[0].operators[index]).update(values)


def on_code(index: int, **values: Any) -> Callable[[Any], None]:
    return lambda model: vars(model.operatorCodes[index]).update(values)


def on_graph(**values: Any) -> Callable[[Any], None]:
    return lambda model: vars(model.subgraphs[0]).update(values)


def on_model(**values: Any) -> Callable[[Any], None]:
    return lambda model: vars(model).update(values)


_REFUSED = [
    ("version is 4", on_model(version=4)),
    ("has 0 subgraphs", on_model(subgraphs=[])),
    ("tensor 0 'in' has a dynamic shape; fix it to a batch of one", on_tensor(0, shapeSignature=[1, -1, 3, 1])),
    ("tensor 0 'in' has a dynamic shape", on_tensor(0, shape=[1, -3, 3, 1])),
    ("tensor 0 'in' has a dynamic shape", on_tensor(0, shape=[1, 0, 3, 1])),
    ("tensor 0 'in' has a dynamic shape", on_tensor(0, shape=[-1])),
    ("tensor 0 'in' of shape .* takes more than", on_tensor(0, shape=[2**31 - 1] * 8)),
    ("tensor 0 'in' has more than 8 axes", on_tensor(0, shape=[1] * 9)),
    ("tensor 0 'in' is of type INT4", on_tensor(0, type=_TYPES.INT4)),
    ("tensor 0 'in' is of type STRING", on_tensor(0, type=_TYPES.STRING)),
    ("tensor 0 'in' is of type 99", on_tensor(0, type=99)),
    ("tensor 0 'in' has its data in another file", on_tensor(0, externalBuffer=1)),
    ("tensor 1 'weight' has its data in buffer 7, and there are 2", on_tensor(1, buffer=7)),
    (r"tensor 1 'weight' of shape \[3, 2, 2, 2\] and type int8 has 12 bytes, not 24", on_tensor(1, shape=[3, 2, 2, 2])),
    ("tensor 1 'weight' of .* type int32 has 12 bytes, not 48", on_tensor(1, type=_TYPES.INT32)),
    ("zero points that differ", on_grid(1, zeroPoint=[0, 1, 0])),
    ("3 scales and 2 zero points", on_grid(1, zeroPoint=[0, 0])),
    (r"3 scale\(s\) along its axis 1", on_grid(1, quantizedDimension=1)),
    (r"3 scale\(s\) along its axis -4", on_grid(1, quantizedDimension=-4)),
    (r"1 scale\(s\) along its axis 4", on_grid(0, quantizedDimension=4)),
    ("scale that is negative or no number", on_grid(1, scale=[0.5, float("nan"), 0.5])),
    ("scale that is negative or no number", on_grid(0, scale=[-1.0])),
    ("zero point 128, outside int8", on_grid(0, zeroPoint=[128])),
    ("scales by blocks", on_grid(1, detailsType=2, details=schema.BlockwiseQuantizationT())),
    ("stored sparse, and not row by row", on_tensor(1, sparsity=schema.SparsityParametersT())),
    ("operator 1 'RELU' writes tensor 3, which is already there", on_operator(0, outputs=[2, 3])),
    ("operator 0 'CONV_2D' has no output", on_operator(0, outputs=[])),
    ("operator 0 is of kind 9, and there are 2", on_operator(0, opcodeIndex=9)),
    ("operator 0 'CONV_2D' reads tensor 4, and there are 4", on_operator(0, inputs=[0, 1, 4])),
    ("operator 0 'CONV_2D' reads tensor -2, and there are 4", on_operator(0, inputs=[0, 1, -2])),
    ("operator 0 'CONV_2D' reads tensor 3, which no operator before it makes", on_operator(0, inputs=[3, 1, -1])),
    ("operator 1 'RELU' reads tensor 3, which no", on_operator(1, inputs=[3])),
    ("operator 1 'RELU' writes tensor 2, which is already there", on_operator(1, outputs=[2])),
    ("operator 1 'RELU' writes tensor 1, which is already there", on_operator(1, outputs=[1])),
    ("operator 1 'RELU' writes tensor -1", on_operator(1, outputs=[-1])),
    ("operator 1 'RELU' has custom options", on_operator(1, customOptions=[1, 2])),
    ("operator 0 'CONV_2D' lacks its Conv2DOptions", on_operator(0, builtinOptionsType=0, builtinOptions=None)),
    ("'CONV_2D' lacks its Conv2D", on_operator(0, builtinOptionsType=5, builtinOptions=schema.Pool2DOptionsT())),
    ("operator 0 'CONV_2D' has options of the unknown kind 250", on_operator(0, builtinOptionsType=250)),
    ("options of a newer kind", on_operator(1, builtinOptions2Type=18, builtinOptions2=schema.DilateOptionsT())),
    ("operator 0 is of the unknown kind 9999", on_code(0, builtinCode=9999)),
    ("operator 0 is a custom one without a name", on_code(0, builtinCode=32, deprecatedBuiltinCode=32)),
    ("no inputs", on_graph(inputs=[])),
    ("no outputs", on_graph(outputs=[])),
    ("inputs are not among its 4 tensors", on_graph(inputs=[4])),
    ("inputs are not among its 4 tensors, each once", on_graph(inputs=[0, 0])),
    ("outputs are not among its 4 tensors", on_graph(outputs=[-1])),
    ("an input of the model is a constant", on_graph(inputs=[0, 1])),
    ("an output of the model is made by no operator", on_graph(operators=[])),
    ("0 tensors", on_graph(tensors=[], operators=[])),
]


@pytest.mark.parametrize(("line", "change"), _REFUSED, ids=[line for line, _ in _REFUSED])
def test_what_cannot_be_held_is_refused_in_one_line(line: str, change: Callable[[Any], None]) -> None:
    with pytest.raises(ModelError, match=line) as caught:
        read(changed(change))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


_SOUND = re.compile(
    r"dynamic shape|INT4|STRING|another file|zero points that differ|by blocks|row by row|custom options|newer kind"
)


@pytest.mark.parametrize("change", [change for line, change in _REFUSED if _SOUND.search(line)])
def test_what_is_sound_is_looked_at_all_the_same(change: Callable[[Any], None]) -> None:
    rows = inspect(changed(change)).rows
    assert [row.operator for row in rows] == ["CONV_2D", "RELU"]


def test_names_are_shown_on_one_line() -> None:
    with pytest.raises(ModelError, match=r"tensor 0 'a\\nb") as caught:
        read(changed(on_tensor(0, name="a\nb" * 1000, type=_TYPES.INT4)))
    assert len(str(caught.value)) < 200


def test_parts_that_overlap_do_not_fill_the_memory() -> None:
    # Ninety tensors of 100,000 bytes each, in a file of little more than 100,000.
    def change(model: Any) -> None:
        for place in range(90):
            model.buffers.append(schema.BufferT(offset=16 + place, size=100_000))
            shape = [100_000]
            model.subgraphs[0].tensors.append(schema.TensorT(shape=shape, type=_TYPES.INT8, buffer=2 + place))

    content = changed(change) + bytes(100_000)
    tracemalloc.start()
    with pytest.raises(ModelError, match="overlap"):
        read(content)
    assert tracemalloc.get_traced_memory()[1] < 10 * len(content)
    tracemalloc.stop()


@pytest.mark.parametrize(
    "content", [b"", b"TFL3", b"\0\0\0\0TFL3", bytes(100), b"\x08\0\0\0TFL3", b"not a model at all"]
)
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(ModelError):
        read(content)


@pytest.mark.parametrize("value", [0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 20])
def test_any_length_or_offset_may_be_absurd(value: int) -> None:
    # Each aligned word of a file in turn: every vector's length, every offset and every vtable among them.
    content = pack(net())
    for place in range(0, len(content), 4):
        consistent(content[:place] + struct.pack("<I", value) + content[place + 4 :])


def consistent(content: bytes) -> None:
    """Read; all that may come is ModelError, or a file whose parts fit each other. Looking at it may say more."""
    with suppress(ModelError):
        inspect(content)
    try:
        file = read(content)
    except ModelError:
        return
    made_so_far = {*file.inputs, *(at for at, tensor in enumerate(file.tensors) if tensor.data is not None), -1}
    made_so_far |= {at for at, tensor in enumerate(file.tensors) if tensor.variable}
    for tensor in file.tensors:
        assert min(tensor.shape, default=1) >= 1
        assert tensor.data is None or tensor.data.dtype == tensor.dtype
        assert tensor.data is None or tensor.sparsity is not None or tensor.data.shape == tensor.shape
        along = (1, tensor.shape[tensor.axis]) if tensor.shape else (1,)
        assert tensor.scales is None or len(tensor.scales) in along
    for operator in file.operators:
        assert made_so_far.issuperset(operator.inputs)
        made_so_far.update(operator.outputs)
        assert operator_name(operator)
    assert made_so_far.issuperset(file.outputs)


@settings(max_examples=300)
@example(kind=Gated, form=0, seed=209, how=2)  # an operator without outputs in a graph without tensors
@given(kind=st.sampled_from(NETS), form=st.integers(0, 2), seed=st.integers(0, 2**32), how=st.integers(0, 3))
def test_damage_gives_a_clear_line_or_a_sound_file(kind: type[nn.Module], form: int, seed: int, how: int) -> None:
    content, chance = bytearray(small(kind)[form]), random.Random(seed)
    if how == 0:
        content = content[: chance.randrange(len(content))]
    elif how == 1:
        for _ in range(chance.randint(1, 8)):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif how == 2:
        for _ in range(chance.randint(1, 4)):
            place = 4 * chance.randrange(len(content) // 4)
            content[place : place + 4] = chance.choice((chance.randbytes(4), struct.pack("<I", chance.randrange(64))))
    else:
        content[8:] = chance.randbytes(len(content) - 8)
    consistent(bytes(content))
