"""Random small int8 nets: every operator that has a C kernel, in odd sizes and orders."""

from collections.abc import Callable, Sequence

from ai_edge_litert.schema_py_generated import BuiltinOperator
from c99_files import Draft

Kind = Callable[[Draft, int, list[int]], int]


def chain(seed: int, layers: int = 9, most: int = 19, kinds: Sequence[Kind] = ()) -> bytes:
    """Return a net of about so many layers of up to ``most`` channels, some of which read what came long before.

    Its layers are of ``kinds``, or of those that nets for classification have.
    """
    draft = Draft((1, 1, 1, 1), seed)
    draw = draft.random.integers
    height, width = ((1, draw(1, 40)) if seed % 5 == 0 else draw(1, 18, 2)) if seed % 7 else (draw(20, 40), draw(1, 6))
    draft = Draft((1, int(height), int(width), int(draw(1, most + 1))), seed)
    maps = [draft.input]
    for _ in range(layers):
        recent = maps[-1] if draft.random.random() < 0.7 else maps[-int(draw(1, len(maps) + 1))]
        kind = (kinds or KINDS)[int(draw(len(kinds or KINDS)))]
        made = kind(draft, recent, maps)
        if made is not None and max(draft.shape(made)) <= 80:
            maps.append(made)
    if all(operator.code == BuiltinOperator.RESHAPE for operator in draft.operators):
        maps.append(_conv(draft, maps[-1], maps))  # else nothing would be computed
    return draft.file(_end(draft, maps[-1]))


def size_up_to(draft: Draft, most: int) -> int:
    return int(draft.random.integers(1, most + 1))


def yes(draft: Draft, chance: float = 0.5) -> bool:
    return bool(draft.random.random() < chance)


def _window(draft: Draft, source: int, most: int) -> tuple[tuple[int, int], tuple[int, int], bool]:
    kernel = size_up_to(draft, most), size_up_to(draft, most)
    if yes(draft, 0.3):
        kernel = (1, kernel[1]) if yes(draft) else (kernel[0], 1)
    inside = all(k <= size for k, size in zip(kernel, draft.shape(source)[1:3], strict=True))
    return kernel, (size_up_to(draft, 3), size_up_to(draft, 3)), yes(draft) or not inside


def _conv(draft: Draft, source: int, maps: list[int]) -> int:
    kernel, stride, same = _window(draft, source, 5)
    dilation = (2, 3) if same and yes(draft, 0.2) else (1, 1)
    channels, filters = draft.shape(source)[3], size_up_to(draft, 19)
    divisors = [n for n in range(1, channels + 1) if channels % n == 0]
    groups = divisors[int(draft.random.integers(len(divisors)))] if yes(draft, 0.3) else 1
    filters = -(-filters // groups) * groups
    clip, density = (0, 0, 1, 3)[size_up_to(draft, 4) - 1], (1, 0.5, 0.2, 0.05)[size_up_to(draft, 4) - 1]
    return draft.conv(source, filters, kernel, stride, dilation, same=same, groups=groups, clip=clip, density=density)


def _depthwise(draft: Draft, source: int, maps: list[int]) -> int:
    kernel, stride, same = _window(draft, source, 4)
    times = size_up_to(draft, 3) if draft.shape(source)[3] < 8 and yes(draft, 0.3) else 1
    dilation = (3, 2) if same and yes(draft, 0.2) else (1, 1)
    return draft.conv(source, times, kernel, stride, dilation, same=same, depthwise=True, density=0.8)


def _pool(draft: Draft, source: int, maps: list[int]) -> int:
    kernel, stride, same = _window(draft, source, 4)
    kind = "MAX_POOL_2D" if yes(draft) else "AVERAGE_POOL_2D"
    return draft.pool(source, kind, kernel, stride, same=same, clip=int(yes(draft, 0.2)))


def alike(draft: Draft, source: int, maps: list[int]) -> int:
    others = [other for other in maps[:-1] if draft.shape(other) == draft.shape(source) and other != source]
    if others and yes(draft, 0.8):
        return others[int(draft.random.integers(len(others)))]
    return draft.conv(source, draft.shape(source)[3], (3, 3))


def _add(draft: Draft, source: int, maps: list[int]) -> int:
    pair = (source, alike(draft, source, maps))
    return draft.both("ADD", *(pair if yes(draft) else pair[::-1]), grid=(0.1, int(draft.random.integers(-20, 20))))


def _gate(draft: Draft, source: int, maps: list[int]) -> int:
    if yes(draft):
        other = draft.unary("LOGISTIC", alike(draft, source, maps), (1 / 256, -128))
    else:
        squeezed = draft.conv(draft.mean(source), draft.shape(source)[3], (1, 1))
        other = draft.unary("LOGISTIC", squeezed, (1 / 256, -128))
    pair = (source, other)
    return draft.both("MUL", *(pair if yes(draft) else pair[::-1]), grid=(0.03, 5))


def _unary(draft: Draft, source: int, maps: list[int]) -> int:
    code, grid = [
        ("RELU", None), ("TANH", (1 / 128, 0)), ("LEAKY_RELU", None), ("QUANTIZE", None), ("RELU6", draft.grid(source)),
    ][size_up_to(draft, 5) - 1]  # fmt: skip
    return draft.unary(code, source, grid, **({"alpha": 0.2} if code == "LEAKY_RELU" else {}))


def _pad(draft: Draft, source: int, maps: list[int]) -> int:
    sides = [(0, 0), *((size_up_to(draft, 3) - 1, size_up_to(draft, 3) - 1) for _ in range(3))]
    return draft.pad(source, sides, None if yes(draft) else -100)


def _slice(draft: Draft, source: int, maps: list[int]) -> int:
    start = [0, *(size_up_to(draft, min(2, size)) - 1 for size in draft.shape(source)[1:])]
    return draft.slice(source, start, draft.shape(source), [1, *(size_up_to(draft, 2) for _ in range(3))])


def _concat(draft: Draft, source: int, maps: list[int]) -> int:
    grid = draft.grid(source)
    others = [draft.conv(source, size_up_to(draft, 9), (3, 3), grid=grid) for _ in range(size_up_to(draft, 2))]
    others = [draft.unary("QUANTIZE", source, grid) for _ in others] if yes(draft, 0.3) else others
    alike = all(draft.shape(other) == draft.shape(source) for other in others)
    axis = size_up_to(draft, 3) if alike else 3
    return draft.concat([source, *others] if yes(draft) else [*others, source], axis)


def _reshape(draft: Draft, source: int, maps: list[int]) -> int:
    _, height, width, channels = draft.shape(source)
    forms = ((1, width, height, channels), (1, 1, height * width, channels), (1, height, 1, width * channels))
    made = draft.reshape(source, (*forms, draft.shape(source))[size_up_to(draft, 4) - 1])
    return draft.unary("QUANTIZE", made, draft.grid(made)) if yes(draft) else made


def _end(draft: Draft, source: int) -> int:
    kind = size_up_to(draft, 5)
    if kind == 1:
        return draft.unary("SOFTMAX", draft.linear(draft.mean(source), 7), (1 / 256, -128), beta=1.0)
    if kind == 2:
        return draft.linear(source, 5, density=0.3)
    if kind == 3:
        return draft.mean(source)
    return draft.conv(source, 6, (1, 1)) if len(draft.operators) == 0 or kind == 4 else source


KINDS: tuple[Kind, ...] = (
    _conv, _conv, _conv, _depthwise, _pool, _pool, _add, _add, _gate, _unary, _unary, _pad, _slice, _concat, _reshape,
)  # fmt: skip


def _transpose(draft: Draft, source: int, maps: list[int]) -> int:
    order = [0, *(1 + int(axis) for axis in draft.random.permutation(3))]
    return draft.moved("TRANSPOSE", source, tuple(draft.shape(source)[axis] for axis in order), order)


def _shuffle(draft: Draft, source: int, maps: list[int]) -> int:
    _, height, width, channels = draft.shape(source)
    groups = next((n for n in (3, 2, 5, 7) if channels % n == 0), 1)
    apart = draft.reshape(source, (1, height, width, groups, channels // groups))
    turned = draft.moved("TRANSPOSE", apart, (1, height, width, channels // groups, groups), (0, 1, 2, 4, 3))
    return draft.reshape(turned, (1, height, width, channels))


def _blocks(draft: Draft, source: int, maps: list[int]) -> int:
    _, height, width, channels = draft.shape(source)
    if channels % 4 == 0:
        shape = (1, height * 2, width * 2, channels // 4)
        return draft.moved("DEPTH_TO_SPACE", source, shape, blockSize=2)
    if height % 2 == width % 2 == 0 and channels < 9:
        shape = (1, height // 2, width // 2, channels * 4)
        return draft.moved("SPACE_TO_DEPTH", source, shape, blockSize=2)
    return draft.conv(source, 8, (3, 3))


def _resize(draft: Draft, source: int, maps: list[int]) -> int:
    _, height, width, channels = draft.shape(source)
    size = (height * 2, width * 2) if yes(draft) else (size_up_to(draft, 24), size_up_to(draft, 24))
    corners = yes(draft, 0.3)
    values = {"alignCorners": corners, "halfPixelCenters": not corners and yes(draft)}
    code = "RESIZE_BILINEAR" if yes(draft) else "RESIZE_NEAREST_NEIGHBOR"
    return draft.moved(code, source, (1, *size, channels), size, version=3, **values)


def _upward(draft: Draft, source: int, maps: list[int]) -> int:
    kernel, stride = (size_up_to(draft, 4), size_up_to(draft, 4)), (size_up_to(draft, 3), size_up_to(draft, 3))
    return draft.transposed(source, size_up_to(draft, 9), kernel, stride, same=yes(draft))


def _reduce(draft: Draft, source: int, maps: list[int]) -> int:
    code = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")[size_up_to(draft, 4) - 1]
    axes = [axis for axis in (1, 2, 3) if yes(draft)] or [3]
    scale, zero = draft.grid(source)
    return draft.reduced(code, source, axes, grid=(scale * (3 if code == "SUM" else 1), zero))


def _mirror(draft: Draft, source: int, maps: list[int]) -> int:
    shape = draft.shape(source)
    sides = [(0, 0), *((size_up_to(draft, min(3, n)) - 1, size_up_to(draft, min(3, n)) - 1) for n in shape[1:])]
    whole = tuple(size + sum(side) for size, side in zip(shape, sides, strict=True))
    return draft.moved("MIRROR_PAD", source, whole, sides, mode=int(yes(draft)))


def _halves(draft: Draft, source: int, maps: list[int]) -> int:
    shape = draft.shape(source)
    axis = size_up_to(draft, 3)
    first = size_up_to(draft, shape[axis]) - 1
    sizes = (first, shape[axis] - first)
    if 0 in sizes:
        return draft.moved("REVERSE_V2", source, shape, [axis])
    parts = [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]
    return draft.concat(draft.parts("SPLIT_V", source, parts, sizes, axis, numSplits=2)[::-1], axis)


def _stack(draft: Draft, source: int, maps: list[int]) -> int:
    _, height, width, channels = draft.shape(source)
    flat = draft.reshape(source, (height, width, channels))
    other = draft.moved("REVERSE_V2", flat, (height, width, channels), [size_up_to(draft, 3) - 1])
    axis = size_up_to(draft, 4) - 1
    shape = [height, width, channels]
    shape.insert(axis, 2)
    stacked = draft.add(
        "PACK", (other, flat), draft.activation((*shape,), draft.grid(source)), 1, axis=axis, valuesCount=2
    )
    return draft.reshape(stacked, (1, *_merged(shape)))


def _merged(shape: list[int]) -> tuple[int, int, int]:
    first, second, third, last = shape
    return (first * second, third, last) if first * second <= 40 else (first, second, third * last)


MOVERS: tuple[Kind, ...] = (
    _conv, _conv, _depthwise, _transpose, _shuffle, _blocks, _blocks, _resize, _resize, _upward, _upward, _reduce,
    _mirror, _halves, _stack, _add, _concat,
)  # fmt: skip
