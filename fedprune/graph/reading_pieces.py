"""How aten operations that put pieces of a tensor beside one another are read: flips, rolls, repeats, mirrors."""

import numpy as np

from fedprune.graph.calls import Call, Step, canonical_axis
from fedprune.graph.moving import Concat, Reshape, Slice

_MOST_PIECES = 64


def padded_with_itself(call: Call, mode: str, flat: list[int]) -> tuple[Step, ...] | str:
    source, steps = call.first(), list[Step]()
    for position in range(len(flat) // 2):
        axis = canonical_axis(call.rank - 1 - position, call.rank)
        size = call.shapes[call.first()][axis]
        places = np.arange(-flat[2 * position], size + flat[2 * position + 1])
        if mode == "reflect":
            places = size - 1 - abs(size - 1 - abs(places))
        else:
            places = places % size if mode == "circular" else np.clip(places, 0, size - 1)
        source, made = _places(call, source, axis, [int(place) for place in places], size)
        steps += made
    return _named(call, steps, source)


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
    source, steps = call.first(), list[Step]()
    for dim in call.arguments["dims"]:
        axis = canonical_axis(dim, call.rank)
        size = call.shapes[call.first()][axis]
        source, made = _places(call, source, axis, list(range(size))[::-1], size)
        steps += made
    return _named(call, steps, source)


def index(call: Call) -> tuple[Step, ...] | str:
    """``x[:, [0, 2]]`` or ``x.index_select``: constant places along one axis."""
    source = call.first()
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


def repeat(call: Call) -> tuple[Step, ...] | str:
    source, times = call.first(), list(call.arguments["repeats"])
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
    source, steps = call.first(), list[Step]()
    for shift, dim in zip(call.arguments["shifts"], call.arguments["dims"], strict=True):
        axis, shape = canonical_axis(dim, call.rank), call.shapes[call.first()]
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
