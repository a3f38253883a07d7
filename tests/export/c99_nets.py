"""Random small int8 nets: every operator that has a C kernel, in odd sizes and orders."""

from collections.abc import Callable

from ai_edge_litert.schema_py_generated import BuiltinOperator
from c99_files import Draft


def chain(seed: int, layers: int = 9, most: int = 19, *, arithmetic: bool = False) -> bytes:
    """Return a net of about so many layers of up to ``most`` channels, some of which read what came long before.

    With ``arithmetic`` half of them combine, average or normalise values.
    """
    kinds = (*_KINDS, *_ARITHMETIC) if arithmetic else _KINDS
    draft = Draft((1, 1, 1, 1), seed)
    draw = draft.random.integers
    height, width = ((1, draw(1, 40)) if seed % 5 == 0 else draw(1, 18, 2)) if seed % 7 else (draw(20, 40), draw(1, 6))
    draft = Draft((1, int(height), int(width), int(draw(1, most + 1))), seed)
    maps = [draft.input]
    for _ in range(layers):
        recent = maps[-1] if draft.random.random() < 0.7 else maps[-int(draw(1, len(maps) + 1))]
        kind = kinds[int(draw(len(kinds)))]
        made = kind(draft, recent, maps)
        if made is not None and max(draft.shape(made)) <= 80:
            maps.append(made)
    if all(operator.code == BuiltinOperator.RESHAPE for operator in draft.operators):
        maps.append(_conv(draft, maps[-1], maps))  # else nothing would be computed
    return draft.file(_end(draft, maps[-1]))


def _size(draft: Draft, most: int) -> int:
    return int(draft.random.integers(1, most + 1))


def _yes(draft: Draft, chance: float = 0.5) -> bool:
    return bool(draft.random.random() < chance)


def _window(draft: Draft, source: int, most: int) -> tuple[tuple[int, int], tuple[int, int], bool]:
    kernel = _size(draft, most), _size(draft, most)
    if _yes(draft, 0.3):
        kernel = (1, kernel[1]) if _yes(draft) else (kernel[0], 1)
    inside = all(k <= size for k, size in zip(kernel, draft.shape(source)[1:3], strict=True))
    return kernel, (_size(draft, 3), _size(draft, 3)), _yes(draft) or not inside


def _conv(draft: Draft, source: int, maps: list[int]) -> int:
    kernel, stride, same = _window(draft, source, 5)
    dilation = (2, 3) if same and _yes(draft, 0.2) else (1, 1)
    channels, filters = draft.shape(source)[3], _size(draft, 19)
    divisors = [n for n in range(1, channels + 1) if channels % n == 0]
    groups = divisors[int(draft.random.integers(len(divisors)))] if _yes(draft, 0.3) else 1
    filters = -(-filters // groups) * groups
    clip, density = (0, 0, 1, 3)[_size(draft, 4) - 1], (1, 0.5, 0.2, 0.05)[_size(draft, 4) - 1]
    return draft.conv(source, filters, kernel, stride, dilation, same=same, groups=groups, clip=clip, density=density)


def _depthwise(draft: Draft, source: int, maps: list[int]) -> int:
    kernel, stride, same = _window(draft, source, 4)
    times = _size(draft, 3) if draft.shape(source)[3] < 8 and _yes(draft, 0.3) else 1
    dilation = (3, 2) if same and _yes(draft, 0.2) else (1, 1)
    return draft.conv(source, times, kernel, stride, dilation, same=same, depthwise=True, density=0.8)


def _pool(draft: Draft, source: int, maps: list[int]) -> int:
    kernel, stride, same = _window(draft, source, 4)
    kind = "MAX_POOL_2D" if _yes(draft) else "AVERAGE_POOL_2D"
    return draft.pool(source, kind, kernel, stride, same=same, clip=int(_yes(draft, 0.2)))


def _alike(draft: Draft, source: int, maps: list[int]) -> int:
    others = [other for other in maps[:-1] if draft.shape(other) == draft.shape(source) and other != source]
    if others and _yes(draft, 0.8):
        return others[int(draft.random.integers(len(others)))]
    return draft.conv(source, draft.shape(source)[3], (3, 3))


def _add(draft: Draft, source: int, maps: list[int]) -> int:
    pair = (source, _alike(draft, source, maps))
    return draft.both("ADD", *(pair if _yes(draft) else pair[::-1]), grid=(0.1, int(draft.random.integers(-20, 20))))


def _gate(draft: Draft, source: int, maps: list[int]) -> int:
    if _yes(draft):
        other = draft.unary("LOGISTIC", _alike(draft, source, maps), (1 / 256, -128))
    else:
        squeezed = draft.conv(draft.mean(source), draft.shape(source)[3], (1, 1))
        other = draft.unary("LOGISTIC", squeezed, (1 / 256, -128))
    pair = (source, other)
    return draft.both("MUL", *(pair if _yes(draft) else pair[::-1]), grid=(0.03, 5))


def _unary(draft: Draft, source: int, maps: list[int]) -> int:
    code, grid = [
        ("RELU", None), ("TANH", (1 / 128, 0)), ("LEAKY_RELU", None), ("QUANTIZE", None), ("RELU6", draft.grid(source)),
    ][_size(draft, 5) - 1]  # fmt: skip
    return draft.unary(code, source, grid, **({"alpha": 0.2} if code == "LEAKY_RELU" else {}))


def _pad(draft: Draft, source: int, maps: list[int]) -> int:
    sides = [(0, 0), *((_size(draft, 3) - 1, _size(draft, 3) - 1) for _ in range(3))]
    return draft.pad(source, sides, None if _yes(draft) else -100)


def _slice(draft: Draft, source: int, maps: list[int]) -> int:
    start = [0, *(_size(draft, min(2, size)) - 1 for size in draft.shape(source)[1:])]
    return draft.slice(source, start, draft.shape(source), [1, *(_size(draft, 2) for _ in range(3))])


def _concat(draft: Draft, source: int, maps: list[int]) -> int:
    grid = draft.grid(source)
    others = [draft.conv(source, _size(draft, 9), (3, 3), grid=grid) for _ in range(_size(draft, 2))]
    others = [draft.unary("QUANTIZE", source, grid) for _ in others] if _yes(draft, 0.3) else others
    alike = all(draft.shape(other) == draft.shape(source) for other in others)
    axis = _size(draft, 3) if alike else 3
    return draft.concat([source, *others] if _yes(draft) else [*others, source], axis)


def _reshape(draft: Draft, source: int, maps: list[int]) -> int:
    _, height, width, channels = draft.shape(source)
    forms = ((1, width, height, channels), (1, 1, height * width, channels), (1, height, 1, width * channels))
    made = draft.reshape(source, (*forms, draft.shape(source))[_size(draft, 4) - 1])
    return draft.unary("QUANTIZE", made, draft.grid(made)) if _yes(draft) else made


def _smaller(draft: Draft, source: int) -> int:
    # a map that broadcasts to the source's shape
    shape = [size if _yes(draft) else 1 for size in draft.shape(source)]
    return draft.slice(source, (0, 0, 0, 0), shape, (1, 1, 1, 1)) if _yes(draft, 0.7) else draft.levels_of(shape)


def _combine(draft: Draft, source: int, maps: list[int]) -> int:
    code = ("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE")[_size(draft, 6) - 1]
    pair = (source, _alike(draft, source, maps) if _yes(draft, 0.3) else _smaller(draft, source))
    values = {"fusedActivationFunction": int(_yes(draft, 0.2))} if code in ("ADD", "SUB", "MUL") else {}
    result = draft.activation(draft.shape(source), (0.1 * float(draft.random.uniform(0.2, 2)), _size(draft, 90) - 60))
    return draft.add(code, pair if _yes(draft) else pair[::-1], result, 2, **values)


def _average(draft: Draft, source: int, maps: list[int]) -> int:
    axes = [axis for axis in (1, 2, 3) if _yes(draft)] or [3]
    mean = draft.mean(source, axes=axes)
    pair = (source, mean)
    return draft.both("SUB", *(pair if _yes(draft) else pair[::-1])) if _yes(draft, 0.7) else mean


def _normal(draft: Draft, source: int, maps: list[int]) -> int:
    axes = [axis for axis in (1, 2, 3) if _yes(draft)] or [3]
    return draft.normal(source, axes)


def _product(draft: Draft, source: int, maps: list[int]) -> int:
    other = _alike(draft, source, maps)
    _, height, width, channels = draft.shape(source)
    if _yes(draft):  # of channels with channels, or of positions with positions
        return draft.matmul(source, other, (1, height, width, width), turned=(False, True))
    return draft.matmul(source, other, (1, height, channels, channels), turned=(True, False))


def _sequence(draft: Draft, source: int, maps: list[int]) -> int:
    return draft.linear(source, _size(draft, 19), positions=True)


_ARITHMETIC = (
    _combine,
    _combine,
    _combine,
    _combine,
    _average,
    _average,
    _normal,
    _normal,
    _product,
    _sequence,
    _sequence,
)


def _end(draft: Draft, source: int) -> int:
    kind = _size(draft, 5)
    if kind == 1:
        return draft.unary("SOFTMAX", draft.linear(draft.mean(source), 7), (1 / 256, -128), beta=1.0)
    if kind == 2:
        return draft.linear(source, 5, density=0.3)
    if kind == 3:
        return draft.mean(source)
    return draft.conv(source, 6, (1, 1)) if len(draft.operators) == 0 or kind == 4 else source


_KINDS: tuple[Callable[[Draft, int, list[int]], int], ...] = (
    _conv, _conv, _conv, _depthwise, _pool, _pool, _add, _add, _gate, _unary, _unary, _pad, _slice, _concat, _reshape,
)  # fmt: skip
