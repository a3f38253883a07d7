"""How each aten operation is read into typed ones: a reader a call, and the table of them by name."""

from collections.abc import Mapping
from math import inf
from typing import Any

from fedprune.graph.activations import Add, Clip, HardSwish, Multiply, Sigmoid, Softmax, Tanh
from fedprune.graph.calls import Call, Read
from fedprune.graph.moving import Concat, Pad, Reshape, Slice
from fedprune.graph.operations import (
    RELU,
    RELU6,
    AvgPool,
    BatchNorm,
    Bounds,
    Conv2d,
    GlobalMean,
    Linear,
    MaxPool,
    Operation,
    Pair,
    Parameter,
    Sides,
)


def conv(call: Call) -> Operation:
    weight = call.weight()
    if weight.value.ndim == 3:
        weight = Parameter(weight.name, weight.value[:, :, None, :])
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


def linear(call: Call) -> Operation:
    source = call.tensor("input")
    if len(call.shapes[source]) != 2:
        raise call.unsupported(f"reads a tensor of shape {call.shapes[source]}; a Linear reads (batch, features)")
    return Linear((source,), call.output, call.weight(), call.parameter("bias"))


def batch_norm(call: Call) -> Operation:
    if call.arguments["running_mean"] is None or call.arguments["training"]:
        raise call.unsupported("has no running statistics, so its output depends on the batch")
    weight, bias = call.parameter("weight"), call.parameter("bias")
    mean, variance = call.weight("running_mean"), call.weight("running_var")
    return BatchNorm((call.tensor("input"),), call.output, weight, bias, mean, variance, float(call.arguments["eps"]))


def clip(call: Call) -> Operation:
    fixed = {"relu": RELU, "relu6": RELU6}
    low, high = (call.arguments.get(names[0], call.arguments.get(names[1])) for names in _ENDS)
    bounds = fixed.get(call.name) or Bounds(-inf if low is None else float(low), inf if high is None else float(high))
    if bounds not in (RELU, RELU6):
        raise call.unsupported(f"clips to {tuple(bounds)}; only ReLU and ReLU6 are covered")
    return Clip((_first(call),), call.output, bounds)


_ENDS = (("min_val", "min"), ("max_val", "max"))


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


def adaptive_avg_pool(call: Call) -> Operation | str:
    source = call.tensor("self")
    before, after = call.shapes[source][2:], call.shape[2:]
    if before == after:
        return source
    if after == (1, 1):
        return GlobalMean((source,), call.output)
    if any(size % out for size, out in zip(before, after, strict=True)):
        raise call.unsupported(f"from {before} to {after} has windows of unequal size")
    kernel = (before[0] // after[0], before[1] // after[1])
    return AvgPool((source,), call.output, kernel, kernel)


def mean(call: Call) -> Operation:
    axes = sorted(axis % call.rank for axis in call.arguments["dim"] or range(call.rank))
    source = call.tensor("self")
    if len(call.shapes[source]) != 4 or axes != list(range(2, call.rank)):
        raise call.unsupported(f"is over axes {axes} of shape {call.shapes[source]}; only all spatial axes are covered")
    return GlobalMean((source,), call.output)


def add(call: Call) -> Operation:
    first, second = call.tensor("self"), call.tensor("other")
    if call.arguments["alpha"] != 1 or call.shapes[first] != call.shapes[second]:
        raise call.unsupported(f"of shapes {call.shapes[first]} and {call.shapes[second]} is not a plain sum")
    return Add((first, second), call.output)


def multiply(call: Call) -> Operation:
    first, second = call.tensor("self"), call.tensor("other")
    if len(call.shapes[first]) != len(call.shapes[second]):
        raise call.unsupported(f"of shapes {call.shapes[first]} and {call.shapes[second]} is not covered")
    return Multiply((first, second), call.output)


def silu(call: Call) -> tuple[Operation, ...]:
    source, gate = _first(call), f"{call.output}.gate"
    return (Sigmoid((source,), gate), Multiply((source, gate), call.output))


def concat(call: Call) -> Operation:
    sources = tuple(call.named(node) for node in call.arguments["tensors"])
    return Concat(sources, call.output, _axis(call, call.arguments["dim"], call.rank))


def pad(call: Call) -> Operation:
    if call.arguments.get("mode", "constant") != "constant" or call.arguments.get("value"):
        raise call.unsupported("does not pad with zeros")
    flat = list(call.arguments["pad"])
    if min(flat) < 0:
        raise call.unsupported("crops")
    axes = [(0, 0)] * len(call.shape)
    for position in range(len(flat) // 2):  # torch counts from the last axis
        axes[_axis(call, call.rank - 1 - position, call.rank)] = (flat[2 * position], flat[2 * position + 1])
    return Pad((call.tensor("self"),), call.output, tuple(axes))


def slice_(call: Call) -> Operation | str:
    source = call.tensor("self")
    axis = _axis(call, call.arguments["dim"], call.rank)
    start, stop, step = slice(*(call.arguments[key] for key in ("start", "end", "step"))).indices(
        call.shapes[source][axis]
    )
    return source if call.shapes[source] == call.shape else Slice((source,), call.output, axis, start, stop, step)


def piece(call: Call) -> Operation:
    """One result of ``chunk`` or ``split``: the slice that it is."""
    parent = call.arguments["source"]
    if getattr(parent.target, "_schema", None) is None or parent.target._schema.name not in _SPLITS:
        raise call.unsupported(f"takes a part of {parent.target}")
    source = call.named(parent.args[0])
    plain = parent.args[2] if len(parent.args) > 2 else parent.kwargs.get("dim", 0)
    rank = len(parent.args[0].meta["val"].shape)
    sizes = [part.shape[plain] for part in parent.meta["val"]]
    start = sum(sizes[: call.arguments["index"]])
    axis = _axis(call, plain, rank)
    return Slice((source,), call.output, axis, start, start + sizes[call.arguments["index"]], 1)


_SPLITS = ("aten::chunk", "aten::split", "aten::split_with_sizes")


def reshape(call: Call) -> Operation | str:
    source = _first(call)
    if call.shapes[source] == call.shape:
        return source
    if call.shape[0] != 1 or len(call.shape) not in (2, 4):
        raise call.unsupported(f"makes a tensor of shape {call.shape}")
    return Reshape((source,), call.output)


def softmax(call: Call) -> Operation:
    if len(call.shape) != 2:
        raise call.unsupported(f"is over a map of shape {call.shape}")
    return Softmax((call.tensor("self"),), call.output)


def unary(kind: type[Operation]) -> Read:
    return lambda call: kind((_first(call),), call.output)


def unchanged(call: Call) -> str:
    return _first(call)


def _first(call: Call) -> str:
    return call.named(next(iter(call.arguments.values())))


def _pair(call: Call, key: str, of_height: int) -> Pair:
    # A one-dimensional map has one row: kernel 1, stride 1, no padding there.
    given: Any = call.arguments[key]
    values = [given] if isinstance(given, int) else list(given)
    if call.rank == 3:
        return (of_height, int(values[0]))
    return (int(values[0]), int(values[-1]))


def _sides(padding: Pair) -> Sides:
    return ((padding[0], padding[0]), (padding[1], padding[1]))


def _axis(call: Call, axis: int, rank: int) -> int:
    plain = axis % rank
    return 3 if rank == 3 and plain == 2 else plain


def _reach(call: Call, kernel: Pair, stride: Pair, sides: Sides) -> Sides:
    # With ceil_mode the last window may leave the map: pad as far as it reaches.
    sizes = call.shapes[call.tensor("self")][2:]
    reach = []
    for size, out, k, s, (before, after) in zip(sizes, call.shape[2:], kernel, stride, sides, strict=True):
        reach.append((before, max(after, (out - 1) * s + k - size - before)))
    return (reach[0], reach[1])


READERS: Mapping[str, Read] = {
    **dict.fromkeys(("conv1d", "conv2d"), conv),
    "linear": linear,
    "batch_norm": batch_norm,
    **dict.fromkeys(("relu", "relu6", "hardtanh", "clamp", "clamp_min"), clip),
    **dict.fromkeys(("max_pool1d", "max_pool2d"), max_pool),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d"), avg_pool),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d"), adaptive_avg_pool),
    "mean": mean,
    "add": add,
    "mul": multiply,
    "silu": silu,
    **dict.fromkeys(("cat", "concat", "concatenate"), concat),
    **dict.fromkeys(("pad", "constant_pad_nd"), pad),
    "slice": slice_,
    "getitem": piece,
    **dict.fromkeys(("reshape", "view", "_unsafe_view", "flatten", "squeeze", "unsqueeze", "unflatten"), reshape),
    "softmax": softmax,
    "sigmoid": unary(Sigmoid),
    "tanh": unary(Tanh),
    "hardswish": unary(HardSwish),
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "alias"), unchanged),
    **dict.fromkeys(("detach", "identity", "lift_fresh_copy", "to", "_to_copy"), unchanged),
}
