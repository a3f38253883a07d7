"""Small .tflite files: by hand, from nets with every operation, and changed in any field."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from export_nets import made
from torch import nn

from fedprune.export import litert, tflm
from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor, pack
from fedprune.graph import inference, trace


def written(model: nn.Module, inputs: np.ndarray) -> tuple[bytes, bytes, bytes]:
    """Return the model as int8, as floats, and as int8 with a fifth of its weights behind DECODE."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight *= torch.rand(weight.shape) < 0.2
    graph = inference(trace(model.eval(), inputs[:1]))
    ranges = litert.calibrate(graph, inputs)
    return litert.write_int8(graph, ranges), litert.write_float(graph), tflm.write_sparse(graph, ranges)


@cache
def small(kind: type[nn.Module]) -> tuple[bytes, bytes, bytes]:
    model, inputs = made(kind)
    return written(model, inputs.numpy())


def net() -> File:
    """A convolution of 2x2 positions without a bias, then RELU; every field that a file has is set."""
    weight = np.arange(-6, 6).reshape(3, 2, 2, 1)
    scales = np.array([0.5, 0.25, 0.125], np.float32)
    tensors = [
        FileTensor((1, 3, 3, 1), np.dtype(np.int8), None, np.array([0.5], np.float32), -3, 0, "in"),
        FileTensor(weight.shape, np.dtype(np.int8), weight.astype(np.int8), scales, 0, 0, "weight"),
        FileTensor((1, 2, 2, 3), np.dtype(np.int8), None, np.array([0.75], np.float32), 4, 0, "between"),
        FileTensor((1, 2, 2, 3), np.dtype(np.int8), None, np.array([0.75], np.float32), 4, 0, "out"),
    ]
    options = schema.Conv2DOptionsT(padding=schema.Padding.VALID, strideH=1, strideW=1)
    kinds, builtin = schema.BuiltinOptions, schema.BuiltinOperator
    operators = [
        FileOperator(builtin.CONV_2D, 3, (0, 1, -1), 2, options, kinds.Conv2DOptions),
        FileOperator(builtin.RELU, 2, (2,), 3, None, 0),
    ]
    return File(tensors, operators, (0,), (3,))


def changed(change: Callable[[Any], None], file: File | None = None) -> bytes:
    """Return the bytes of the net, its model changed as the schema's objects."""
    import flatbuffers

    model = schema.ModelT.InitFromPackedBuf(pack(file or net()))
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def on_tensor(index: int, **values: Any) -> Callable[[Any], None]:
    return lambda model: vars(model.subgraphs[0].tensors[index]).update(values)
