"""How aten operations with weights or windows are read, and the table of all readers by name."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fedprune.graph.activations import Add, Constant, Multiply, Reduce, Softmax
from fedprune.graph.calls import Call, Read, Step, canonical, plain_shape
from fedprune.graph.moving import Concat, Pad, Permute, Reshape, Slice
from fedprune.graph.operations import (
    AvgPool,
    BatchNorm,
    Conv2d,
    Embedding,
    GlobalMean,
    GroupNorm,
    LayerNorm,
    Linear,
    MatMul,
    MaxPool,
    Operation,
    Pair,
    Parameter,
    Sides,
    TransposedConv2d,
)
from fedprune.graph.reading_moves import MOVES
from fedprune.graph.reading_values import VALUES
from fedprune.graph.rewrites import HIDDEN


def conv(call: Call) -> Operation:
    weight = _spatial(call.weight())
    dilation = _pair(call, "dilation", 1)
    kernel = weight.value.shape[2:]
    padding = call.arguments["padding"]
    if isinstance(padding, str):
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        sides = ((total[0] // 2, total[0] - total[0] // 2), (total[1] // 2, total[1] - total[1] // 2))
    else:
        sides = _sides(_pair(call, "padding", 0))
    groups = int(call.arguments["groups"])
    stride = _pair(call, "stride", 1)
    source = call.tensor("input")
    return Conv2d((source,), call.output, weight, call.parameter("bias"), stride, sides, dilation, groups)


def _spatial(weight: Parameter) -> Parameter:
    return Parameter(weight.name, weight.value[:, :, None, :]) if weight.value.ndim == 3 else weight


def transposed_conv(call: Call) -> Operation:
    if call.arguments["groups"] != 1 or set(_pair(call, "dilation", 1)) != {1}:
        raise call.unsupported("has groups or a dilation")
    (top, left), (bottom, right) = _pair(call, "padding", 0), _pair(call, "output_padding", 0)
    sides = ((top, top - bottom), (left, left - right))
    stride, source = _pair(call, "stride", 1), call.tensor("input")
    return TransposedConv2d((source,), call.output, _spatial(call.weight()), call.parameter("bias"), stride, sides)


def linear(call: Call) -> Operation:
    return Linear((call.tensor("input"),), call.output, call.weight(), call.parameter("bias"))


def matmul(call: Call) -> tuple[Step, ...]:
    """A product of two activations over all but their last two axes, or of an activation and a matrix."""
    a, b = call.arguments["self"], call.arguments.get("other", call.arguments.get("mat2"))
    known = call.constant(b)
    if known is not None and known.value.ndim == 2:
        return (Linear((call.named(a),), call.output, Parameter(known.name, known.value.T.copy()), None),)
    shapes = plain_shape(a), plain_shape(b)
    if len(shapes[0]) != len(shapes[1]) or len(shapes[0]) < 2 or shapes[0][:-2] != shapes[1][:-2]:
        raise call.unsupported(f"of shapes {shapes[0]} and {shapes[1]} is not covered")
    return _product(call, call.named(a), call.named(b), *shapes, call.output)


def _product(
    call: Call, a: str, b: str, first: tuple[int, ...], second: tuple[int, ...], output: str
) -> tuple[Step, ...]:
    batch = int(np.prod(first[:-2]))
    wanted = [(1, batch, *shape[-2:]) for shape in (first, second)]
    steps, names = list[Step](), list[str]()
    for name, shape, side in zip((a, b), wanted, ("a", "b"), strict=True):
        if call.shapes.get(name) == shape:
            names.append(name)
        else:
            names.append(f"{output}.{side}")
            steps.append((Reshape((name,), names[-1]), shape))
    result = (1, batch, first[-2], second[-1])
    if canonical((*first[:-1], second[-1])) == result:
        return (*steps, (MatMul((names[0], names[1]), output), result))
    product = f"{output}.product"
    return (
        *steps,
        (MatMul((names[0], names[1]), product), result),
        (Reshape((product,), output), canonical((*first[:-1], second[-1]))),
    )


def attention(call: Call) -> tuple[Step, ...]:
    """softmax(q k^T / sqrt(d) + mask) v."""
    q, k, v = (call.arguments[key] for key in ("query", "key", "value"))
    shapes = [plain_shape(node) for node in (q, k, v)]
    if any(len(shape) != 4 or shape[:-2] != shapes[0][:-2] for shape in shapes):
        raise call.unsupported(f"of shapes {shapes} is not covered; (batch, heads, positions, values) is")
    scale = call.arguments.get("scale")
    scale = float(shapes[0][-1] ** -0.5 if scale is None else scale)
    names = {
        part: f"{call.output}.{part}" for part in ("factor", "query", "turned", "scores", "mask", "seen", "chances")
    }
    rows, columns = shapes[0][-2], shapes[1][-2]
    scores = (*shapes[0][:-1], columns)
    number = Parameter(names["factor"], np.full((1, 1, 1, 1), scale, np.float32))
    steps: list[Step] = [
        (Constant((), names["factor"], number), (1, 1, 1, 1)),
        (Multiply((call.named(q), names["factor"]), names["query"]), shapes[0]),
        (Permute((call.named(k),), names["turned"], (0, 1, 3, 2)), (*shapes[1][:-2], shapes[1][-1], columns)),
        (MatMul((names["query"], names["turned"]), names["scores"]), scores),
    ]
    seen = names["scores"]
    mask = _mask(call, rows, columns)
    if mask is not None:
        constant = Parameter(names["mask"], mask)
        steps += [
            (Constant((), names["mask"], constant), mask.shape),
            (Add((seen, names["mask"]), names["seen"]), scores),
        ]
        seen = names["seen"]
    return (
        *steps,
        (Softmax((seen,), names["chances"], 3), scores),
        MatMul((names["chances"], call.named(v)), call.output),
    )


def _mask(call: Call, rows: int, columns: int) -> Any:
    given = call.arguments.get("attn_mask")
    if call.arguments.get("is_causal"):
        mask = np.where(np.tril(np.ones((rows, columns), np.bool_)), 0.0, -np.inf)
    elif given is None:
        return None
    else:
        if given.name not in call.constants:
            raise call.unsupported("has a mask that depends on the input")
        value = call.constants[given.name][1].detach().cpu().numpy()
        mask = np.where(value, 0.0, -np.inf) if value.dtype == np.bool_ else value
    return np.maximum(mask, HIDDEN).astype(np.float32).reshape((1,) * (4 - mask.ndim) + mask.shape)


def embedding(call: Call) -> Operation:
    return Embedding((call.tensor("indices"),), call.output, call.weight())


def batch_norm(call: Call) -> Operation:
    if call.arguments["running_mean"] is None or call.arguments.get("training"):
        raise call.unsupported("has no running statistics, so its output depends on the batch")
    weight, bias = call.parameter("weight"), call.parameter("bias")
    mean, variance = call.weight("running_mean"), call.weight("running_var")
    return BatchNorm(
        (call.first(),),
        call.output,
        weight,
        bias,
        mean,
        variance,
        float(call.arguments["eps"]),
        float(call.arguments["momentum"]),
    )


def group_norm(call: Call) -> Operation:
    weight, bias = call.parameter("weight"), call.parameter("bias")
    groups = int(call.arguments["num_groups"])
    return GroupNorm((call.first(),), call.output, groups, weight, bias, float(call.arguments["eps"]))


def instance_norm(call: Call) -> Operation:
    if not call.arguments["use_input_stats"]:
        return batch_norm(call)
    weight, bias, source = call.parameter("weight"), call.parameter("bias"), call.first()
    groups = call.shapes[source][1]
    return GroupNorm((source,), call.output, groups, weight, bias, float(call.arguments["eps"]))


def layer_norm(call: Call) -> Operation:
    count = len(call.arguments["normalized_shape"])
    rank = len(call.shape)
    axes = tuple(range(rank - count - (call.rank == 3 and count == 2), rank))
    shape = tuple(call.shape[axis] for axis in axes)
    weight, bias = (
        found if found is None else replace(found, value=found.value.reshape(shape))
        for found in (call.parameter("weight"), call.parameter("bias"))
    )
    return LayerNorm((call.first(),), call.output, axes, weight, bias, float(call.arguments["eps"]))


def max_pool(call: Call) -> Operation:
    kernel = _pair(call, "kernel_size", 1)
    if _pair(call, "dilation", 1) != (1, 1):
        raise call.unsupported("is dilated")
    stride = _pair(call, "stride", 1) if call.arguments["stride"] else kernel
    source = call.tensor("self")
    sides = _sides(_pair(call, "padding", 0))
    if call.arguments["ceil_mode"]:
        sides = _reach(call, kernel, stride, sides)
    return MaxPool((source,), call.output, kernel, stride, sides)


def avg_pool(call: Call) -> tuple[Operation, ...]:
    kernel = _pair(call, "kernel_size", 1)
    stride = _pair(call, "stride", 1) if call.arguments["stride"] else kernel
    source = call.tensor("self")
    rows, columns = _sides(_pair(call, "padding", 0))
    if _reach(call, kernel, stride, (rows, columns)) != (rows, columns) and call.arguments["ceil_mode"]:
        raise call.unsupported("averages windows that leave the map (ceil_mode)")
    if call.arguments.get("divisor_override") is not None:
        raise call.unsupported("has its own divisor")
    if rows == columns == (0, 0):
        return (AvgPool((source,), call.output, kernel, stride),)
    if not call.arguments["count_include_pad"]:
        raise call.unsupported("is padded and does not count the padding")
    padded = f"{call.output}.padded"
    pad = Pad((source,), padded, ((0, 0), (0, 0), rows, columns))
    return (pad, AvgPool((padded,), call.output, kernel, stride))


def adaptive_avg_pool(call: Call) -> Operation | tuple[Step, ...] | str:
    source = call.tensor("self")
    before, after = call.shapes[source][2:], call.shape[2:]
    if before == after:
        return source
    if after == (1, 1):
        return GlobalMean((source,), call.output)
    if not any(size % out for size, out in zip(before, after, strict=True)):
        kernel = (before[0] // after[0], before[1] // after[1])
        return AvgPool((source,), call.output, kernel, kernel)
    steps = list[Step]()
    for axis in (2, 3):  # the mean of a window is the mean over its rows of means over its columns
        size, out = call.shapes[call.tensor("self")][axis], call.shape[axis]
        if size == out:
            continue
        means = []
        for place in range(out):
            start, stop = place * size // out, -(-(place + 1) * size // out)
            part, result = f"{call.output}.part{axis}.{place}", f"{call.output}.mean{axis}.{place}"
            steps += [Slice((source,), part, axis, start, stop, 1), Reduce((part,), result, "mean", (axis,))]
            means.append(result)
        source = f"{call.output}.means{axis}"
        steps.append(Concat(tuple(means), source, axis))
    *others, last = steps
    assert isinstance(last, Operation)
    return (*others, replace(last, output=call.output))


def _pair(call: Call, key: str, of_height: int) -> Pair:
    # A one-dimensional map has one row: kernel 1, stride 1, no padding there.
    given: Any = call.arguments[key]
    values = [given] if isinstance(given, int) else list(given)
    if call.rank == 3:
        return (of_height, int(values[0]))
    return (int(values[0]), int(values[-1]))


def _sides(padding: Pair) -> Sides:
    return ((padding[0], padding[0]), (padding[1], padding[1]))


def _reach(call: Call, kernel: Pair, stride: Pair, sides: Sides) -> Sides:
    # With ceil_mode the last window may leave the map: pad as far as it reaches.
    sizes = call.shapes[call.tensor("self")][2:]
    reach = []
    for size, out, k, s, (before, after) in zip(sizes, call.shape[2:], kernel, stride, sides, strict=True):
        reach.append((before, max(after, (out - 1) * s + k - size - before)))
    return (reach[0], reach[1])


READERS: Mapping[str, Read] = {
    **dict.fromkeys(("conv1d", "conv2d"), conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d"), transposed_conv),
    "linear": linear,
    **dict.fromkeys(("matmul", "bmm", "mm"), matmul),
    "scaled_dot_product_attention": attention,
    "embedding": embedding,
    "batch_norm": batch_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "layer_norm": layer_norm,
    **dict.fromkeys(("max_pool1d", "max_pool2d"), max_pool),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d"), avg_pool),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d"), adaptive_avg_pool),
    **VALUES,
    **MOVES,
}
