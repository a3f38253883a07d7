"""Exponentials of an int8 softmax in fixed point, as the reference kernels compute them."""

from math import floor

from fedprune.export.c99.numbers import Factor, factor

_ONE = 2**31 - 1
_FRACTION = 26  # bits of a difference in fixed point, five above the point
# exp(-2^n) over 2^31 for the bits of a difference from a quarter on
_POWERS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)


def exponentials(scale: float, beta: float) -> list[int]:
    """Return ``exp(-beta scale n)`` over 2^31 for n = 0, 1, … as far as the kernels count it as more than nothing.

    Raises ``ValueError`` where the kernels' fixed point is too coarse for ``beta scale``.
    """
    by = steps_factor(scale, beta)
    radius = floor((2**5 - 1) * 2**_FRACTION / 2**by.shift)
    return [_exponential(_product(-steps << by.shift, by.multiplier)) for steps in range(min(radius, 255) + 1)]


def steps_factor(scale: float, beta: float = 1.0) -> Factor:
    """Return the factor from steps to the kernels' fixed point, 26 bits below the point; raises as `exponentials`."""
    unit = beta * scale * 2**_FRACTION
    if not unit > 1:
        raise ValueError(f"an input of scale {scale:g} and a beta of {beta:g}, too small for the kernels' fixed point")
    return factor(min(unit, _ONE))


def _exponential(x: int) -> int:
    # of x / 2^26, which is not positive: a polynomial within a quarter, then a factor for each bit above
    if x == 0:
        return _ONE
    quarter = 1 << (_FRACTION - 2)
    within = (x & (quarter - 1)) - quarter
    result = _near_nothing(max(-(2**31), within << 5))
    left = within - x
    for bit, power in enumerate(_POWERS):
        if left >> (_FRACTION - 2 + bit) & 1:
            result = _product(result, power)
    return result


def _near_nothing(x: int) -> int:
    # exp of x / 2^31 in [-1/4, 0): Taylor's series around -1/8
    centre = 1895147668
    x += 1 << 28
    square = _product(x, x)
    cube, fourth = _product(square, x), _product(square, square)
    rest = _half(_product(_shifted(fourth, 2) + cube, 715827883) + square)
    return min(_ONE, centre + _product(centre, x + rest))


def _half(x: int) -> int:
    return _shifted(x, 1)


def _shifted(x: int, right: int) -> int:
    return (x + (1 << (right - 1)) - (x < 0)) >> right


def _product(x: int, multiplier: int) -> int:
    return (x * multiplier + (1 << 30)) >> 31
