"""A .tflite that somebody brings: inspected, and made into C as ``fedprune export FILE --to microcontroller`` does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from simulations.benchmarks.fuzzing.target import Target

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fedprune.types import FloatTensor


@cache
def seeds() -> Sequence[bytes]:
    """Small int8 files that between them hold every operator there is a kernel for; one has packed weights."""
    import torch

    from fedprune.export import litert, tflm
    from fedprune.graph import inference, trace

    torch.manual_seed(0)
    found = []
    for net, shape in ((_plain(), (3, 8, 8)), (_gated(), (4, 8, 8)), (_signal(), (3, 24))):
        inputs = torch.randn(8, *shape)
        with torch.no_grad():
            for weight in net.parameters():
                if weight.ndim > 1:
                    weight *= torch.rand(weight.shape) < 0.4
        graph = inference(trace(net.eval(), inputs[:1]))
        ranges = litert.calibrate(graph, inputs.numpy())
        found += [litert.write_int8(graph, ranges), tflm.write_sparse(graph, ranges)]
    return tuple(dict.fromkeys([*found, by_hand()]))


def run(content: bytes) -> None:
    """Inspect a file, make its C sources and its card, and run it in the interpreter's process where that goes well."""
    from fedprune.export.chip import foreign
    from fedprune.export.inspection.file import inspect

    inspect(content)
    with np.errstate(divide="raise", over="raise", invalid="raise"):  # each would be a warning on the screen
        foreign.files(content, "fuzzed")


def _plain() -> nn.Module:
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.ReLU6(), nn.Conv2d(8, 24, 3),
        nn.Flatten(), nn.Linear(96, 4), nn.Softmax(1),
    )  # fmt: skip


def _gated() -> nn.Module:
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.gate, self.last = nn.Conv2d(4, 8, 3, 1, 1), nn.Conv2d(8, 8, 1), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.hardswish(self.stem(x))
            x = x * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(x, 1)))
            left, right = torch.chunk(x, 2, 1)
            x = torch.cat([left + torch.tanh(right), F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1)], 1)
            return self.last(F.avg_pool2d(x, 2)[:, :, ::2, ::2].mean((2, 3)))

    return Gated()


def _signal() -> nn.Module:
    from torch import nn

    return nn.Sequential(
        nn.Conv1d(3, 6, 5), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(6, 6, 3), nn.Flatten(), nn.Linear(48, 5)
    )


def by_hand() -> bytes:
    """What others' files hold and the library's own do not: a linear layer, padding, moves of axes, names."""
    from ai_edge_litert import schema_py_generated as schema

    from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor, pack

    int8, grid, code, kind = (
        np.dtype(np.int8),
        np.array([0.05], np.float32),
        schema.BuiltinOperator,
        schema.BuiltinOptions,
    )

    def activation(*shape: int, scales: FloatTensor = grid, zero_point: int = 3) -> FileTensor:
        return FileTensor(shape, int8, None, scales, zero_point, name="/".join(map(str, shape)))

    def numbers(values: list[int]) -> FileTensor:
        return FileTensor((len(values),), np.dtype(np.int32), np.array(values, np.int32))

    weight = np.random.default_rng(0).integers(-127, 128, (5, 48)).astype(np.int8)
    tensors = [
        activation(1, 2, 3, 4), activation(1, 2, 3, 4, scales=grid * 2), activation(1, 2, 3, 4, scales=grid * 2),
        FileTensor((4, 2), np.dtype(np.int32), np.array([[0, 0], [1, 1], [0, 0], [0, 0]], np.int32)),
        FileTensor((1,), int8, np.array([7], np.int8), grid * 2, 3), activation(1, 4, 3, 4, scales=grid * 2),
        numbers([1, 48]), activation(1, 48, scales=grid * 2),
        FileTensor((5, 48), int8, weight, grid / 10),
        FileTensor((5,), np.dtype(np.int32), weight[:, 0] * np.int32(9), grid / 100),
        activation(1, 5, scales=grid * 4), numbers([1]), activation(1, 1, 5, scales=grid * 4),
        activation(1, 5, scales=grid * 4), activation(1, 5, scales=np.array([1 / 256], np.float32), zero_point=-128),
    ]  # fmt: skip
    operators = [
        FileOperator(code.QUANTIZE, 2, (0,), 1, None, 0),
        FileOperator(code.LEAKY_RELU, 2, (1,), 2, schema.LeakyReluOptionsT(alpha=0.1), kind.LeakyReluOptions),
        FileOperator(code.PADV2, 2, (2, 3, 4), 5, None, 0),
        FileOperator(code.RESHAPE, 1, (5, 6), 7, None, 0),
        FileOperator(
            code.FULLY_CONNECTED, 4, (7, 8, 9), 10, schema.FullyConnectedOptionsT(), kind.FullyConnectedOptions
        ),
        FileOperator(code.EXPAND_DIMS, 1, (10, 11), 12, None, 0),
        FileOperator(code.SQUEEZE, 1, (12,), 13, schema.SqueezeOptionsT(squeezeDims=[1]), kind.SqueezeOptions),
        FileOperator(code.SOFTMAX, 3, (13,), 14, schema.SoftmaxOptionsT(beta=1.0), kind.SoftmaxOptions),
    ]
    return pack(File(tensors, operators, (0,), (14,)))


def _documented() -> tuple[type[Exception], ...]:
    from fedprune.export.litert.reader import ModelError

    return (ModelError, RuntimeError)


TARGETS: dict[str, Target] = {"tflite": Target(seeds, run, _documented())}
