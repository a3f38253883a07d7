"""Channels that nothing moves or nobody reads, removed bit for bit."""

from collections.abc import Callable

import numpy as np
import pytest
from c99_files import Draft
from c99_nets import chain
from hypothesis import given, settings
from hypothesis import strategies as st

from fedprune.export import litert, tflm
from fedprune.export.chip import foreign
from fedprune.export.chip.compacting import compacted
from fedprune.export.inspection.file import inspect
from fedprune.export.litert.flatbuffer import pack
from fedprune.export.litert.reader import read
from fedprune.export.tflm.unpack import unpacked

pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only")

_DEAD = -(2**20)


def small(model: bytes) -> tuple[bytes, int]:
    """Return the compacted file, after asserting that its bits are the same, and how many channels are gone."""
    file = read(model)
    made = compacted(file)
    content = pack(unpacked(made.file))
    inputs = litert.rows(file, 30)
    np.testing.assert_array_equal(tflm.levels(content, inputs), tflm.levels(model, inputs))
    return content, made.removed


def dead(draft: Draft, count: int, which: slice = slice(0, 3), value: int = _DEAD) -> np.ndarray:
    """Biases of which some keep their channels below zero."""
    bias = draft.random.integers(-500, 500, count)
    bias[which] = value
    return bias


def separable(draft: Draft) -> int:
    """A pointwise layer, of which channels are dead behind ReLU6, a depthwise one, a pointwise one."""
    first = draft.conv(draft.input, 8, (1, 1), bias=dead(draft, 8), clip=3, grid=(0.05, -128))
    between = draft.conv(first, 1, depthwise=True, clip=1, grid=(0.05, -128), bias=np.zeros(8))
    return draft.conv(between, 5, (1, 1))


def flattened(draft: Draft) -> int:
    last = draft.conv(draft.input, 6, bias=dead(draft, 6, slice(2, 5)), clip=1, grid=(0.05, -128))
    pooled = draft.pool(last, "MAX_POOL_2D", (2, 2), (2, 2))
    return draft.linear(draft.reshape(pooled, (1, 54)), 4, single=True)


def constant(draft: Draft) -> int:
    """Channels that are 127 whatever comes, read by a layer without padding."""
    levels = draft.levels((6, 3, 3, 3), 1)
    levels[1] = 0
    bias = dead(draft, 6, slice(1, 3), -_DEAD * 64)
    last = draft.conv(draft.input, 6, levels=levels, bias=bias)
    return draft.conv(last, 5, same=False)


def unread(draft: Draft) -> int:
    """Layers of which the last reads a few channels, and so on backwards."""
    last = draft.unary("RELU", draft.conv(draft.input, 7))
    levels = draft.levels((6, 3, 3, 7), 1)
    levels[:, :, :, 2:6] = 0
    last = draft.conv(last, 6, levels=levels)
    levels = draft.levels((4, 1, 1, 6), 1)
    levels[..., ::2] = 0
    return draft.conv(last, 4, (1, 1), levels=levels)


def averaged(draft: Draft) -> int:
    last = draft.conv(draft.input, 9, (1, 1), bias=dead(draft, 9), clip=1, grid=(0.05, -128))
    return draft.linear(draft.reshape(draft.pool(last, "AVERAGE_POOL_2D", (6, 6), (1, 1)), (1, 9)), 4)


def meant(draft: Draft) -> int:
    """A mean on another scale of channels that are below zero, or 127, whatever comes."""
    bias = dead(draft, 9) + dead(draft, 9, slice(7, 9), -_DEAD * 64)
    last = draft.conv(draft.input, 9, (1, 1), bias=bias, clip=1, grid=(0.05, -128))
    return draft.linear(draft.reshape(draft.mean(last, (0.03, -17)), (1, 9)), 4)


@pytest.mark.parametrize(
    ("net", "gone"), [(separable, 3), (flattened, 3), (constant, 2), (unread, 4 + 3), (averaged, 3), (meant, 5)]
)
def test_channels_that_nothing_moves_are_gone_bit_for_bit(net: Callable[[Draft], int], gone: int) -> None:
    draft = Draft((1, 6, 6, 3))
    model = draft.file(net(draft))
    content, removed = small(model)
    assert removed >= gone  # others may be constant by chance
    assert inspect(content).macs < inspect(model).macs
    assert len(content) < len(model)


def test_a_constant_that_meets_padding_stays() -> None:
    draft = Draft((1, 6, 6, 3))
    bias = dead(draft, 6, slice(1, 3), -_DEAD * 64)
    last = draft.conv(draft.conv(draft.input, 6, bias=bias), 5)
    assert small(draft.file(last))[1] == 0


def test_a_layer_that_is_all_dead_keeps_a_channel() -> None:
    draft = Draft((1, 6, 6, 3))
    first = draft.conv(draft.input, 6, bias=dead(draft, 6, slice(0, 6)), clip=1, grid=(0.05, -128))
    assert small(draft.file(draft.conv(first, 5)))[1] == 5


def test_what_is_given_or_added_keeps_its_channels() -> None:
    draft = Draft((1, 6, 6, 3))
    first = draft.conv(draft.input, 6, bias=dead(draft, 6), clip=1, grid=(0.05, -128))
    second = draft.conv(first, 6, bias=dead(draft, 6), clip=1, grid=(0.05, -128))
    both = draft.both("ADD", first, second)
    assert small(draft.file(draft.conv(both, 3)))[1] == 0
    draft = Draft((1, 6, 6, 3))
    assert small(draft.file(draft.conv(draft.input, 6, bias=dead(draft, 6), clip=1, grid=(0.05, -128))))[1] == 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), share=st.floats(0, 1))
def test_any_chain_with_dead_channels_gives_the_same_bits(seed: int, share: float) -> None:
    draft = Draft((1, 6, 6, 3), seed)
    last = draft.input
    for at in range(draft.random.integers(2, 6)):
        count = int(draft.random.integers(2, 9))
        bias = np.where(draft.random.random(count) < share, _DEAD, draft.random.integers(-900, 900, count))
        kernel = [(1, 1), (3, 3)][at % 2]
        if draft.random.random() < 0.3:
            channels = draft.shape(last)[3]
            last = draft.conv(last, 1, depthwise=True, clip=1, bias=np.resize(bias, channels), grid=(0.05, -128))
        else:
            density = float(draft.random.choice([0.1, 0.5]))
            last = draft.conv(last, count, kernel, bias=bias, clip=int(draft.random.integers(0, 4)), density=density)
    small(draft.file(last))


def test_whole_nets_stay_bit_for_bit() -> None:
    for seed in range(6):
        small(chain(seed, 3, 4))


def test_the_c_and_the_file_have_the_channels_left() -> None:
    draft = Draft((1, 6, 6, 3))
    model = draft.file(separable(draft))
    count = compacted(read(model)).removed
    said = f"{count} channels that no input moves, or that nobody reads, are removed: the same bits"
    assert foreign.lite(model).said == (said,)
    assert inspect(foreign.lite(model).content).macs == inspect(foreign.files(model, "theirs")["model.tflite"]).macs
    assert said in foreign.files(model, "theirs")["model_card.md"].decode()
