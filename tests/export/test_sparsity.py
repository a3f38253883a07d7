"""Float files without their zeros compute what the dense ones do, in fewer bytes, for the nets that gain by it."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import nn

from fedprune import models
from fedprune.export import litert
from fedprune.export.litert import aarch64 as emulated
from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor, pack
from fedprune.export.litert.numbers import Floats
from fedprune.export.litert.rules import lower
from fedprune.export.litert.sparsity import by_rows
from fedprune.graph import Graph, inference, trace

FLOAT = np.dtype(np.float32)


class Inverted(nn.Module):
    """Widen by 1x1, look around, narrow by 1x1; what came in is added where it fits. Padded as torch does."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = 6 * inputs
        self.adds = inputs == outputs and stride == 1
        self.body = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner, bias=False),
            nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.adds else self.body(x)


def inverted(stem: nn.Module | None = None, *middle: nn.Module) -> nn.Sequential:
    first = nn.Conv2d(3, 8, 3, 2, 1) if stem is None else stem
    blocks = (Inverted(8, 8, 3, 1), Inverted(8, 12, 5, 2), Inverted(12, 12, 5, 1), Inverted(12, 16, 3, 2))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10), nn.Softmax(1))
    return nn.Sequential(first, nn.ReLU6(), *blocks, *middle, *head)


def mobilenet(size: int) -> nn.Module:
    return models.build("mobilenet", (3, size, size), 10)


def masked(model: nn.Module, shape: tuple[int, ...], density: float) -> tuple[Graph, np.ndarray]:
    torch.manual_seed(0)
    inputs = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
                flat = layer.weight.view(-1)
                flat[torch.randperm(flat.numel())[round(density * flat.numel()) :]] = 0
        model(torch.from_numpy(inputs))
    return inference(trace(model.eval(), inputs[:1])), inputs


def dense(graph: Graph) -> bytes:
    return pack(lower(graph, Floats()))


def operators(file: bytes) -> list[tuple[str, schema.OperatorT]]:
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    model = schema.ModelT.InitFromPackedBuf(file)
    return [(names[model.operatorCodes[op.opcodeIndex].builtinCode], op) for op in model.subgraphs[0].operators]


CASES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    # Even sizes in torch's padding, odd ones in TensorFlow's: a row less at the end, or none.
    "torch": (inverted, 32),
    "TensorFlow, odd": (lambda: mobilenet(33), 33),
    # Even sizes in TensorFlow's padding: a row less in front, and the image is mirrored. 48 becomes 3, which is odd.
    "TensorFlow, even": (lambda: mobilenet(48), 48),
}


@cache
def case(name: str, density: float) -> tuple[Graph, np.ndarray]:
    make, size = CASES[name]
    return masked(make(), (3, size, size), density)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("density", [0.3, 0.05])
def test_the_same_outputs_from_fewer_bytes(name: str, density: float) -> None:
    graph, inputs = case(name, density)
    before, after = dense(graph), litert.write_float(graph)
    for reference in (True, False):
        wanted = litert.run(before, inputs, reference=reference)
        found = litert.run(after, inputs, reference=reference)
        if reference and "REVERSE_V2" not in dict(operators(after)):
            np.testing.assert_array_equal(found, wanted)
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        assert np.ptp(wanted, axis=0).max() > 1e-3  # the net looks at its input
    assert ("REVERSE_V2" in dict(operators(after))) == (name == "TensorFlow, even")
    # A float and a place of one byte are left of each weight, and where its row begins of each output channel.
    weights = [op.weight.value for op in graph.operations if op.output and hasattr(op, "weight")]
    stored = [weight for weight in weights if weight.shape[2:] in ((), (1, 1)) and weight.size > 200]
    gains = [4 * weight.size - 5 * np.count_nonzero(weight) - 2 * (len(weight) + 1) for weight in stored]
    gain = sum(gain for gain in gains if gain > 200)
    assert gain - 200 * len(gains) - 1500 < len(before) - len(after) < gain


@pytest.mark.parametrize("name", CASES)
def test_what_xnnpack_asks_for(name: str) -> None:
    graph, _ = case(name, 0.05)
    found = operators(litert.write_float(graph))
    made = {op.outputs[0]: kind for kind, op in found}
    for kind, op in found:
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D") and op.builtinOptions.strideH == 2:
            assert op.builtinOptions.padding == schema.Padding.VALID
            assert made[op.inputs[0]] == "PAD"
        # Without a vector in between, the classifier joins the body on aarch64 and its result is noise.
        assert kind == "RESHAPE" or "MEAN" not in [made.get(index) for index in op.inputs]
    assert sum(kind == "DENSIFY" for kind, _ in found) > 5


def test_nets_without_enough_zeros_are_left_alone() -> None:
    def net(zeros: int) -> Graph:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 30, 3, 2, 1), nn.Conv2d(30, 50, 1), nn.AdaptiveAvgPool2d(1))
        with torch.no_grad():
            model[1].weight.view(-1)[:zeros] = 0
        return inference(trace(model.eval(), np.zeros((1, 3, 16, 16), np.float32)))

    assert litert.write_float(net(1000)) == dense(net(1000))  # two thirds
    assert len(litert.write_float(net(1001))) < len(dense(net(1001)))
    assert litert.write_float(net(0)) == dense(net(0))


def test_a_file_that_would_be_longer_stays_dense() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1))
    graph, _ = masked(model, (3, 16, 16), 0.1)
    assert litert.write_float(graph) == dense(graph)


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "first stride 1": lambda: inverted(nn.Conv2d(3, 8, 3, 1, 1)),
    "first 5x5": lambda: inverted(nn.Conv2d(3, 8, 5, 2, 2)),
    "first unpadded": lambda: inverted(nn.Conv2d(3, 8, 3, 2)),
    "padded at both ends in turn": lambda: inverted(nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, 2))),
    "max pool": lambda: inverted(None, nn.MaxPool2d(2)),
    "3x3 over all channels": lambda: inverted(None, nn.Conv2d(16, 16, 3, 1, 1)),
    "dilated": lambda: inverted(None, nn.Conv2d(16, 16, 3, 1, 2, 2, groups=16)),
    "grouped 1x1": lambda: inverted(None, nn.Conv2d(16, 16, 1, groups=4)),
    "no mean": lambda: nn.Sequential(inverted()[:6], nn.Flatten(), nn.Linear(256, 10)),
    "two channels": lambda: inverted(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 8, 3, 2, 1))),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_nets_are_left_alone(name: str) -> None:
    graph, inputs = masked(OTHERS[name](), (3, 32, 32), 0.1)
    assert litert.write_float(graph) == dense(graph)
    assert np.isfinite(litert.run(dense(graph), inputs)).all()


def stored(values: list[list[float]]) -> tuple[schema.SparsityParametersT, list[float], FileTensor]:
    """Return what a file says of a weight of 1x1 convolutions, its values, and what DENSIFY makes of it."""
    weight = np.array(values, np.float32)[:, None, None, :]
    tensor = by_rows(FileTensor(weight.shape, FLOAT, weight))
    unpack = FileOperator(schema.BuiltinOperator.DENSIFY, 1, (0,), 1, None, 0)
    add = FileOperator(schema.BuiltinOperator.ADD, 1, (1, 2), 3, schema.AddOptionsT(), schema.BuiltinOptions.AddOptions)
    plain = FileTensor(weight.shape, FLOAT)
    file = pack(File([tensor, plain, plain, plain], [unpack, add], (2,), (3,)))
    parsed = schema.ModelT.InitFromPackedBuf(file)
    found = parsed.subgraphs[0].tensors[0]
    data = np.asarray(parsed.buffers[found.buffer].data, np.uint8).view(np.float32).tolist()
    zeros = np.zeros((1, weight.shape[3], len(weight), 1), np.float32)
    if weight.shape[0] == 1:
        np.testing.assert_array_equal(litert.run(file, zeros, reference=True).ravel(), weight.ravel())
    return found.sparsity, data, tensor


def test_rows_by_hand() -> None:
    sparsity, data, _ = stored([[0, 5, 0, 0], [0, 0, 0, 0], [1, 0, 0, -2]])
    assert sparsity.traversalOrder.tolist() == [0, 1, 2, 3]
    assert sparsity.blockMap is None
    kinds = schema.DimensionType
    assert [each.format for each in sparsity.dimMetadata] == [kinds.DENSE, kinds.DENSE, kinds.DENSE, kinds.SPARSE_CSR]
    assert [each.denseSize for each in sparsity.dimMetadata] == [3, 1, 1, 0]
    last = sparsity.dimMetadata[-1]
    assert last.arraySegmentsType == last.arrayIndicesType == schema.SparseIndexVector.Uint8Vector
    assert last.arraySegments.values.tolist() == [0, 1, 1, 3]
    assert last.arrayIndices.values.tolist() == [1, 0, 3]
    assert data == [5, 1, -2]


def test_places_take_the_narrowest_type() -> None:
    row = [0.0] * 300
    row[299] = 7
    last = stored([row])[0].dimMetadata[-1]
    assert last.arraySegmentsType == schema.SparseIndexVector.Uint8Vector
    assert last.arrayIndicesType == schema.SparseIndexVector.Uint16Vector
    assert last.arrayIndices.values.tolist() == [299]
    many = stored([[1.0] * 300] * 219)[0].dimMetadata[-1]  # 65,700 values
    assert many.arraySegmentsType == schema.SparseIndexVector.Int32Vector
    assert many.arraySegments.values[-1] == 65_700


def test_a_weight_of_zeros_keeps_one() -> None:
    sparsity, data, tensor = stored([[0.0] * 5])
    assert data == [0]
    assert sparsity.dimMetadata[-1].arraySegments.values.tolist() == [0, 1]
    assert tensor.sparsity is not None
    assert tensor.sparsity.nbytes == 3


def test_the_same_outputs_on_aarch64() -> None:
    if not emulated.root().is_dir() or emulated.missing():
        pytest.skip("no emulated aarch64: python -m simulations.benchmarks.phones makes it")
    files: list[bytes] = []
    for name in ("torch", "TensorFlow, even"):
        graph, _ = case(name, 0.05)
        files += [dense(graph), litert.write_float(graph)]
    found = [each.output for each in emulated.emulated(files, runs=1)]
    for wanted, sparse in zip(found[::2], found[1::2], strict=True):
        np.testing.assert_allclose(sparse, wanted, atol=1e-4)
