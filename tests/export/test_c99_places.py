"""The law of moves: whatever layer a move becomes, its fields put each byte where numpy puts it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from c99_files import Draft
from hypothesis import assume, given
from hypothesis import strategies as st

from fedprune.export.c99.program import ALL_ROWS, Array, Layer, Program, Structs
from fedprune.export.c99.rules import lower


def placed(fields: Mapping[str, Any], source: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    (part,) = fields["parts"].items
    found = np.zeros(size, source.dtype)
    rows, columns, channels = (
        part[f"from_{axis}"] + np.arange(part[name]) * part[f"step_{axis}"]
        for axis, name in (("y", "height"), ("x", "width"), ("c", "channels"))
    )
    found[:] = source[np.ix_(rows, columns, channels)]
    return found


def picked(fields: Mapping[str, Any], source: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    rows, columns = (fields[name].values for name in ("rows", "columns"))
    channels = fields["channels"].values if isinstance(fields["channels"], Array) else range(size[2])
    return source[np.ix_(rows, columns, channels)]


def stepped(fields: Mapping[str, Any], source: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    row_bytes, found = source[0].size, np.zeros(size, source.dtype)
    for y in range(size[0]):
        outer, inner = divmod(y, fields["inner_count"])
        at = []
        for left in range(fields["left_count"]):
            for right in range(fields["right_count"]):
                loops = (("outer", outer), ("inner", inner), ("left", left), ("right", right))
                row = fields["row"] + sum(times * fields[f"{name}_rows"] for name, times in loops)
                byte = fields["byte"] + sum(times * fields[f"{name}_bytes"] for name, times in loops)
                at += [row * row_bytes + byte + step * fields["step"] for step in range(fields["count"])]
        found[y] = source.reshape(-1)[at].reshape(size[1:])
    return found


KERNELS: Mapping[str, Callable[[Mapping[str, Any], np.ndarray, tuple[int, int, int]], np.ndarray]] = {
    "place": placed,
    "pick": picked,
    "move": stepped,
}


def computed(program: Program) -> np.ndarray:
    """Return the values of the output of a program of moves whose input holds 0, 1, 2, …"""
    (layer,) = program.layers
    before, after = program.maps[layer.inputs[0]], program.maps[layer.output]
    source = np.arange(before.size).reshape(before[:3])
    found = KERNELS[layer.kernel](layer.fields, source, after[:3])
    asked_in_time(layer, found, before.row_bytes, before.height)
    return found.reshape(-1)


def asked_in_time(layer: Layer, found: np.ndarray, row_bytes: int, height: int) -> None:
    """Check that the rows that are read are among those that the layer says it reads."""
    for y, values in enumerate(found):
        since, until = max(0, layer.rows.since(y)), min(layer.rows.until(y + 1), height)
        assert layer.rows == ALL_ROWS or (since * row_bytes <= values.min() and values.max() < until * row_bytes)


@st.composite
def moves(draw: st.DrawFn) -> tuple[tuple[int, ...], str, list[Any], dict[str, Any], np.ndarray]:
    kind = draw(st.integers(0, 6))
    # of five axes the last two are one axis of a map: to pick or repeat along one of them has no kernel
    shape = (1, *draw(st.lists(st.integers(1, 6), min_size=2, max_size=4 if kind < 5 else 3)))
    values = np.arange(int(np.prod(shape))).reshape(shape)
    axis = draw(st.integers(1, len(shape) - 1))
    if kind < 3:
        order = draw(st.permutations(range(len(shape))))
        return shape, "TRANSPOSE", [order], {}, values.transpose(order)
    if kind == 3:
        starts = [draw(st.integers(0, size - 1)) for size in shape]
        sizes = [draw(st.integers(1, size - start)) for size, start in zip(shape, starts, strict=True)]
        parts = tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
        return shape, "SLICE", [starts, sizes], {}, values[parts]
    if kind == 4:
        return shape, "REVERSE_V2", [[axis]], {}, np.flip(values, axis)
    if kind == 5:
        indices = draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=9))
        return shape, "GATHER", [indices], {"axis": axis}, np.take(values, indices, axis)
    times = draw(st.tuples(*(st.integers(1, 3) for _ in shape[1:])))
    return shape, "TILE", [(1, *times)], {}, np.tile(values, (1, *times))


@given(moves())
def test_each_byte_is_where_it_belongs(
    made: tuple[tuple[int, ...], str, list[Any], dict[str, Any], np.ndarray],
) -> None:
    shape, code, constants, values, wanted = made
    assume(not np.array_equal(wanted.reshape(-1), np.arange(np.prod(shape))))  # what moves nothing is no layer
    draft = Draft(shape)
    model = draft.file(draft.moved(code, draft.input, wanted.shape, *constants, **values))
    np.testing.assert_array_equal(computed(lower(model)), wanted.reshape(-1))


def test_kinds_of_layers_by_hand() -> None:
    def kernel(code: str, shape: tuple[int, ...], *constants: Any, **values: Any) -> Layer:
        draft = Draft((1, 6, 4, 8))
        (layer,) = lower(draft.file(draft.moved(code, draft.input, shape, *constants, **values))).layers
        return layer

    box = kernel("SLICE", (1, 3, 4, 8), (0, 2, 0, 0), (1, 3, 4, 8))
    assert (box.kernel, box.rows) == ("place", (1, 2, 2, 1))
    assert isinstance(box.fields["parts"], Structs)
    twice = kernel("RESIZE_NEAREST_NEIGHBOR", (1, 12, 8, 8), (12, 8), version=3)
    assert (twice.kernel, twice.rows) == ("move", (1, 0, 0, 2))
    assert [twice.fields[name] for name in ("inner_count", "inner_rows", "outer_rows")] == [2, 0, 1]
    mirrored = kernel("MIRROR_PAD", (1, 6, 6, 8), ((0, 0), (0, 0), (1, 1), (0, 0)), mode=0)
    assert (mirrored.kernel, mirrored.rows) == ("pick", (1, 0, 0, 1))
    assert mirrored.fields["columns"] == Array("uint16_t", [1, 0, 1, 2, 3, 2])
    assert kernel("TRANSPOSE", (1, 4, 6, 8), (0, 2, 1, 3)).rows == ALL_ROWS
