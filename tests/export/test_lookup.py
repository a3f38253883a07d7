"""Weights as indices into tables: the bytes by hand, and what TensorFlow Lite Micro's DECODE makes of them."""

import numpy as np
import pytest
import torch
from torch import nn

from fedprune.export import litert, tflm
from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor, pack
from fedprune.export.litert.reader import read
from fedprune.export.tflm.decode import DECODE, packed
from fedprune.export.tflm.lookup import lookup
from fedprune.graph import inference, trace


def weight(values: np.ndarray, axis: int = 0) -> FileTensor:
    levels = np.asarray(values, np.int8)
    return FileTensor(levels.shape, levels.dtype, levels, np.full(levels.shape[axis], 0.1, np.float32), axis=axis)


def unpacked(stored: FileTensor, encoded: np.ndarray, ancillary: np.ndarray) -> np.ndarray:
    """Return what the interpreter's DECODE makes of a weight's two parts."""
    runtime = pytest.importorskip(
        "tflite_micro.python.tflite_micro.runtime",
        reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only",
    )
    ends = FileTensor((1, 1, 1, 1), np.dtype(np.int8), None, np.ones(1, np.float32))
    result = FileTensor(stored.shape, stored.dtype, None, stored.scales, axis=stored.axis)
    parts = [FileTensor(part.shape, part.dtype, part) for part in (encoded, ancillary)]
    file = File([ends, *parts, result], [FileOperator(32, 1, (1, 2), 3, None, 0, DECODE)], (0,), (3,))
    interpreter = runtime.Interpreter.from_bytes(pack(file), arena_size=1 << 20)
    interpreter.set_input(np.zeros((1, 1, 1, 1), np.int8), 0)
    interpreter.invoke()
    return interpreter.get_output(0)


def test_one_table_by_hand() -> None:
    # The values are -3, 0, 5, 7: two bits each, 20 bits, the last four of the third byte unused.
    found = lookup(weight(np.array([[5, 5, -3, 0, 5], [7, 7, 7, 7, 0]]).reshape(2, 1, 1, 5)))
    assert found is not None
    assert found.indices.tolist() == [0b10100001, 0b10111111, 0b11010000]
    assert found.tables.tolist() == [0, 1, 0, 0, 1, 0xF2, 0, *[0] * 9, 253, 0, 5, 7]


def test_a_table_for_each_channel_by_hand() -> None:
    # Four values in all, but two in a channel: 10 + 4 bytes, where one table for all would take 20 + 4.
    rows = np.array([[1, 2] * 20, [4, 3] * 20])
    found = lookup(weight(rows.reshape(2, 1, 1, 40)))
    assert found is not None
    assert found.indices.tolist() == [0b01010101] * 5 + [0b10101010] * 5
    assert found.tables.tolist() == [0, 1, 0, 0, 1, 0x01, 2, *[0] * 9, 1, 2, 3, 4]
    found = lookup(weight(rows.T.reshape(1, 1, 40, 2), axis=3))
    assert found is not None
    assert found.indices.tolist() == [0b01100110] * 10  # the channels take turns
    assert found.tables.tolist() == [0, 1, 0, 0, 1, 0x31, 2, *[0] * 9, 1, 2, 3, 4]


def test_too_many_values_are_left_to_others() -> None:
    every = np.arange(129).reshape(1, 1, 1, 129) - 64
    assert lookup(weight(every)) is None
    assert lookup(weight(every[..., :128])) is not None


_SHAPES = (
    ((7, 3, 3, 5), 0),
    ((16, 1, 1, 16), 0),
    ((1, 3, 3, 5), 0),
    ((1, 1, 1, 1), 0),
    ((1, 3, 3, 8), 3),
    ((1, 5, 5, 33), 3),
)


@pytest.mark.parametrize("bits", range(1, 8))
@pytest.mark.parametrize(("shape", "axis"), _SHAPES)
def test_the_interpreter_finds_the_same_weights(bits: int, shape: tuple[int, ...], axis: int) -> None:
    draw = np.random.default_rng(bits)
    values = draw.choice(np.arange(-128, 128), 2**bits, replace=False)
    stored = weight(draw.choice(values, shape), axis)
    found = lookup(stored)
    assert found is not None
    np.testing.assert_array_equal(unpacked(stored, *found), stored.data)


@pytest.mark.parametrize("bits", range(1, 8))
def test_the_interpreter_finds_each_channel_in_its_own_table(bits: int) -> None:
    draw = np.random.default_rng(bits)
    for shape, axis in (((4, 3, 3, 57), 0), ((1, 15, 31, 3), 3)):
        rows = np.moveaxis(np.empty(shape, np.int8), axis, 0)
        filled = [draw.choice(draw.choice(np.arange(-128, 128), 2**bits, replace=False), row.shape) for row in rows]
        stored = weight(np.moveaxis(np.array(filled), 0, axis), axis)
        found = lookup(stored)
        assert found is not None
        assert (found.tables[5] >> 4, found.tables[5] & 7) == (axis, bits)
        np.testing.assert_array_equal(unpacked(stored, *found), stored.data)


def test_the_shortest_form_is_taken() -> None:
    draw = np.random.default_rng(0)
    many = draw.integers(1, 100, (8, 3, 3, 16))
    sparse = np.where(draw.random(many.shape) < 0.1, many, 0)
    assert packed(weight(sparse))[1][0] == 2  # zeros and a bitmap
    few = np.where(draw.random(many.shape) < 0.9, 1 + many % 3, 0)
    encoded, ancillary = packed(weight(few))
    assert ancillary[0] == 0
    assert len(encoded) + len(ancillary) == few.size // 4 + 16 + 4


class Levels(nn.Module):
    """Two convolutions, one by depth, and a matrix, all of weights of 8 levels a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.depth, self.mix = nn.Conv2d(48, 48, 7, 1, 3, groups=48), nn.Conv2d(48, 64, 3)
        self.last = nn.Linear(64, 40)
        draw = torch.Generator().manual_seed(0)
        for layer in (self.depth, self.mix, self.last):
            layer.weight.data = torch.randint(-3, 5, layer.weight.shape, generator=draw) / 16.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.mix(torch.relu(self.depth(x)))).mean((2, 3)))


def test_a_model_of_few_values_is_shorter_and_the_same_to_the_bit() -> None:
    pytest.importorskip("tflite_micro")
    inputs = np.random.default_rng(0).normal(size=(8, 48, 8, 8)).astype(np.float32)
    graph = inference(trace(Levels().eval(), inputs))
    ranges = litert.calibrate(graph, inputs)
    dense, file = litert.write_int8(graph, ranges), tflm.write_sparse(graph, ranges)
    assert len(file) < 0.5 * len(dense)
    kinds = [tensor.data[0] for tensor in read(file).tensors if tensor.data is not None and tensor.dtype == np.uint8]
    assert kinds.count(0) >= 3
    found, arena_bytes = tflm.run(file, inputs)
    np.testing.assert_array_equal(found, tflm.run(dense, inputs)[0])
    weights = {op.weight.name: op.weight.value for op in graph.operations if hasattr(op, "weight")}
    sizes, kept = {n: w.size for n, w in weights.items()}, {n: int(np.count_nonzero(w)) for n, w in weights.items()}
    assert tflm.flash_bytes(len(dense), sizes, kept) > len(file)
    assert tflm.sram_bytes(graph, list(weights)) == pytest.approx(arena_bytes, rel=0.01)
