"""What fits a budget: the largest size, the least lean way to train, and needs that rise and fall as they should."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedprune.budgets import training_memory
from fedprune.budgets.plan import Need, densities, largest, ways, widths
from fedprune.graph import Conv2d, Graph, Linear, parameters, trace
from fedprune.models import build
from fedprune.training.lean import Lean, blocks

SHAPES = {"resnet8": (3, 16, 16), "dscnn": (1, 12, 10), "har_cnn": (3, 16), "digits_cnn": (1, 8, 8)}
TRACED: dict[str, tuple[Graph, tuple[str, ...]]] = {}


def traced(name: str) -> tuple[Graph, tuple[str, ...]]:
    """The graph of a shipped model, and the blocks that it recomputes."""
    if name not in TRACED:
        model = build(name, SHAPES[name], 5)
        TRACED[name] = trace(model, torch.zeros(1, *SHAPES[name])), blocks(model)
    return TRACED[name]


def needs(name: str, batch: int, way: Lean, density: float) -> int:
    """Bytes of a device's process that trains a shipped model in this way."""
    graph, names = traced(name)
    weights = [op.weight for op in graph.operations if isinstance(op, Conv2d | Linear)]
    return training_memory(
        graph,
        batch=batch,
        micro_batch=way.micro_batch,
        recompute=names if way.recompute else (),
        sparse=way.sparse,
        kept={weight.name: int(density * weight.value.size) for weight in weights},
    ).total


@given(st.integers(1, 5000), st.booleans())
def test_ways_grow_leaner_and_end_at_micro_batches_of_four(batch: int, sparse: bool) -> None:
    found = ways(batch, sparse=sparse)
    assert found[0] == Lean()
    assert len(set(found)) == len(found)
    assert all(way.sparse == sparse for way in found[1:])
    assert [way.sparse for way in found] == sorted(way.sparse for way in found)
    assert [way.recompute for way in found] == sorted(way.recompute for way in found)
    micro = [way.micro_batch for way in found if way.micro_batch]
    assert all(way.recompute for way in found if way.micro_batch)  # what changes nothing comes before what might
    assert all(size >= 4 for size in micro)
    for before, after in itertools.pairwise([batch, *micro]):
        assert after < before
        assert after == -(-before // 2)  # halves, rounded up
    last = micro[-1] if micro else batch
    assert -(-last // 2) < 4 or -(-last // 2) == last
    assert batch <= 4 or not micro or 4 <= micro[-1] <= 6
    own = ways(batch, sparse=False, recompute=False)
    assert own == (Lean(), *(Lean(size) for size in micro))


@pytest.mark.parametrize("name", list(SHAPES))
def test_each_way_needs_no_more_memory_than_the_one_before(name: str) -> None:
    for batch, density in ((4, 0.01), (8, 0.3), (128, 0.1)):
        found = [needs(name, batch, way, density) for way in ways(batch, sparse=True)]
        assert found == sorted(found, reverse=True), batch


@pytest.mark.parametrize("name", list(SHAPES))
def test_without_pruned_weights_micro_batches_cost_at_most_the_gradients_that_they_add_up(name: str) -> None:
    """So a plan takes the least of all ways, not the last's."""
    graph, _ = traced(name)
    gradients = 4 * sum(parameter.value.size for op in graph.operations for parameter in parameters(op))
    for batch in (8, 128):
        found = [needs(name, batch, way, 1.0) for way in ways(batch, sparse=False)]
        assert found[1] <= found[0]
        micro = found[2:]
        assert micro == sorted(micro, reverse=True)
        assert not micro or micro[0] <= found[1] + gradients


@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("way", [Lean(sparse=True), Lean(recompute=True, sparse=True), Lean(4, True, True), Lean()])
def test_a_larger_part_needs_no_less_memory(name: str, way: Lean) -> None:
    """So that what is smaller than a fitting size fits, as the search for the largest takes it."""
    found = [needs(name, 16, way, density) for density in densities(1.0)[::6]]
    assert found == sorted(found)


@given(st.lists(st.floats(0.001, 1), unique=True, max_size=40), st.floats(0, 1.1))
def test_the_largest_that_fits_is_what_trying_all_of_them_finds(sizes: list[float], limit: float) -> None:
    ascending = sorted(sizes)
    asked: list[float] = []

    def fits(size: float) -> bool:
        asked.append(size)
        return size <= limit

    assert largest(ascending, fits) == max((size for size in ascending if size <= limit), default=None)
    assert len(asked) <= len(ascending).bit_length()  # by halving: each answer costs a traced model
    assert len(set(asked)) == len(asked)


@given(st.floats(0.0005, 1))
def test_sizes_ascend_and_end_at_what_is_asked_for(most: float) -> None:
    for grid in (densities(most), widths(most)):
        assert grid[-1] == most
        assert all(a < b for a, b in itertools.pairwise(grid))
        assert all(0 < size <= 1 for size in grid)


def test_densities_have_two_digits_and_widths_are_sixteenths() -> None:
    assert densities(1.0)[:3] == pytest.approx((0.001, 0.0011, 0.0012))
    assert {0.01, 0.011, 0.1, 0.11, 0.99} <= {round(size, 6) for size in densities(1.0)}
    assert all(float(f"{size:.2g}") == pytest.approx(size) for size in densities(1.0))
    # no step is above a tenth, so a budget is used to nine tenths where it binds
    assert all(b / a <= 1.1 + 1e-9 for a, b in itertools.pairwise(densities(1.0)))
    assert widths(1.0) == tuple(step / 16 for step in range(1, 17))
    assert widths(0.3) == (0.0625, 0.125, 0.1875, 0.25, 0.3)


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_a_need_is_met_by_as_much_and_by_no_limit(needed: int, allowed: int) -> None:
    assert Need("flash_bytes", needed, allowed).met == (allowed == 0 or needed <= allowed)
    assert Need("flash_bytes", allowed, allowed).met
    assert Need("flash_bytes", needed, 0).met
