"""Operators on two operands, means, roots, norms and products of matrices in C: TensorFlow Lite Micro's bits."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from c99_calculators import CALCULATORS, levels_of, matmul, narrow, wide, wide_op
from c99_files import Draft
from c99_memory import Memory, together
from c99_nets import chain
from c99_runs import computed, inputs, tflm
from hypothesis import given, settings
from hypothesis import strategies as st
from test_c99 import agree, joined

from fedprune.export import c99
from fedprune.export.c99.elementwise import table
from fedprune.export.c99.plan import plan
from fedprune.export.c99.rules import lower
from fedprune.export.litert.reader import ModelError

pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only")

TARGET = (0.05, 7)


# those of the first twenty whose outputs follow their inputs closely
@pytest.mark.parametrize("seed", [0, 3, 5, 7, 9, 14, 15, 19])
def test_random_nets(seed: int, tmp_path: Path) -> None:
    agree(chain(seed, kinds=CALCULATORS), tmp_path)


@given(st.integers(0, 2**32), st.integers(1, 9))
def test_plans_never_lose_a_byte(seed: int, layers: int) -> None:
    program = lower(chain(seed, layers, kinds=CALCULATORS))
    found = plan(program)
    Memory(program, found).run()
    assert found.arena_bytes <= together(program)


def same(model: bytes, seed: int = 0, count: int = 5) -> None:
    """Run a model in both on random inputs."""
    samples = inputs(model, count, seed)
    with TemporaryDirectory() as folder:
        np.testing.assert_array_equal(computed(c99.generate(model), samples, Path(folder)), tflm(model, samples))


def scaled(draft: Draft, source: int, wide: bool) -> int:
    """Return a map in another scale, of int16 if ``wide``."""
    scale, zero = float(np.exp(draft.random.uniform(-5, 0))), int(draft.random.integers(-128, 128))
    grid, dtype = ((scale / 200, 0), np.int16) if wide else ((scale, zero), np.int8)
    return draft.add("QUANTIZE", (source,), draft.activation(draft.shape(source), grid, dtype))


def operand(draft: Draft, shape: Sequence[int], wide: bool, fixed: bool) -> int:
    """Return an activation or a constant of a shape that the input's broadcasts from."""
    if fixed:
        limits, trimmed = np.iinfo(np.int16 if wide else np.int8), [*shape]
        while trimmed and trimmed[0] == 1 and draft.random.random() < 0.7:
            trimmed = trimmed[1:]
        scale = np.array([np.exp(draft.random.uniform(-5, 0)) / (200 if wide else 1)], np.float32)
        values = draft.random.integers(limits.min, limits.max + 1, trimmed)
        zero = 0 if wide else int(draft.random.integers(-128, 128))
        return draft.constant(values, limits.dtype, scales=scale, zero_point=zero)
    return scaled(draft, draft.slice(draft.input, (0, 0, 0, 0), (1, *shape), (1, 1, 1, 1)), wide)


CLIPS = ("ADD", "SUB", "MUL")


@settings(max_examples=12, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 6)] * 3),
    ones=st.lists(st.tuples(*[st.booleans()] * 6), min_size=9, max_size=9),
    wide=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_operands_of_any_shapes(sizes: tuple[int, ...], ones: list[tuple[bool, ...]], wide: bool, seed: int) -> None:
    draft, results = Draft((1, *sizes), seed), []
    codes = [*CLIPS, "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"] * 2
    for at, (code, mask) in enumerate(zip(codes, ones, strict=False)):
        pair = [[1 if one else size for one, size in zip(part, sizes, strict=True)] for part in (mask[:3], mask[3:])]
        ends = [operand(draft, shape, wide, at % 3 == which + 1) for which, shape in enumerate(pair)]
        shape = (1, *np.broadcast_shapes(*pair))
        clip = {"fusedActivationFunction": at % 4} if code in CLIPS else {}
        first, second = (draft.grid(each)[0] for each in ends)
        usual = {"MUL": first * second * 9e3, "SQUARED_DIFFERENCE": max(first, second) ** 2 * 9e3}
        scale = usual.get(code, max(first, second)) if wide else TARGET[0]
        last = draft.activation(shape, (scale, 0 if wide else 7), np.int16 if wide else np.int8)
        draft.add(code, ends, last, 2, **clip)
        results.append(draft.unary("QUANTIZE", narrow(draft, last, 0.3) if wide else last, TARGET))
    same(draft.file(joined(draft, results)), seed)


@settings(max_examples=12, deadline=None)
@given(sizes=st.tuples(*[st.integers(1, 7)] * 3), seed=st.integers(0, 2**32))
def test_means_over_any_axes(sizes: tuple[int, ...], seed: int) -> None:
    draft = Draft((1, *sizes), seed)
    results = []
    for at in range(9):
        wide, rank = at % 2 == 1, (4, 3, 2)[at % 3]
        source = scaled(draft, draft.input, wide)
        if rank < 4:
            last = [
                draft.activation(shape, draft.grid(source), draft.tensors[source].dtype)
                for shape in [
                    ((1, *sizes[1:]) if sizes[0] == 1 else sizes) if rank == 3 else (sizes[0] * sizes[1], sizes[2])
                ]
            ]
            source = draft.add("RESHAPE", (source, draft.constant(draft.shape(last[0]))), last[0])
        shape = draft.shape(source)
        axes = [axis for axis in range(int(rank == 4), rank) if draft.random.random() < 0.5] or [rank - 1]
        keep = bool(draft.random.random() < 0.5) or len(axes) == rank
        kept = [1 if axis in axes else size for axis, size in enumerate(shape) if keep or axis not in axes]
        scale, zero = draft.grid(source)
        grid = (scale, zero) if at % 4 == 0 else (scale * float(np.exp(draft.random.uniform(-2, 0.5))), 0)
        mean = draft.activation((*kept,), grid, draft.tensors[source].dtype)
        named = [axis - rank if axis % 2 else axis for axis in axes]
        draft.add("MEAN", (source, draft.constant(named)), mean, 2, keepDims=keep)
        results.append(draft.unary("QUANTIZE", narrow(draft, mean) if wide else mean, TARGET))
    same(draft.file(joined(draft, results)), seed)


@settings(max_examples=12, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 7)] * 4),
    cases=st.lists(st.tuples(*[st.booleans()] * 4, st.integers(0, 2)), min_size=8, max_size=8),
    seed=st.integers(0, 2**32),
)
def test_products_of_matrices(
    sizes: tuple[int, ...], cases: list[tuple[bool, bool, bool, bool, int]], seed: int
) -> None:
    batch, rows, inner, columns = sizes
    draft = Draft((1, batch, max(rows, columns), inner), seed)
    results = []
    for turned_a, turned_b, one_a, one_b, fixed in cases:
        ends = []
        for which, (one, turned, count) in enumerate(((one_a, turned_a, rows), (one_b, not turned_b, columns))):
            shape = (1, 1 if one else batch, *((inner, count) if turned else (count, inner)))
            if fixed == which + 1:
                ends.append(levels_of(draft, shape))
                continue
            part = draft.slice(draft.input, (0, 0, 0, 0), (1, shape[1], count, inner), (1, 1, 1, 1))
            ends.append(scaled(draft, draft.reshape(part, shape), False))
        shape = (1, 1 if one_a and one_b else batch, rows, columns)
        results.append(draft.unary("QUANTIZE", matmul(draft, *ends, shape, (turned_a, turned_b)), TARGET))
    same(draft.file(joined(draft, results)), seed)


def test_layers_of_each_position(tmp_path: Path) -> None:
    draft = Draft((1, 3, 7, 5))
    line = draft.reshape(draft.input, (1, 21, 5))
    flat = draft.activation((21, 4), TARGET)
    draft.linear(line, 4, positions=True, grid=TARGET)
    draft.operators[-1] = replace(draft.operators[-1], output=flat)  # its options keep no axes
    draft.operators[-1].options.keepNumDims = False
    results = [
        flat,
        *(
            draft.linear(source, 6, positions=True, grid=TARGET, single=single)
            for source in (draft.input, line)
            for single in (False, True)
        ),
    ]
    agree(draft.file(joined(draft, results)), tmp_path)


@pytest.mark.parametrize(
    ("scale", "most", "windows"),
    [*((scale, 9000, (90, 300, 700)) for scale in (1e-6, 3e-5, 1e-3, 0.02)), (3e-5, 300_000, range(1900, 4000, 230))],
)
def test_roots_of_int16_to_the_step(scale: float, most: int, windows: Sequence[int], tmp_path: Path) -> None:
    shape, step = (1, 1, 4, 60), 1 / float(np.sqrt(scale)) / most
    draft = Draft(shape, grid=(scale * 90, -128))
    source = draft.add("QUANTIZE", (draft.input,), draft.activation(shape, (scale, 0), np.int16))
    root = wide_op(draft, "RSQRT", (source,), step, shape)
    results = []
    for less in windows:  # of the results, step by step
        other = draft.constant([less], np.int16, scales=np.array([step], np.float32))
        rest = wide_op(draft, "SUB", (root, other), step, shape, fusedActivationFunction=0)
        results.append(draft.add("QUANTIZE", (rest,), draft.activation(shape, (step, 0))))
    agree(draft.file(draft.concat(results)), tmp_path)


def test_vectors_of_length_one(tmp_path: Path) -> None:
    draft = Draft((1, 3, 4, 21))
    sources = [scaled(draft, draft.input, False) for _ in range(3)]
    sources += [draft.reshape(sources[0], (1, 12, 21)), draft.pad(sources[1], ((0, 0), (0, 1), (0, 0), (0, 5)))]
    agree(draft.file(joined(draft, [draft.unary("L2_NORMALIZATION", at, (1 / 128, 0)) for at in sources])), tmp_path)


def test_slopes_of_channels(tmp_path: Path) -> None:
    draft = Draft((1, 3, 4, 5))
    results = []
    for shape in ((1, 1, 5), (5,), (3, 4, 5), (1, 4, 1), (1,)):
        slope = levels_of(draft, shape)
        results.append(draft.add("PRELU", (draft.input, slope), draft.activation((1, 3, 4, 5), TARGET)))
    agree(draft.file(joined(draft, results)), tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_quotients(seed: int, tmp_path: Path) -> None:
    draft = Draft((1, 12, 12, 2), seed, grid=(0.04, 9))
    first, second = (draft.slice(draft.input, (0, 0, 0, at), (1, 12, 12, at + 1), (1, 1, 1, 1)) for at in range(2))
    scale = float(np.exp(draft.random.uniform(-6, -4)))
    last = draft.activation((1, 12, 12, 1), (scale, 5))
    model = draft.file(draft.add("DIV", (first, second), last, 2, fusedActivationFunction=0))
    samples = inputs(model, 6, seed)
    steps = samples.astype(int) - 9
    samples[..., 1][steps[..., 1] == 0] = 33  # nothing is divided by zero
    samples[..., 0][np.abs(steps[..., 0]) == 1] = 50  # where TensorFlow Lite Micro shifts further than a word is long
    wanted = tflm(model, samples)
    assert np.ptp(wanted.astype(int)) > 100
    np.testing.assert_array_equal(computed(c99.generate(model), samples, tmp_path), wanted)


def test_one_constant_is_a_table(tmp_path: Path) -> None:
    draft = Draft((1, 3, 4, 5))
    results = []
    for code in (*CLIPS, "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "DIV"):
        clip = {"fusedActivationFunction": 1} if code in (*CLIPS, "DIV") else {}
        single = draft.constant(
            np.full((1,) * (len(results) % 5), 97), np.int8, scales=np.float32([0.02]), zero_point=3
        )
        pair = (draft.input, single) if code == "DIV" or len(results) % 2 else (single, draft.input)
        results.append(draft.add(code, pair, draft.activation((1, 3, 4, 5), TARGET), 2, **clip))
    model = draft.file(joined(draft, results))
    assert {layer.kernel for layer in lower(model).layers} == {"lookup", "place"}
    agree(model, tmp_path)


REAL = {
    "ABS": (np.abs, -128), "ELU": (lambda x: np.where(x > 0, x, np.expm1(x)), 0), "RSQRT": (lambda x: x**-0.5, -128),
    "SQRT": (np.sqrt, -128), "EXP": (np.exp, 0), "LOG": (np.log, -128),
}  # fmt: skip


@pytest.mark.parametrize("code", REAL)
def test_tables_are_those_of_mathematics(code: str) -> None:
    function, zero = REAL[code]
    draft = Draft((1, 1, 1, 4), grid=(0.02, zero))
    real = (np.arange(-128, 128) - zero) * np.float64(np.float32(0.02))
    with np.errstate(all="ignore"):
        wanted = function(real)
    fits = np.isfinite(wanted)
    low, high = min(0.0, float(wanted[fits].min())), max(0.0, float(wanted[fits].max()))
    scale = (high - low) / 255
    last = draft.unary(code, draft.input, (scale, round(-128 - low / scale)), 1)
    found = table(draft.tensors.__getitem__, draft.operators[0])
    steps = np.clip(np.rint(wanted[fits] / scale) + draft.grid(last)[1], -128, 127)
    assert np.abs(np.array(found)[fits] - steps).max() <= 1


def test_a_gelu_is_the_reference_kernels() -> None:
    draft = Draft((1, 1, 1, 4), grid=(0.03, 4))
    draft.unary("GELU", draft.input, (0.02, -100), approximate=False)
    real = torch.nn.functional.gelu(torch.tensor((np.arange(-128, 128) - 4) * 0.03)).numpy()
    found = table(draft.tensors.__getitem__, draft.operators[0])
    assert np.abs(np.array(found) - np.clip(np.rint(real / 0.02) - 100, -128, 127)).max() <= 1


def wide_pair(code: str, shape: tuple[int, ...] = (1, 1, 2, 3), **values: Any) -> Callable[[Draft], int]:
    return lambda draft: narrow(
        draft, wide_op(draft, code, (wide(draft, draft.input), wide(draft, draft.input)), 0.1, shape, **values)
    )


def both(code: str, *shapes: tuple[int, ...], grid: tuple[float, int] = TARGET) -> Callable[[Draft], int]:
    """An operator on constants of shapes, the input before them if there is but one."""
    return lambda draft: draft.both(code, *[0, *(levels_of(draft, shape) for shape in shapes)][-2:], grid=grid)


WRONG: list[tuple[str, Callable[[Draft], int]]] = [
    ("SUB, has constant operands alone", both("SUB", (1, 1, 2, 3), (3,))),
    (r"SUB, has operands of shapes \(1, 2, 3\) and \(1, 2, 2\)", both("SUB", (1, 2, 2))),
    ("SUB, has operands whose scales are too large", both("SUB", (3,), grid=(1e-9, 0))),
    ("operands and a result of different types", lambda draft: draft.both("SUB", wide(draft, 0), 0)),
    ("PRELU, works on int16", wide_pair("PRELU")),
    ("DIV, divides int16", wide_pair("DIV", fusedActivationFunction=0)),
    ("ABS, works on int16", wide_pair("ABS")),
    ("BATCH_MATMUL, works on int16", wide_pair("BATCH_MATMUL", (1, 1, 3, 3), adjX=True)),
    ("BATCH_MATMUL, multiplies matrices of shapes", lambda draft: matmul(draft, 0, 0, (1, 1, 2, 2))),
    ("L2_NORMALIZATION, has an output of scale", lambda draft: draft.unary("L2_NORMALIZATION", draft.input, (0.01, 0))),
    ("MEAN, is over axes .3., which do not give its output", lambda draft: draft.add(
        "MEAN", (draft.input, draft.constant([3])), draft.activation((1, 1, 1, 3)), 2, keepDims=True)),
]  # fmt: skip


@pytest.mark.parametrize(("line", "wrong"), WRONG, ids=[line for line, _ in WRONG])
def test_what_has_no_kernel_is_refused_in_one_line(line: str, wrong: Callable[[Draft], int]) -> None:
    draft = Draft((1, 1, 2, 3))
    with pytest.raises(ModelError, match=line):
        c99.generate(draft.file(wrong(draft)))
