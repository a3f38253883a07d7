"""How aten operations that only move values are read: views, slices, permutations, shuffles, resizing."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fedprune.graph.activations import Add, Constant, Reduce
from fedprune.graph.calls import Call, Read, Step, canonical, canonical_axis, plain_shape
from fedprune.graph.moving import Concat, Pad, Permute, PixelShuffle, PixelUnshuffle, Reshape, Resize, Slice
from fedprune.graph.operations import Dropout, Operation, Parameter, Shape
from fedprune.graph.reading_pieces import flip, index, padded_with_itself, repeat, roll
from fedprune.graph.reading_recurrent import RECURRENT
from fedprune.graph.reading_reductions import reduced


def concat(call: Call) -> tuple[Step, ...]:
    axis = canonical_axis(call.arguments["dim"], call.rank)
    steps, names = list[Step](), list[str]()
    for place, node in enumerate(call.arguments["tensors"]):
        name, made = _part(call, node, place)
        names.append(name)
        steps += made
    return (*steps, Concat(tuple(names), call.output, axis))


def stack(call: Call) -> tuple[Step, ...]:
    rank = len(call.plain_shape)
    axis = call.arguments["dim"] % rank
    plain = tuple(1 if place == axis else size for place, size in enumerate(call.plain_shape))
    steps, names = list[Step](), list[str]()
    for place, node in enumerate(call.arguments["tensors"]):
        name, made = _part(call, node, place)
        names.append(f"{call.output}.one{place}")
        steps += [*made, (Reshape((name,), names[-1]), canonical(plain))]
    return (*steps, Concat(tuple(names), call.output, canonical_axis(axis, rank)))


def _part(call: Call, node: Any, place: int) -> tuple[str, list[Step]]:
    found = call.constant(node)
    if found is None:
        return call.named(node), []
    name, shape = f"{call.output}.part{place}", canonical(found.value.shape)
    return name, [(Constant((), name, Parameter(found.name, found.value.reshape(shape))), shape)]


def pad(call: Call) -> Operation | tuple[Step, ...] | str:
    mode, flat = call.arguments.get("mode", "constant"), list(call.arguments["pad"])
    if mode != "constant":
        return padded_with_itself(call, mode, flat)
    if call.arguments.get("value"):
        raise call.unsupported("does not pad with zeros")
    if min(flat) < 0:
        raise call.unsupported("crops")
    axes = [(0, 0)] * len(call.shape)
    for position in range(len(flat) // 2):  # torch counts from the last axis
        axes[canonical_axis(call.rank - 1 - position, call.rank)] = (flat[2 * position], flat[2 * position + 1])
    return Pad((call.tensor("self"),), call.output, tuple(axes))


def slice_(call: Call) -> Operation | str:
    source = call.tensor("self")
    axis = canonical_axis(call.arguments["dim"], call.rank)
    start, stop, step = slice(*(call.arguments[key] for key in ("start", "end", "step"))).indices(
        call.shapes[source][axis]
    )
    return source if call.shapes[source] == call.shape else Slice((source,), call.output, axis, start, stop, step)


def select(call: Call) -> tuple[Step, ...] | str:
    """One place along an axis, which goes."""
    source = call.tensor("self")
    return _taken(call, source, canonical_axis(call.arguments["dim"], call.rank), call.arguments["index"])


def _taken(call: Call, source: str, axis: int, index: int) -> tuple[Step, ...]:
    before, taken = call.shapes[source], f"{call.output}.taken"
    index %= before[axis]
    shape = (*before[:axis], 1, *before[axis + 1 :])
    if before[axis] == 1:
        return (Reshape((source,), call.output),)
    return ((Slice((source,), taken, axis, index, index + 1, 1), shape), Reshape((taken,), call.output))


def piece(call: Call) -> Operation | tuple[Step, ...] | str:
    """One of several results."""
    parent, index = call.arguments["source"], call.arguments["index"]
    name = getattr(getattr(parent.target, "_schema", None), "name", "").removeprefix("aten::")
    if name not in _PIECES:
        raise call.unsupported(f"takes a part of {parent.target}")
    names = [argument.name for argument in parent.target._schema.arguments]
    defaults = {argument.name: argument.default_value for argument in parent.target._schema.arguments}
    arguments = {**defaults, **dict(zip(names, parent.args, strict=False)), **parent.kwargs}
    return _PIECES[name](call, arguments, index, [tuple(part.shape) for part in parent.meta["val"]])


def _split(call: Call, given: Mapping[str, Any], index: int, shapes: list[Shape]) -> Operation | str:
    source, rank = call.named(given["self"]), len(plain_shape(given["self"]))
    sizes = [shape[given["dim"]] for shape in shapes]
    start, axis = sum(sizes[:index]), canonical_axis(given["dim"], rank)
    return source if len(sizes) == 1 else Slice((source,), call.output, axis, start, start + sizes[index], 1)


def _unbind(call: Call, given: Mapping[str, Any], index: int, shapes: list[Shape]) -> tuple[Step, ...]:
    rank = len(plain_shape(given["self"]))
    return _taken(call, call.named(given["self"]), canonical_axis(given["dim"], rank), index)


def _extreme(function: str) -> Callable[[Call, Mapping[str, Any], int, list[Shape]], tuple[Step, ...]]:
    def read(call: Call, given: Mapping[str, Any], index: int, shapes: list[Shape]) -> tuple[Step, ...]:
        if index:
            raise call.unsupported(f"says where the {function} lies")
        there = replace(call, rank=len(plain_shape(given["self"])))
        return reduced(there, call.named(given["self"]), given["dim"], function)

    return read


def _adaptive_largest(call: Call, given: Mapping[str, Any], index: int, shapes: list[Shape]) -> tuple[Step, ...]:
    if index or any(size != 1 for size in call.shape[2:]):
        raise call.unsupported("to more than one position is not covered")
    source = call.named(given["self"])
    return (Reduce((source,), call.output, "max", (2, 3)),)


_PIECES = {
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "tensor_split"), _split),
    "unbind": _unbind,
    "max": _extreme("max"),
    "min": _extreme("min"),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d"), _adaptive_largest),
    **RECURRENT,
}


def reshape(call: Call) -> Operation | str:
    source = call.first()
    return source if call.shapes[source] == call.shape else Reshape((source,), call.output)


def permute(call: Call) -> tuple[Step, ...] | str:
    rank = call.rank
    order = list(range(rank))
    if call.name in ("transpose", "swapaxes", "swapdims"):
        keys = [key for key in call.arguments if key != "self"]
        a, b = (call.arguments[key] % rank for key in keys)
        order[a], order[b] = order[b], order[a]
    elif call.name in ("t", "mT", "adjoint", "matrix_transpose"):
        order[-2:] = reversed(order[-2:])
    elif call.name in ("movedim", "moveaxis"):
        come, go = (
            [value] if isinstance(value, int) else list(value)
            for value in (call.arguments["source"], call.arguments["destination"])
        )
        come, go = [axis % rank for axis in come], [axis % rank for axis in go]
        rest = iter(axis for axis in range(rank) if axis not in come)
        order = [come[go.index(place)] if place in go else next(rest) for place in range(rank)]
    else:
        order = [axis % rank for axis in call.arguments["dims"]]
    source = call.first()
    if order == sorted(order):
        return source
    if rank == 3:  # axis 2 of the graph has size one and stays where it is
        held = [canonical_axis(axis, 3) for axis in order]
        return (Permute((source,), call.output, (held[0], held[1], 2, held[2])),)
    return (Permute((source,), call.output, tuple(canonical_axis(axis, rank) for axis in order)),)


def expand(call: Call) -> tuple[Step, ...] | str:
    source, rank = call.first(), len(call.plain_shape)
    if call.shapes[source] == call.shape:
        return source
    name, steps = call.operand("self", rank)
    zeros = f"{call.output}.zeros"
    nothing = Constant((), zeros, Parameter(zeros, np.zeros(call.shape, np.float32)))
    return (*steps, (nothing, call.shape), Add((name, zeros), call.output))


def pixel_shuffle(call: Call) -> Operation:
    return PixelShuffle((call.first(),), call.output, int(call.arguments["upscale_factor"]))


def pixel_unshuffle(call: Call) -> Operation:
    return PixelUnshuffle((call.first(),), call.output, int(call.arguments["downscale_factor"]))


def channel_shuffle(call: Call) -> tuple[Step, ...]:
    source, groups = call.first(), int(call.arguments["groups"])
    (n, channels, *size), split, mixed = call.shapes[source], f"{call.output}.split", f"{call.output}.mixed"
    parts = (groups, channels // groups)
    return (
        (Reshape((source,), split), (n, *parts, *size)),
        (Permute((split,), mixed, (0, 2, 1, 3, 4)), (n, *reversed(parts), *size)),
        Reshape((mixed,), call.output),
    )


def resize(call: Call) -> Operation | tuple[Step, ...]:
    bilinear = "linear" in call.name
    source = call.first()
    size, result = call.shapes[source][2:], call.shape[2:]
    align = bool(call.arguments.get("align_corners"))
    given = (
        call.arguments.get("scale_factors") or [b / a for a, b in zip(size, result, strict=True)][-(call.rank - 2) :]
    )
    exact = [b / a for a, b in zip(size, result, strict=True)][-(call.rank - 2) :]
    if any(abs(a - b) > 1e-9 for a, b in zip(given, exact, strict=True)) and not align:
        raise call.unsupported(f"by {given} does not give whole rows or columns")
    return Resize((source,), call.output, bilinear, align)


def unchanged(call: Call) -> str:
    return call.first()


def _dropout(call: Call) -> Operation | str:
    chance = float(call.arguments["p"])
    if not chance or call.arguments["train"]:  # what goes on in evaluation is no dropout
        return call.first()
    return Dropout((call.first(),), call.output, chance, call.name != "dropout")


MOVES: dict[str, Read] = {
    **dict.fromkeys(("cat", "concat", "concatenate"), concat),
    "stack": stack,
    **dict.fromkeys(("pad", "constant_pad_nd"), pad),
    "slice": slice_,
    "select": select,
    "getitem": piece,
    **dict.fromkeys(("reshape", "view", "_unsafe_view", "flatten", "squeeze", "unsqueeze", "unflatten"), reshape),
    "reshape_as": reshape,
    "view_as": reshape,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims", "t", "mT", "adjoint", "matrix_transpose"), permute),
    **dict.fromkeys(("permute", "movedim", "moveaxis"), permute),
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), expand),
    "repeat": repeat,
    "flip": flip,
    **dict.fromkeys(("index", "index_select"), index),
    "roll": roll,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "channel_shuffle": channel_shuffle,
    **dict.fromkeys(("upsample_nearest1d", "upsample_nearest2d"), resize),
    **dict.fromkeys(("upsample_linear1d", "upsample_bilinear2d"), resize),
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "alias"), unchanged),
    **dict.fromkeys(("detach", "identity", "lift_fresh_copy", "to", "_to_copy"), unchanged),
}
DROPPING: dict[str, Read] = dict.fromkeys(("dropout", "feature_dropout"), _dropout)
"""How what training drops is read, where it is to leave a trace."""
