"""Laws of schedules: each is its formula to 1e-12, monotone between its ends and flat outside."""

import inspect
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.pruning import schedules
from fedprune.pruning.schedules import constant, cosine, cubic, exponential, linear, one_shot
from fedprune.types import Schedule

# (start, finish, begin, end) -> schedule, and the same as a formula of the progress p in [0, 1]
ENTRIES = {
    "constant": (lambda s, f, b, e: constant(s), lambda s, f, p: s),
    "one_shot": (lambda s, f, b, e: one_shot(s, f, at=e), lambda s, f, p: f if p == 1 else s),
    "linear": (lambda s, f, b, e: linear(s, f, begin=b, end=e), lambda s, f, p: s * (1 - p) + f * p),
    "cubic": (lambda s, f, b, e: cubic(s, f, begin=b, end=e), lambda s, f, p: f + (s - f) * (1 - p) ** 3),
    "exponential": (
        lambda s, f, b, e: exponential(s, f, begin=b, end=e),
        lambda s, f, p: math.exp((1 - p) * math.log(s) + p * math.log(f)),
    ),
    "cosine": (
        lambda s, f, b, e: cosine(s, f, end=e),
        lambda s, f, p: f + 0.5 * (s - f) * (1 + math.cos(math.pi * p)),
    ),
}
VALUES = st.floats(0.001, 1)


def spans() -> st.SearchStrategy[tuple[int, int]]:
    return st.integers(0, 200).flatmap(lambda begin: st.tuples(st.just(begin), st.integers(begin + 1, begin + 300)))


def begin_of(entry: str, begin: int) -> int:
    return 0 if entry == "cosine" else begin


def test_the_battery_knows_every_schedule() -> None:
    public = {n for n, f in vars(schedules).items() if inspect.isfunction(f) and f.__module__ == schedules.__name__}
    assert {name for name in public if not name.startswith("_")} == set(ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES)
@given(start=VALUES, finish=VALUES, span=spans(), step=st.integers(0, 600))
def test_a_schedule_is_its_formula(entry: str, start: float, finish: float, span: tuple[int, int], step: int) -> None:
    make, formula = ENTRIES[entry]
    begin, end = begin_of(entry, span[0]), span[1]
    progress = min(1.0, max(0.0, (step - begin) / (end - begin)))
    assert make(start, finish, begin, end)(step) == pytest.approx(formula(start, finish, progress), abs=1e-12)


@pytest.mark.parametrize("entry", ENTRIES)
@given(start=VALUES, finish=VALUES, span=spans())
def test_a_schedule_is_monotone_and_flat_outside(
    entry: str, start: float, finish: float, span: tuple[int, int]
) -> None:
    begin, end = begin_of(entry, span[0]), span[1]
    schedule: Schedule = ENTRIES[entry][0](start, finish, begin, end)
    values = [schedule(step) for step in range(end + 5)]
    sign = 1 if start >= finish else -1
    assert all(sign * (after - before) <= 1e-12 for before, after in itertools.pairwise(values))
    assert all(isinstance(value, float) for value in values)
    assert values[: begin + 1] == [values[0]] * (begin + 1)
    assert values[end:] == [values[end]] * 5
    assert values[0] == pytest.approx(start, abs=1e-12)
    assert values[end] == pytest.approx(start if entry == "constant" else finish, abs=1e-12)


@pytest.mark.parametrize("entry", ENTRIES)
@given(start=VALUES, span=spans(), finish=VALUES)
def test_a_density_never_leaves_0_to_1(entry: str, start: float, span: tuple[int, int], finish: float) -> None:
    """Not by a rounding either: a density of 1.0000000000000002 is refused further down."""
    make = ENTRIES[entry][0]
    begin, end = begin_of(entry, span[0]), span[1]
    for schedule in (make(1.0, finish, begin, end), make(start, 1.0, begin, end)):
        assert all(0 <= schedule(step) <= 1 for step in range(begin, end + 1))


@pytest.mark.parametrize(("start", "finish"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)])
def test_an_exponential_needs_positive_ends(start: float, finish: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        exponential(start, finish, end=10)


def test_an_empty_span_is_done_at_once() -> None:
    assert [linear(1.0, 0.5, begin=3, end=3)(step) for step in (2, 3, 4)] == [1.0, 0.5, 0.5]
    assert cosine(0.3, end=0)(0) == 0.0
