"""What an inspection says: worked by hand for a small net, and held against graphs and interpreters for real ones."""

import io
import random
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from export_nets import NETS, SMALL, made, shipped
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

from fedprune import budgets
from fedprune.cli.inspect import show_inspection
from fedprune.export import litert, tflm
from fedprune.export.inspection.file import Inspection, Row, inspect
from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor, Sparsity, pack
from fedprune.export.litert.reader import ModelError, read
from fedprune.export.tflm.decode import behind_decode
from fedprune.graph import Graph, inference, trace

_INT8, _INT32, _FLOAT = np.dtype(np.int8), np.dtype(np.int32), np.dtype(np.float32)
_GRID = np.array([0.5], np.float32)
_CODE, _KIND = schema.BuiltinOperator, schema.BuiltinOptions


def activation(*shape: int, zero_point: int = 0) -> FileTensor:
    return FileTensor(shape, _INT8, None, _GRID, zero_point)


def weight(values: np.ndarray, channels: int = 1) -> FileTensor:
    return FileTensor(values.shape, _INT8, values.astype(np.int8), np.full(channels, 0.25, np.float32))


def bias(size: int) -> FileTensor:
    return FileTensor((size,), _INT32, np.arange(size, dtype=np.int32), np.full(size, 0.125, np.float32))


def half(*shape: int) -> np.ndarray:
    """Return values from 1 on, every second of which is zero: too many different ones for a table."""
    values = np.arange(1, 1 + int(np.prod(shape)), dtype=np.int8)
    values[1::2] = 0
    return values.reshape(shape)


def net() -> File:
    """Input 4x4x2, 3x3 convolution to 3 channels, depthwise 2x2 of stride 2, reshape, linear to 5."""
    conv = schema.Conv2DOptionsT(padding=schema.Padding.SAME, strideH=1, strideW=1)
    depth = schema.DepthwiseConv2DOptionsT(padding=schema.Padding.VALID, strideH=2, strideW=2, depthMultiplier=1)
    tensors = [
        replace(activation(1, 4, 4, 2, zero_point=-3), name="in"),
        weight(half(3, 3, 3, 2), 3),
        bias(3),
        activation(1, 4, 4, 3),
        replace(weight(np.ones((1, 2, 2, 3)), 3), axis=3),
        bias(3),
        activation(1, 2, 2, 3),
        FileTensor((2,), _INT32, np.array([1, 12], np.int32)),
        activation(1, 12),
        weight(half(5, 12)),
        bias(5),
        replace(activation(1, 5, zero_point=7), name="out"),
    ]
    operators = [
        FileOperator(_CODE.CONV_2D, 3, (0, 1, 2), 3, conv, _KIND.Conv2DOptions),
        FileOperator(_CODE.DEPTHWISE_CONV_2D, 3, (3, 4, 5), 6, depth, _KIND.DepthwiseConv2DOptions),
        FileOperator(_CODE.RESHAPE, 1, (6, 7), 8, schema.ReshapeOptionsT(newShape=[1, 12]), _KIND.ReshapeOptions),
        FileOperator(
            _CODE.FULLY_CONNECTED, 4, (8, 9, 10), 11, schema.FullyConnectedOptionsT(), _KIND.FullyConnectedOptions
        ),
    ]
    return File(tensors, operators, (0,), (11,))


def test_a_small_net_by_hand() -> None:
    content = pack(net())
    found = inspect(content, "net.tflite")
    assert found.rows == (
        Row("CONV_2D", (1, 4, 4, 3), (3, 3, 3, 2), 54, "dense", 0.5, 864),  # 48 elements of 3 * 3 * 2
        Row("DEPTHWISE_CONV_2D", (1, 2, 2, 3), (1, 2, 2, 3), 12, "dense", 0.0, 48),  # 12 elements of 2 * 2
        Row("RESHAPE", (1, 12), (), 0, "", None, 0),
        Row("FULLY_CONNECTED", (1, 5), (5, 12), 60, "dense", 0.5, 60),
    )
    assert (found.name, found.file_bytes, found.macs) == ("net.tflite", len(content), 972)
    # The two biases of three channels are equal, and stored once.
    assert (found.weight_bytes, found.bias_bytes, found.other_bytes) == (126, 12 + 20, len(content) - 158)
    assert found.zeros == pytest.approx((27 + 30) / 126)
    assert (found.activations, found.weights) == (("int8",), ("int8",))
    assert found.inputs == (litert.Port((1, 4, 4, 2), litert.Affine(0.5, -3)),)
    assert found.outputs == (litert.Port((1, 5), litert.Affine(0.5, 7)),)


def test_a_small_net_behind_decode_by_hand() -> None:
    content = pack(behind_decode(net(), [0]))
    found, dense = inspect(content), inspect(pack(net()))
    # 54 bits in 7 bytes, a header of 16, 27 values; the operator that unpacks them has no row.
    assert found.rows == (dense.rows[0]._replace(weight_bytes=50, encoding="DECODE bitmap"), *dense.rows[1:])
    assert (found.weight_bytes, found.bias_bytes) == (50 + 12 + 60, 32)
    assert found.arena_bytes == arena(content, 0.02)


def arena(content: bytes, within: float) -> Any:
    """Return what TensorFlow Lite Micro takes for the model, to compare with."""
    pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only")
    shape = read(content).tensors[read(content).inputs[0]].shape
    _, arena_bytes = tflm.run(content, np.zeros((1, shape[-1], *shape[1:-1]), np.float32))
    return pytest.approx(arena_bytes, rel=within)


def test_values_in_tables() -> None:
    # Two bits a weight choose from a table of four for each of three channels, the last without a zero.
    tables = np.array([[0, 1, 2, 3], [5, 0, 7, 8], [-4, 9, 10, 11]], np.int8)
    chosen = np.arange(54).reshape(3, 18) % 4
    values = np.take_along_axis(tables, chosen, 1).reshape(3, 3, 3, 2)
    dense = replace(net(), tensors=[weight(values, 3) if at == 1 else each for at, each in enumerate(net().tensors)])
    bits = np.packbits(np.unpackbits(chosen.astype(np.uint8).ravel()[:, None], axis=1)[:, 6:])
    header = bytes((0, 1, 0, 0, 1, 0 << 4 | 2, 4)) + bytes(9)
    ancillary = np.frombuffer(header + tables.tobytes(), np.uint8)
    packed = [FileTensor(each.shape, each.dtype, each) for each in (bits, ancillary)]
    tensors = [*dense.tensors, *packed, replace(dense.tensors[1], data=None)]
    decode = FileOperator(32, 1, (12, 13), 14, None, 0, "TFLM_DECODE")
    first, *others = dense.operators
    tabled = File(tensors, [decode, replace(first, inputs=(0, 14, 2)), *others], (0,), (11,))
    content, plain = pack(tabled), pack(dense)
    row = inspect(content).rows[0]
    assert (row.encoding, row.weight_bytes, row.weight) == ("DECODE table", 14 + 16 + 12, (3, 3, 3, 2))
    assert row.zeros == pytest.approx((5 + 4) / 54)  # of 18 every fourth: from the first on, and from the fourth on
    assert row.zeros == inspect(plain).rows[0].zeros
    assert inspect(content).arena_bytes == arena(content, 0.02)
    inputs = np.random.default_rng(0).normal(size=(2, 2, 4, 4)).astype(np.float32)
    np.testing.assert_array_equal(tflm.run(content, inputs)[0], tflm.run(plain, inputs)[0])


def test_sparse_weights_by_hand() -> None:
    sparsity = Sparsity(np.array([0, 1, 1, 3]), np.array([2, 0, 1]))
    options = schema.FullyConnectedOptionsT()
    tensors = [
        FileTensor((1, 4), _FLOAT),
        FileTensor((3, 4), _FLOAT, np.array([1, 2, 3], np.float32), sparsity=sparsity),
        FileTensor((3, 4), _FLOAT),
        FileTensor((1, 3), _FLOAT),
    ]
    densify = FileOperator(_CODE.DENSIFY, 1, (1,), 2, None, 0)
    linear = FileOperator(_CODE.FULLY_CONNECTED, 1, (0, 2, -1), 3, options, _KIND.FullyConnectedOptions)
    found = inspect(pack(File(tensors, [densify, linear], (0,), (3,))))
    # Three floats, four starts and three columns of a byte.
    assert found.rows == (Row("FULLY_CONNECTED", (1, 3), (3, 4), 12 + 4 + 3, "sparse", 0.75, 12),)
    assert (found.activations, found.weights, found.bias_bytes, found.arena_bytes) == (
        ("float32",),
        ("float32",),
        0,
        None,
    )


def test_half_floats_that_are_widened_first() -> None:
    tensors = [
        FileTensor((1, 4), _FLOAT),
        FileTensor((3, 4), np.dtype(np.float16), half(3, 4).astype(np.float16)),
        FileTensor((3, 4), _FLOAT),
        FileTensor((1, 3), _FLOAT),
    ]
    widen = FileOperator(_CODE.DEQUANTIZE, 3, (1,), 2, None, 0)
    options = schema.FullyConnectedOptionsT()
    linear = FileOperator(_CODE.FULLY_CONNECTED, 1, (0, 2, -1), 3, options, _KIND.FullyConnectedOptions)
    (row,) = inspect(pack(File(tensors, [widen, linear], (0,), (3,)))).rows
    assert row == Row("FULLY_CONNECTED", (1, 3), (3, 4), 24, "dense", 0.5, 12)


def test_a_transposed_convolution_multiplies_each_input() -> None:
    options = schema.TransposeConvOptionsT(padding=schema.Padding.VALID, strideH=2, strideW=2)
    shape = FileTensor((4,), _INT32, np.array([1, 4, 4, 3], np.int32))
    tensors = [activation(1, 2, 2, 5), shape, weight(np.ones((3, 2, 2, 5)), 3), activation(1, 4, 4, 3)]
    operator = FileOperator(_CODE.TRANSPOSE_CONV, 3, (1, 2, 0), 3, options, _KIND.TransposeConvOptions)
    content = pack(File(tensors, [operator], (0,), (3,)))
    found = inspect(content)
    assert found.rows[0].macs == 20 * 3 * 2 * 2
    assert found.arena_bytes == arena(content, 0.1)  # of a kilobyte; the sums of 32 bits are part of it


def pruned(model: nn.Module, inputs: np.ndarray) -> tuple[Graph, litert.Ranges]:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= torch.rand(parameter.shape) < 0.2
    graph = inference(trace(model.eval(), inputs[:1]))
    return graph, litert.calibrate(graph, inputs)


@pytest.mark.parametrize("name", SMALL)
def test_a_shipped_model_holds_what_its_graph_says(name: str) -> None:
    model, inputs = shipped(name, 4)
    graph, ranges = pruned(model, inputs)
    contents = (litert.write_int8(graph, ranges), tflm.write_sparse(graph, ranges))
    whole, decoded = (inspect(content) for content in contents)
    single = inspect(litert.write_float(graph))
    assert whole.macs == decoded.macs == single.macs == budgets.macs(graph)
    layers = [op for op in graph.operations if hasattr(op, "weight")]
    sizes = [op.weight.value.size for op in layers]
    assert [row.weight_bytes for row in whole.rows if row.encoding] == sizes
    assert whole.weight_bytes == sum(sizes) == single.weight_bytes // 4
    assert whole.bias_bytes <= 4 * sum(len(op.weight.value) for op in layers)
    assert [row.zeros for row in decoded.rows] == [row.zeros for row in whole.rows]
    assert len(whole.rows) == len(decoded.rows)
    assert "DECODE bitmap" in {row.encoding for row in decoded.rows}
    assert decoded.weight_bytes < 0.6 * whole.weight_bytes
    ports = litert.quantisation(contents[0])
    assert (whole.inputs, whole.outputs) == ((ports.input,), (ports.output,))
    assert (single.arena_bytes, single.activations, single.weights) == (None, ("float32",), ("float32",))
    for found, content in zip((whole, decoded), contents, strict=True):
        assert found.arena_bytes == arena(content, 0.01)


@cache
def small(kind: type[nn.Module]) -> bytes:
    model, inputs = made(kind)
    return tflm.write_sparse(*pruned(model, inputs.numpy()))


@pytest.mark.parametrize("kind", NETS)
def test_the_arena_of_every_operation_is_foretold(kind: type[nn.Module]) -> None:
    assert inspect(small(kind)).arena_bytes == arena(small(kind), 0.1)


@pytest.mark.parametrize("channels", [1, 5])
def test_the_arena_of_a_linear_layer_is_foretold(channels: int) -> None:
    tensors = [weight(half(5, 12), channels) if at == 9 else each for at, each in enumerate(net().tensors)]
    content = pack(replace(net(), tensors=tensors))
    assert inspect(content).arena_bytes == arena(content, 0.02)


def test_weights_that_do_not_fit_are_refused() -> None:
    first, *others = net().operators
    with pytest.raises(ModelError, match="operator 0 'CONV_2D' has no weight of 4 axes"):
        inspect(pack(replace(net(), operators=[replace(first, inputs=(0,)), *others])))
    with pytest.raises(ModelError, match="operator 0 'CONV_2D' has no weight of 4 axes"):
        inspect(pack(replace(net(), operators=[replace(first, inputs=(0, 2, 2)), *others])))
    whole = behind_decode(net(), [0])
    decode, *others = whole.operators
    short = replace(whole.tensors[12], data=np.asarray(whole.tensors[12].data)[:-1], shape=(42,))
    with pytest.raises(ModelError, match="operator 0 'TFLM_DECODE' does not fit the shape"):
        inspect(pack(replace(whole, tensors=[*whole.tensors[:12], short, *whole.tensors[13:]])))
    with pytest.raises(ModelError, match="operator 0 'TFLM_DECODE' lacks its two constants"):
        inspect(pack(replace(whole, operators=[replace(decode, inputs=(1,)), *others])))


def shown(inspection: Inspection) -> str:
    text = io.StringIO()
    show_inspection(Console(file=text, width=100), inspection)
    return text.getvalue()


def test_it_is_shown_with_its_totals() -> None:
    content = pack(behind_decode(net(), [0]))
    lines = [" ".join(line.split()) for line in shown(inspect(content, "[net].tflite")).splitlines()]
    assert "CONV_2D 1x4x4x3 3x3x3x2 50 50.0 % 864 DECODE bitmap" in lines
    assert "in all 122 45.2 % 972" in lines
    assert f"[net].tflite: {len(content):,} bytes = 122 weights + 32 biases + {len(content) - 154:,} other" in lines
    assert "takes: 1x4x4x2, scale 0.5, zero point -3" in lines


def test_names_from_a_file_cannot_format_the_terminal() -> None:
    custom = FileOperator(32, 1, (0,), 1, None, 0, "[red]\x1b[2Jname")
    file = File([activation(1, 2), activation(1, 2)], [custom], (0,), (1,))
    text = shown(inspect(pack(file)))
    assert "[red]?[2Jname" in text
    assert "not known for this file" in text


@settings(max_examples=150)
@given(kind=st.sampled_from(NETS), seed=st.integers(0, 2**32))
def test_damage_gives_a_clear_line_or_numbers_that_add_up(kind: type[nn.Module], seed: int) -> None:
    content, chance = bytearray(small(kind)), random.Random(seed)
    for _ in range(chance.randint(1, 3)):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    try:
        found = inspect(bytes(content))
    except ModelError:
        return
    assert found.weight_bytes + found.bias_bytes + found.other_bytes == len(content)
    assert all(row.zeros is None or 0 <= row.zeros <= 1 for row in found.rows)
