"""Layers of random nets that combine, average, normalise and multiply: kinds for `c99_nets.chain`."""

from c99_files import Draft
from c99_nets import KINDS, Kind, alike, size_up_to, yes


def _smaller(draft: Draft, source: int) -> int:
    # a map that broadcasts to the source's shape
    shape = [size if yes(draft) else 1 for size in draft.shape(source)]
    return draft.slice(source, (0, 0, 0, 0), shape, (1, 1, 1, 1)) if yes(draft, 0.7) else draft.levels_of(shape)


def _combine(draft: Draft, source: int, maps: list[int]) -> int:
    code = ("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE")[size_up_to(draft, 6) - 1]
    pair = (source, alike(draft, source, maps) if yes(draft, 0.3) else _smaller(draft, source))
    values = {"fusedActivationFunction": int(yes(draft, 0.2))} if code in ("ADD", "SUB", "MUL") else {}
    result = draft.activation(
        draft.shape(source), (0.1 * float(draft.random.uniform(0.2, 2)), size_up_to(draft, 90) - 60)
    )
    return draft.add(code, pair if yes(draft) else pair[::-1], result, 2, **values)


def _average(draft: Draft, source: int, maps: list[int]) -> int:
    axes = [axis for axis in (1, 2, 3) if yes(draft)] or [3]
    mean = draft.mean(source, axes=axes)
    pair = (source, mean)
    return draft.both("SUB", *(pair if yes(draft) else pair[::-1])) if yes(draft, 0.7) else mean


def _normal(draft: Draft, source: int, maps: list[int]) -> int:
    axes = [axis for axis in (1, 2, 3) if yes(draft)] or [3]
    return draft.normal(source, axes)


def _product(draft: Draft, source: int, maps: list[int]) -> int:
    other = alike(draft, source, maps)
    _, height, width, channels = draft.shape(source)
    if yes(draft):  # of channels with channels, or of positions with positions
        return draft.matmul(source, other, (1, height, width, width), turned=(False, True))
    return draft.matmul(source, other, (1, height, channels, channels), turned=(True, False))


def _sequence(draft: Draft, source: int, maps: list[int]) -> int:
    return draft.linear(source, size_up_to(draft, 19), positions=True)


CALCULATORS: tuple[Kind, ...] = (
    *KINDS,
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
