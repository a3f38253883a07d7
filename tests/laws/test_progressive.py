"""Laws of turns: every layer in one block, every block in its turn, whatever the period and the number of blocks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.pruning import criteria
from fedprune.pruning.pruners import regrow
from fedprune.pruning.schedules import constant
from fedprune.pruning.turns import backward, blocks_by_name, by_layer, entire, in_turn

NAMES = st.lists(
    st.tuples(st.sampled_from(["stage1", "stage2", "stage3", "layers"]), st.integers(0, 30)), unique=True, max_size=14
).map(lambda pairs: [f"{module}.{index}.weight" for module, index in sorted(pairs)])


@given(NAMES, st.integers(1, 8))
def test_blocks_hold_every_layer_once_in_forward_order(names: list[str], most: int) -> None:
    for blocks in (blocks_by_name(names, most), by_layer(names), entire(names)):
        assert [name for block in blocks for name in block] == names
    blocks = blocks_by_name(names, most)
    assert all(blocks)
    assert len(blocks) <= most


@given(NAMES, st.integers(1, 8))
def test_blocks_are_modules_where_there_are_few_else_equal_runs(names: list[str], most: int) -> None:
    modules = {name.split(".")[0] for name in names}
    blocks = blocks_by_name(names, most)
    if 1 < len(modules) <= most:
        assert [{name.split(".")[0] for name in block} for block in blocks] == [{m} for m in sorted(modules)]
    elif names:
        lengths = [len(block) for block in blocks]
        assert len(blocks) == min(most, len(names))
        assert max(lengths) - min(lengths) <= 1


@given(NAMES, st.integers(1, 8))
def test_backward_is_the_reverse(names: list[str], most: int) -> None:
    blocks = blocks_by_name(names, most)
    assert backward(blocks) == blocks[::-1]
    assert backward(backward(blocks)) == blocks


@given(st.integers(1, 7), st.integers(1, 13), st.integers(0, 120))
def test_every_block_in_its_turn_whatever_the_period(number: int, period: int, until: int) -> None:
    names = [f"layer{i}" for i in range(number)]
    masks = {name: np.array([True, True, False, False]) for name in names}
    flat = {kind: {name: np.arange(4.0) for name in names} for kind in ("weight", "grad")}
    swap = regrow(criteria.magnitude, criteria.gradient, constant(0.5))
    pruner = in_turn(by_layer(names), period, swap, until=until)

    adjusted = []
    for step in range(until + 2 * period):
        says, after = pruner.grows(masks, step), pruner.update(masks, flat, step)
        changed = [name for name in names if not np.array_equal(after[name], masks[name])]
        assert list(says) == changed
        adjusted += [(step, name) for name in changed]

    # a count of adjustments, from 0, decides the block; nothing at round 0 nor after ``until``
    expected = [((n + 1) * period, names[n % number]) for n in range(until // period)]
    assert adjusted == expected


def test_turns_without_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="no prunable layer"):
        in_turn([], 10, regrow(criteria.magnitude, criteria.gradient, constant(0.5)), until=100)
