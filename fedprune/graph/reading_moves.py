"""How aten operations that only move values are read: views, slices, permutations, shuffles, resizing."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fedprune.graph.activations import Add, Constant, Reduce
from fedprune.graph.calls import Call, Read, Step, canonical, canonical_axis, plain_shape
from fedprune.graph.moving import Concat, Pad, Permute, PixelShuffle, PixelUnshuffle, Reshape, Resize, Slice
from fedprune.graph.operations import Operation, Parameter, Shape
from fedprune.graph.reading_recurrent import RECURRENT
from fedprune.graph.reading_values import first, reduced


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
        return _padded_with_itself(call, mode, flat)
    if call.arguments.get("value"):
        raise call.unsupported("does not pad with zeros")
    if min(flat) < 0:
        raise call.unsupported("crops")
    axes = [(0, 0)] * len(call.shape)
    for position in range(len(flat) // 2):  # torch counts from the last axis
        axes[canonical_axis(call.rank - 1 - position, call.rank)] = (flat[2 * position], flat[2 * position + 1])
    return Pad((call.tensor("self"),), call.output, tuple(axes))


def _padded_with_itself(call: Call, mode: str, flat: list[int]) -> tuple[Step, ...] | str:
    source, steps = first(call), list[Step]()
    for position in range(len(flat) // 2):
        axis = canonical_axis(call.rank - 1 - position, call.rank)
        size = call.shapes[first(call)][axis]
        places = np.arange(-flat[2 * position], size + flat[2 * position + 1])
        if mode == "reflect":
            places = size - 1 - abs(size - 1 - abs(places))
        else:
            places = places % size if mode == "circular" else np.clip(places, 0, size - 1)
        source, made = _places(call, source, axis, [int(place) for place in places], size)
        steps += made
    return _named(call, steps, source)


_MOST_PIECES = 64


def _places(call: Call, source: str, axis: int, places: list[int], size: int) -> tuple[str, list[Step]]:
    """What lies at ``places`` along an axis, as a concatenation of slices."""
    if places == list(range(size)):
        return source, []
    runs = list[list[int]]()
    for place in places:
        if runs and place == runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([place, place + 1])
    if len(runs) > _MOST_PIECES:
        raise call.unsupported(f"takes {len(runs)} pieces apart; at most {_MOST_PIECES} will do")
    names = [f"{call.output}.piece{axis}.{place}" for place in range(len(runs))]
    steps = list[Step]()
    for name, (start, stop) in zip(names, runs, strict=True):
        steps.append(Slice((source,), name, axis, start, stop, 1))
    joined = f"{call.output}.joined{axis}"
    return joined, [*steps, Concat(tuple(names), joined, axis)]


def flip(call: Call) -> tuple[Step, ...] | str:
    source, steps = first(call), list[Step]()
    for dim in call.arguments["dims"]:
        axis = canonical_axis(dim, call.rank)
        size = call.shapes[first(call)][axis]
        source, made = _places(call, source, axis, list(range(size))[::-1], size)
        steps += made
    return _named(call, steps, source)


def index(call: Call) -> tuple[Step, ...] | str:
    """``x[:, [0, 2]]`` or ``x.index_select``: constant places along one axis."""
    source = first(call)
    if call.name == "index_select":
        given, dim = call.arguments["index"], call.arguments["dim"]
    else:
        chosen = [(place, node) for place, node in enumerate(call.arguments["indices"]) if node is not None]
        if len(chosen) != 1:
            raise call.unsupported("takes places along several axes")
        dim, given = chosen[0]
    if given.name not in call.constants:
        raise call.unsupported("takes places that depend on the input")
    places, axis = call.constants[given.name][1], canonical_axis(dim, call.rank)
    size = call.shapes[source][axis]
    if places.ndim != 1 or places.dtype.is_floating_point:
        raise call.unsupported("takes places that are no list")
    listed = places.nonzero().ravel() if str(places.dtype) == "torch.bool" else places
    source, steps = _places(call, source, axis, [int(place) % size for place in listed], size)
    return _named(call, steps, source)


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
    source = first(call)
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
    source = first(call)
    if order == sorted(order):
        return source
    if rank == 3:  # axis 2 of the graph has size one and stays where it is
        held = [canonical_axis(axis, 3) for axis in order]
        return (Permute((source,), call.output, (held[0], held[1], 2, held[2])),)
    return (Permute((source,), call.output, tuple(canonical_axis(axis, rank) for axis in order)),)


def expand(call: Call) -> tuple[Step, ...] | str:
    source, rank = first(call), len(call.plain_shape)
    if call.shapes[source] == call.shape:
        return source
    name, steps = call.operand("self", rank)
    zeros = f"{call.output}.zeros"
    nothing = Constant((), zeros, Parameter(zeros, np.zeros(call.shape, np.float32)))
    return (*steps, (nothing, call.shape), Add((name, zeros), call.output))


def repeat(call: Call) -> tuple[Step, ...] | str:
    source, times = first(call), list(call.arguments["repeats"])
    if len(times) != call.rank:
        raise call.unsupported("adds axes")
    steps, shape = list[Step](), call.shapes[source]
    for plain, count in enumerate(times):
        if count > 1:
            axis, result = canonical_axis(plain, call.rank), f"{call.output}.times{plain}"
            shape = (*shape[:axis], shape[axis] * count, *shape[axis + 1 :])
            steps.append((Concat((source,) * count, result, axis), shape))
            source = result
    return _named(call, steps, source)


def roll(call: Call) -> tuple[Step, ...] | str:
    source, steps = first(call), list[Step]()
    for shift, dim in zip(call.arguments["shifts"], call.arguments["dims"], strict=True):
        axis, shape = canonical_axis(dim, call.rank), call.shapes[first(call)]
        cut = -shift % shape[axis]
        if not cut:
            continue
        a, b, result = (f"{call.output}.{part}{axis}" for part in ("head", "tail", "rolled"))
        steps += [Slice((source,), a, axis, 0, cut, 1), Slice((source,), b, axis, cut, shape[axis], 1)]
        steps.append((Concat((b, a), result, axis), shape))
        source = result
    return _named(call, steps, source)


def _named(call: Call, steps: list[Step], source: str) -> tuple[Step, ...] | str:
    # ``source`` is what the last step makes, if there is one
    return (*steps, Reshape((source,), call.output)) if steps else source


def pixel_shuffle(call: Call) -> Operation:
    return PixelShuffle((first(call),), call.output, int(call.arguments["upscale_factor"]))


def pixel_unshuffle(call: Call) -> Operation:
    return PixelUnshuffle((first(call),), call.output, int(call.arguments["downscale_factor"]))


def channel_shuffle(call: Call) -> tuple[Step, ...]:
    source, groups = first(call), int(call.arguments["groups"])
    (n, channels, *size), split, mixed = call.shapes[source], f"{call.output}.split", f"{call.output}.mixed"
    parts = (groups, channels // groups)
    return (
        (Reshape((source,), split), (n, *parts, *size)),
        (Permute((split,), mixed, (0, 2, 1, 3, 4)), (n, *reversed(parts), *size)),
        Reshape((mixed,), call.output),
    )


def resize(call: Call) -> Operation | tuple[Step, ...]:
    bilinear = "linear" in call.name
    source = first(call)
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
    return first(call)


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
