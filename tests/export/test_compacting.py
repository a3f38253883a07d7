"""Channels that nothing moves or nobody reads, removed bit for bit."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from c99_files import Draft
from c99_nets import chain
from hypothesis import given, settings
from hypothesis import strategies as st

from fedprune.export import litert, tflm
from fedprune.export.chip import foreign
from fedprune.export.chip.channels import added
from fedprune.export.chip.compacting import compacted
from fedprune.export.inspection.file import inspect
from fedprune.export.litert.flatbuffer import File, pack
from fedprune.export.litert.reader import ModelError, read
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


def test_what_is_given_keeps_its_channels() -> None:
    draft = Draft((1, 6, 6, 3))
    assert small(draft.file(draft.conv(draft.input, 6, bias=dead(draft, 6), clip=1, grid=(0.05, -128))))[1] == 0


def residual(draft: Draft, first: slice, second: slice, clip: int = 0, last: tuple[int, int] = (1, 1)) -> int:
    """A sum of two layers, dead in these channels, and what reads it."""
    ways = [
        draft.conv(draft.input, 6, (1, 1), bias=dead(draft, 6, at), clip=1, grid=(0.05, -128)) for at in (first, second)
    ]
    return draft.conv(draft.both("ADD", *ways, clip=clip), 4, last, same=False)


@pytest.mark.parametrize(
    ("first", "second", "gone"),
    [
        (slice(0, 3), slice(1, 5), 2 * 2),
        (slice(0, 3), slice(3, 6), 0),
        (slice(0, 6), slice(1, 4), 2 * 3 + 3),
        (slice(0, 6), slice(0, 6), 2 * 5),
    ],
    ids=["both", "one or the other", "one of them all", "all"],
)
@pytest.mark.parametrize("clip", [0, 3])
def test_sums_without_channels_that_are_constant_in_both_for_any_input(
    first: slice, second: slice, gone: int, clip: int
) -> None:
    draft = Draft((1, 1, 1, 1))
    model = draft.file(residual(draft, first, second, clip))
    made = compacted(read(model))
    assert made.removed >= gone
    content = pack(unpacked(made.file))
    every = np.arange(-128, 128, dtype=np.int8)[:, None]
    np.testing.assert_array_equal(tflm.levels(content, every), tflm.levels(model, every))


@pytest.mark.parametrize("which", [0, 1])
def test_a_branch_that_somebody_else_reads_keeps_the_other_one_whole(which: int) -> None:
    draft = Draft((1, 6, 6, 3))
    last = residual(draft, slice(0, 3), slice(0, 3))
    model = draft.file(last, draft.operators[which].output)
    assert small(model)[1] == 0


def test_a_branch_that_is_the_same_for_every_input_is_a_constant() -> None:
    draft = Draft((1, 6, 6, 3))
    model = draft.file(residual(draft, slice(0, 6), slice(0, 0), last=(3, 3)))
    content, removed = small(model)
    assert removed == 6
    assert [row.operator for row in inspect(content).rows] == ["CONV_2D", "ADD", "CONV_2D"]
    seen = json.loads(foreign.files(model, "theirs", compare=True)["model_card.json"]).get("compared")
    assert seen is None or seen["differing"] == 0


def test_sums_one_behind_the_other_keep_the_channels_that_any_of_them_needs() -> None:
    draft = Draft((1, 6, 6, 3))
    dead_at = np.where(np.arange(6) < 3, _DEAD, 100)
    last = draft.conv(draft.input, 6, (1, 1), bias=dead_at, clip=1, grid=(0.05, -128))
    for at in range(3):
        bias = np.where(np.arange(6) < 3 - at, _DEAD, 100)
        inner = draft.conv(
            draft.conv(last, 5, (3, 3), clip=1, grid=(0.05, -128)), 6, bias=bias, clip=1, grid=(0.05, -128)
        )
        last = draft.both("ADD", last, inner, (0.05, -128))
    assert small(draft.file(draft.conv(last, 2, (1, 1))))[1] >= 4


@pytest.mark.parametrize("clip", [0, 1, 3])
@pytest.mark.parametrize(
    "grids",
    [((0.05, -3), (0.07, 12), (0.09, -20)), ((0.1, 5), (0.1, 5), (0.02, 0)), ((0.3, -128), (0.001, 90), (0.3, -128))],
)
def test_every_sum_of_two_levels_is_the_runtimes(grids: tuple[tuple[float, int], ...], clip: int) -> None:
    draft = Draft((1, 256, 256, 1), grid=grids[0])
    other = draft.activation((1, 256, 256, 1), grids[1])
    last = draft.both("ADD", draft.input, other, grids[2], clip)
    file = File(draft.tensors, draft.operators, (draft.input, other), (last,))
    first, second = (each.astype(np.int8) for each in np.meshgrid(*[np.arange(-128, 128)] * 2))
    ran = tflm.levels(pack(file), np.concatenate([first.reshape(1, -1), second.reshape(1, -1)], 1))
    found = added(file, file.operators[0], first, second)
    np.testing.assert_array_equal(found.reshape(-1), ran[0])
    assert (np.diff(found, axis=0) >= 0).all()
    assert (np.diff(found, axis=1) >= 0).all()


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
            clip = int(draft.random.integers(0, 4))
            before, last = last, draft.conv(last, count, kernel, bias=bias, clip=clip, density=density)
            if draft.random.random() < 0.4:
                alike = draft.shape(before) == draft.shape(last)
                other = before if alike else draft.conv(before, count, kernel, bias=np.roll(bias, 1), clip=1)
                last = draft.both("ADD", last, other)
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


@pytest.mark.parametrize("activation", [-1, 4])
def test_an_activation_of_another_kind_is_for_the_kernels_to_refuse(activation: int) -> None:
    draft = Draft((1, 6, 6, 3))
    last = draft.pool(draft.conv(draft.input, 4, (1, 1), clip=activation), "MAX_POOL_2D", (2, 2), (2, 2))
    draft.operators[1].options.fusedActivationFunction = activation
    file = read(draft.file(last))
    assert compacted(file).file is file
    with pytest.raises(ModelError, match=f"^operator 0, CONV_2D, has a fused activation of kind {activation}$"):
        foreign.files(draft.file(last), "theirs")


def test_a_map_that_no_chip_holds_takes_no_memory_here() -> None:
    draft = Draft((1, 1, 1, 2**31 - 1))
    file = read(draft.file(draft.unary("RELU", draft.input)))
    assert compacted(file).file is file


def test_biases_of_another_number_are_for_the_kernels_to_refuse() -> None:
    draft = Draft((1, 6, 6, 3))
    last = draft.conv(draft.input, 8)
    operator = draft.operators[0]
    draft.operators[0] = replace(operator, inputs=(*operator.inputs[:2], draft.constant(np.zeros(4))))
    file = read(draft.file(last))
    assert compacted(file).file is file
    with pytest.raises(ModelError, match=r"^operator 0, CONV_2D, has 4 biases for 8 filters$"):
        foreign.files(draft.file(last), "theirs")
