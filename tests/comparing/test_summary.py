"""What cells come to: worked by hand."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.runs.compare import charts, page, summary
from fedprune.runs.compare.asked import Asked, Comparison
from fedprune.runs.compare.cells import Cell
from fedprune.runs.compare.running import FAILED, chosen, nearest
from simulations.benchmarks import field


def told(*values: float) -> dict[str, Any]:
    """A cell whose tests of rounds 1, 2, … were so."""
    return {
        "curve": [[i + 1, v] for i, v in enumerate(values)],
        "density": 0.1,
        "bytes_up": 1,
        "bytes_down": 2,
        "seconds": 3,
    }


def test_a_paired_difference_has_students_interval() -> None:
    found = summary.difference({0: 0.5, 1: 0.7, 2: 0.9, 9: 0.0}, {0: 0.4, 1: 0.5, 2: 0.6, 7: 0.0})
    assert found is not None
    # differences 0.1, 0.2, 0.3: s = 0.1, t(0.975, 2) = 4.302653
    assert (found.mean, found.seeds) == (pytest.approx(0.2), 3)
    assert found.half == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    alone = summary.difference({0: 0.5}, {0: 0.25})
    assert alone == (0.25, math.inf, 1)
    assert summary.difference({0: 0.5}, {1: 0.25}) is None


def test_lines_by_hand() -> None:
    table = Comparison(
        {"x": Asked("x.toml", target=0.55)}, {"a": {"name": "gmp"}, "b": {"name": "rigl"}}, (0.1,), against="b"
    )
    cells = {
        Cell("x", "a", 0.1, 0): told(0.5, 0.6, 0.55), Cell("x", "a", 0.1, 1): told(0.1, 0.2, 0.45),
        Cell("x", "b", 0.1, 0): told(0.4, 0.5, 0.5), Cell("x", "b", 0.1, 1): {FAILED: "no power"},
    }  # fmt: skip
    a, b = summary.lines(table, cells)
    assert a.final == (pytest.approx(0.5), pytest.approx(np.std([0.55, 0.45], ddof=1)), 2)
    assert a.best.mean == pytest.approx((0.6 + 0.45) / 2)
    assert a.late.mean == pytest.approx((1.65 / 3 + 0.75 / 3) / 2)
    assert a.against == (pytest.approx(0.05), math.inf, 1)  # of the seed that both have
    assert a.reached == (2, 0.0, 1)  # the other seed never does
    assert a.curve == [(1, pytest.approx(0.3)), (2, pytest.approx(0.4)), (3, pytest.approx(0.5))]
    assert b.against is None
    assert b.failed == ["seed 1: no power"]


def test_where_less_is_better_all_is_turned_round() -> None:
    error = {"metric": {"name": "mean absolute error", "unit": "kg", "higher": False}}
    table = Comparison(
        {"x": Asked("x.toml", target=45.0)}, {"a": {"name": "gmp"}, "b": {"name": "rigl"}}, (0.1,), against="b"
    )
    cells = {
        Cell("x", "b", 0.1, 0): {**told(60, 47, 52), **error}, Cell("x", "b", 0.1, 1): {**told(60, 47, 56), **error},
        Cell("x", "a", 0.1, 0): {**told(50, 45, 50), **error}, Cell("x", "a", 0.1, 1): {**told(50, 44, 48), **error},
    }  # fmt: skip
    b, a = summary.lines(table, cells)
    assert (a.best.mean, b.best.mean) == (44.5, 47)
    assert (a.reached, b.reached) == ((2, 0, 2), None)
    assert a.against is not None
    assert a.against.mean == 5  # 2 and 8 kg better
    shown = page.page("it", table, [b, a], {})
    assert "mean absolute error, kg" in shown
    assert "accuracy" not in shown.lower()
    assert "rounds to 45 kg" in shown
    assert "<td>49 ± 1.414</td>" in shown.replace(' class="number"', "")
    assert [line.method for line in page.ranked([b, a])] == ["a", "b"]
    rates = chosen(
        {Cell("x", "a", 0.1, 0, 0.1): {**told(3), **error}, Cell("x", "a", 0.1, 0, 0.2): {**told(2), **error}}
    )
    assert rates == {"x": {"a": {0.1: 0.2}}}


def test_the_rate_that_does_best_late_on_development_parts_over_seeds() -> None:
    def cells(method: str, density: float, *tests: tuple[float, list[dict[str, Any]]]) -> dict[Cell, dict[str, Any]]:
        return {Cell("x", method, density, s, rate): each for rate, seeds in tests for s, each in enumerate(seeds)}

    early = told(0.0, *[0.6] * 9, 0.9)  # of its last ten tests: 0.63
    found = {
        **cells("a", 0.1, (0.1, [told(*[0.7] * 10), early]), (0.05, [told(0.8), told(0.5)]), (0.02, [told(0.65)] * 2)),
        **cells("a", 0.01, (0.1, [told(0.3)]), (0.02, [told(0.4)])),
        # one that fails once comes after one that never does; of equals the lower
        **cells("b", 0.1, (0.1, [told(0.9), {FAILED: "diverged"}]), (0.05, [told(0.2)] * 2), (0.02, [told(0.2)] * 2)),
        **cells("c", 0.1, (0.1, [{FAILED: "no power"}])),
    }
    rates = chosen(found)
    assert rates == {"x": {"a": {0.1: 0.1, 0.01: 0.02}, "b": {0.1: 0.02}}}
    for density, rate in ((0.2, 0.1), (0.05, 0.1), (0.02, 0.02), (0.001, 0.02)):
        assert nearest(rates, Cell("x", "a", density, 0)) == rate
    assert nearest(rates, Cell("x", "c", 0.1, 0)) == nearest(rates, Cell("y", "a", 0.1, 0)) == 0


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), max_size=12))
def test_a_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    on = [points[i] for i in charts.front([(float(cost), float(value)) for cost, value in points])]
    beaten = [any((c <= cost and v >= value) and (c, v) != (cost, value) for c, v in points) for cost, value in points]
    assert sorted({p for p, lost in zip(points, beaten, strict=True) if not lost}) == sorted(on)


def test_figures_of_a_table_by_hand() -> None:
    def cell(method: str, seed: int, value: float) -> dict[str, Any]:
        return {"experiment": "x", "method": method, "density": 0.01, "seed": seed, "curve": [[1, 0.1], [2, value]]}

    values = {"fedtiny": (0.5, 0.7), "magnitude": (0.4, 0.4), "snip": (0.1, 0.2), "rigl": (0.6, 0.9)}
    values["fedtiny_plus"] = (0.6, 0.9)
    cells = {f"{name}{seed}": cell(name, seed, values[name][seed]) for name in values for seed in range(2)}
    found = field.of_table({"cells": {**cells, "lost": {FAILED: "no power"}}})
    assert found["cells"].value == 10
    assert found["methods_compared"].value == 5
    assert found["x_fedtiny_plus_over_fedtiny_d001"].value == pytest.approx(15)
    assert found["x_best_method_over_fedtiny_plus_d001"].value == 0
    static = found["x_fedtiny_over_best_static_d001"]
    assert static.value == pytest.approx(20)  # over magnitude: 10 and 30 points
    assert static.against["magnitude"] == pytest.approx(40)
    # s = 14.142, t(0.975, 1) = 12.7062
    assert static.against["half of its interval"] == pytest.approx(12.7062 * 14.1421 / math.sqrt(2), rel=1e-4)
    assert found["x_best_method_over_fedtiny_d001"].value == pytest.approx(15)
    assert "x_fedtiny_over_best_ablation_d001" not in found
