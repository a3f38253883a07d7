"""Kernels of every weight on every processor: what they compute is TensorFlow Lite Micro's, bit for bit."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from c99_files import Draft
from c99_runs import computed, inputs, tflm, written

from fedprune.export import c99
from fedprune.export.c99 import boards
from fedprune.export.c99.dense import dense
from fedprune.export.c99.encoding import DENSE, Code, encode
from fedprune.export.c99.program import ALL_ROWS, SAME_ROWS, Array, Filters, Layer
from fedprune.types import Tensor

pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only")

GRID = (0.04, -11)


def whole(layers: Sequence[Tensor], kernels: Sequence[str]) -> list[Code]:
    return [encode(filters, DENSE) for filters in layers]


def windows() -> bytes:
    draft = Draft((1, 5, 7, 6), seed=3)
    kinds = [
        # filters, kernel, stride, dilation, same
        (1, (1, 1), (1, 1), (1, 1), True), (5, (3, 3), (1, 1), (1, 1), True), (8, (3, 3), (2, 2), (1, 1), True),
        (3, (2, 5), (1, 2), (1, 1), False), (7, (3, 2), (1, 1), (2, 3), True), (2, (5, 7), (1, 1), (1, 1), False),
    ]  # fmt: skip
    flat = []
    for at, (filters, kernel, stride, dilation, same) in enumerate(kinds):
        for depthwise in (False, True):
            count = 1 if depthwise else filters
            values = {"clip": (0, 1, 3, 2)[at % 4], "grid": GRID, "same": same, "depthwise": depthwise}
            made = draft.conv(draft.input, count, kernel, stride, dilation, **values)
            flat.append(draft.reshape(made, (1, 1, 1, int(np.prod(draft.shape(made))))))
    odd = draft.conv(draft.input, 5, (1, 1), grid=GRID)
    for made in (draft.conv(odd, 3, (1, 3), grid=GRID), draft.conv(odd, 1, (3, 3), depthwise=True, grid=GRID)):
        flat.append(draft.reshape(made, (1, 1, 1, int(np.prod(draft.shape(made))))))
    joined = draft.concat([draft.concat(flat[:7], 3), draft.concat(flat[7:], 3)], 3)
    return draft.file(joined)


def vectors() -> bytes:
    draft = Draft((1, 1, 1, 37), seed=4)
    first = draft.linear(draft.input, 14, grid=GRID, fusedActivationFunction=1)
    return draft.file(draft.linear(draft.linear(first, 3, grid=GRID), 9, grid=GRID))


def large(factor: float = 0.3) -> bytes:
    draft = Draft((1, 6, 6, 64), seed=5)
    levels = draft.random.integers(70, 128, (5, 3, 3, 64)) * draft.random.choice([-1, 1], (5, 3, 3, 64))
    levels[3] = np.abs(levels[3])
    few = draft.random.integers(-3, 4, (4, 1, 1, 5))
    made = draft.conv(draft.input, 5, (3, 3), levels=levels.astype(np.int8), grid=(0.04, 3))
    return draft.file(draft.conv(made, 4, levels=few.astype(np.int8), factor=factor, grid=GRID))


def channels(factor: float | None = None, bias: int = 0) -> bytes:
    """One to nine channels, each with windows of one to 25 taps of its own."""
    draft = Draft((1, 5, 6, 3), seed=7)
    kernels = ((1, 1), (1, 2), (3, 1), (2, 2), (3, 3), (2, 5), (3, 4), (5, 5))
    flat = []
    for count in range(1, 10):
        source = draft.conv(draft.input, count, (1, 1), grid=GRID)
        for kernel in (kernels[(at + count) % len(kernels)] for at in (0, 3)):
            grid = (0.04, 5)
            biases = np.where(np.arange(count) % 3 == 1, bias, 9)
            made = draft.conv(source, 1, kernel, density=0.9, depthwise=True, grid=grid, factor=factor, bias=biases)
            flat.append(draft.reshape(made, (1, 1, 1, int(np.prod(draft.shape(made))))))
    return draft.file(draft.concat([draft.concat(flat[:9], 3), draft.concat(flat[9:], 3)], 3))


def sums() -> bytes:
    draft = Draft((1, 3, 7, 5), seed=9)
    first = draft.conv(draft.input, 5, grid=GRID)
    more = draft.both("ADD", first, draft.conv(first, 5, (3, 3), grid=(0.07, 6)), (0.06, 4), clip=1)
    return draft.file(draft.both("ADD", more, first, (0.03, -20)))


def large_window() -> bytes:
    draft = Draft((1, 105, 105, 13), seed=8)
    made = draft.conv(draft.input, 1, (105, 105), same=False, depthwise=True, grid=(0.04, 5))
    return draft.file(draft.conv(made, 3, grid=GRID))


FILES = {
    "windows": windows, "vectors": vectors, "large sums": large, "large factors": lambda: large(0.7),
    "sums": sums, "channels": channels, "channels, large factors": lambda: channels(0.6),
    "channels, large biases": lambda: channels(None, 2**24), "a window as for large biases": large_window,
}  # fmt: skip


@pytest.mark.parametrize("target", boards.TARGETS)
@pytest.mark.parametrize("name", FILES)
def test_every_weight(name: str, target: str, tmp_path: Path) -> None:
    if lacking := boards.missing(target):
        pytest.skip(lacking)
    model = FILES[name]()
    given = inputs(model, 5)
    flat = given.reshape(5, -1)
    wanted = tflm(model, given)
    assert np.ptp(wanted.astype(int), axis=0).max() > 10
    sources = c99.generate(model, whole)
    assert ("struct vector {" if name == "vectors" else "struct dense {") in sources.source
    assert "struct cursor {" not in sources.source
    _, _, said = name.partition("large ")
    assert not said or f"#define MODEL_HAS_LARGE_{said.upper()}" in sources.source
    ran = boards.run(written(sources, tmp_path), target, flat).outputs if target != "host" else None
    np.testing.assert_array_equal(computed(sources, given, tmp_path) if ran is None else ran, wanted)


@pytest.mark.parametrize("target", ["cortex-m3", "cortex-m4", "cortex-m7", "cortex-m55"])
@pytest.mark.parametrize("optimise", ["-O0", "-Os"])
@pytest.mark.parametrize("name", ["windows", "vectors", "channels", "channels, large factors"])
def test_however_it_is_compiled(name: str, optimise: str, target: str, tmp_path: Path) -> None:
    if lacking := boards.missing(target):
        pytest.skip(lacking)
    given = inputs(model := FILES[name](), 2)
    folder = written(c99.generate(model, whole), tmp_path)
    ran = boards.run(folder, target, given.reshape(2, -1), optimise=optimise)
    np.testing.assert_array_equal(ran.outputs, tflm(model, given))


@pytest.mark.parametrize("kernel", ["conv", "linear"])
def test_weights_that_share_no_word_are_left_alone(kernel: str) -> None:
    def made(levels: Tensor) -> Layer | None:
        return dense(Layer(kernel, (0,), 1, {}, SAME_ROWS if kernel == "conv" else ALL_ROWS, 0, Filters(levels)))

    levels = np.zeros((2, 1200), np.int8)
    levels[1, 3] = -128
    assert made(levels) is not None
    levels[0, 3] = -1  # -128 * 256 - 1 is no half
    assert made(levels) is None
    assert made(np.full((2, 1200), 50, np.int8)) is not None
    assert made(np.full((2, 1200), 55, np.int8)) is None  # 33,000 times 128 passes 2^22 in a half


def test_words_by_hand() -> None:
    levels = np.int8([[1, -2, 3], [4, 5, -6], [7, 0, 0]])
    layer = dense(Layer("conv", (0,), 1, {}, SAME_ROWS, 0, Filters(levels)))
    assert layer is not None
    assert isinstance(code := layer.fields["code"], Array)
    halves = [1 + 4 * 256, -2 + 5 * 256, 3 - 6 * 256, 0, 7, 0, 0, 0]
    assert [*np.array(code.values, np.int32).view(np.int16)] == halves
