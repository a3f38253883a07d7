"""PAD before a layer of windows: the layer pads by itself, to the same bits, and no padded map takes memory."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from c99_files import Draft
from c99_runs import compiler, computed, inputs, tflm

from fedprune.export import c99
from fedprune.export.c99.rules import lower

_SIDES = ((0, 0), (1, 2), (2, 1), (0, 0))


def convolved(draft: Draft) -> int:
    return draft.conv(draft.pad(draft.input, _SIDES), 6, (3, 3), stride=(2, 2), same=False)


def by_channel(draft: Draft) -> int:
    first = draft.conv(draft.input, 6, (1, 1))
    padded = draft.pad(first, _SIDES)
    return draft.conv(draft.conv(padded, 1, (3, 3), stride=(2, 2), same=False, depthwise=True), 4, (1, 1))


def sparse(draft: Draft) -> int:
    return draft.conv(draft.pad(draft.input, _SIDES), 60, (3, 3), same=False, density=0.1)


def read_twice(draft: Draft) -> int:
    padded = draft.pad(draft.input, _SIDES)
    return draft.both("ADD", draft.conv(padded, 3, same=False), draft.conv(padded, 3, same=False))


def other_value(draft: Draft) -> int:
    return draft.conv(draft.pad(draft.input, _SIDES, 99), 6, (3, 3), same=False)


def wider_than_a_window(draft: Draft) -> int:
    return draft.conv(draft.pad(draft.input, ((0, 0), (3, 0), (0, 3), (0, 0))), 6, (3, 3), same=False)


def padded_again(draft: Draft) -> int:
    return draft.conv(draft.pad(draft.input, _SIDES), 6, (3, 3))


@pytest.mark.parametrize(
    ("net", "joins"),
    [
        (convolved, True),
        (by_channel, True),
        (sparse, True),
        (read_twice, False),
        (other_value, False),
        (wider_than_a_window, False),
        (padded_again, False),
    ],
)
def test_a_layer_pads_by_itself_to_the_same_bits(net: Callable[[Draft], int], joins: bool, tmp_path: Path) -> None:
    compiler()
    draft = Draft((1, 9, 8, 3))
    model = draft.file(net(draft))
    assert ("place" not in [layer.kernel for layer in lower(model).layers]) == joins
    samples = inputs(model, 20)
    np.testing.assert_array_equal(computed(c99.generate(model), samples, tmp_path), tflm(model, samples))


def test_inverted_residuals_run_in_rows() -> None:
    draft = Draft((1, 40, 40, 3))
    wide = draft.conv(draft.conv(draft.input, 8, stride=(2, 2)), 48, (1, 1))
    padded = draft.pad(wide, ((0, 0), (1, 1), (1, 1), (0, 0)))
    last = draft.conv(draft.conv(padded, 1, stride=(2, 2), same=False, depthwise=True), 8, (1, 1))
    # the map of 48 channels takes 19,200 bytes, of which a few rows are kept
    assert c99.generate(draft.file(last)).arena_bytes < 10_000
