"""The numbers of exported C: each rounding, clip and sum is TensorFlow Lite Micro's, whatever the grids and weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from c99_files import Draft, joined
from c99_runs import agree, computed, each_in_turn, inputs, tflm

from fedprune.export import c99
from fedprune.export.c99.encoding import ENCODINGS
from fedprune.export.c99.lowering import lower
from fedprune.export.litert.runtime import interpreter

pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only")

GRIDS = [(0.05, -3), (1e-4, 90), (0.3, -128), (0.013, 127), (7.0, 0), (0.002, 4)]


def test_sums_products_and_means_of_many_grids(tmp_path: Path) -> None:
    draft = Draft((1, 3, 5, 4))
    target = (0.05, 7)
    made = [draft.conv(draft.input, 4, (1, 1), grid=grid) for grid in GRIDS]
    pairs = [(a, b, at % 4) for at, (a, b) in enumerate(zip(made, [*made[2:], made[0], made[0]], strict=True))]
    results = [draft.both("ADD", a, b, target, clip) for a, b, clip in pairs]
    results += [draft.both("MUL", a, b, target, clip) for a, b, clip in pairs]
    results += [draft.both("MUL", draft.conv(draft.mean(draft.input), 4, (1, 1), grid=(0.02, 3)), made[0], target)]
    results += [draft.mean(each, target, ((1, 2), (-2, 1))[at % 2], at > 2) for at, each in enumerate(made)]
    results += [draft.mean(each, target, (1, 2)) for each in (draft.unary("QUANTIZE", results[0], target), draft.input)]
    fine = [draft.conv(draft.input, 4, (1, 1), grid=(0.025, zero)) for zero in (5, 0)]
    results.append(draft.both("ADD", *fine, target))  # every second sum is a half
    agree(draft.file(joined(draft, results)), tmp_path)


def test_softmax_of_many_grids(tmp_path: Path) -> None:
    draft = Draft((1, 3, 5, 4))
    counts, betas = (2, 1, 9, 4, 3, 19), (1, 1, 0.5, 4, 1, 2)
    made = [draft.conv(draft.input, classes, (1, 1), grid=grid) for classes, grid in zip(counts, GRIDS, strict=True)]
    results = [draft.unary("SOFTMAX", at, (1 / 256, -128), beta=beta) for at, beta in zip(made, betas, strict=True)]
    agree(draft.file(joined(draft, results)), tmp_path, count=300)


def test_tables_of_operations_on_each_value(tmp_path: Path) -> None:
    draft = Draft((1, 3, 5, 4))
    made = [draft.conv(draft.input, 4, (1, 1), grid=grid) for grid in GRIDS]
    values = {"LEAKY_RELU": {"alpha": 0.3}, "HARD_SWISH": {"version": 1}}
    grids = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}
    for codes in (("RELU", "LEAKY_RELU", "QUANTIZE", "HARD_SWISH"), ("LOGISTIC",), ("TANH",)):
        results = [
            draft.unary(code, at, grids.get(code, (0.05, -3)), **values.get(code, {})) for code in codes for at in made
        ]
        results += [draft.unary("RELU6", made[0], (0.05, -3))] if "RELU" in codes else []
        agree(draft.file(joined(draft, results)), tmp_path)


def test_a_clip_of_other_grids_is_that_of_the_reference_kernels(tmp_path: Path) -> None:
    # TensorFlow Lite Micro's RELU6 leaves its input's scale as it is; LiteRT's goes to its output's, as the file says
    draft = Draft((1, 4, 4, 5))
    model = draft.file(draft.unary("RELU6", draft.input, (0.07, 10)))
    given = inputs(model, 4)
    running = interpreter(model, reference=True)
    running.allocate_tensors()
    wanted = []
    for sample in given:
        running.set_tensor(running.get_input_details()[0]["index"], sample[None])
        running.invoke()
        wanted.append(running.get_tensor(running.get_output_details()[0]["index"]).reshape(-1))
    np.testing.assert_array_equal(computed(c99.generate(model), given, tmp_path), wanted)


@pytest.mark.parametrize("single", [False, True])
def test_linear_layers(single: bool, tmp_path: Path) -> None:
    draft = Draft((1, 6, 5, 2))
    grid = (0.05, -9)
    narrow = draft.conv(draft.input, 17, (6, 5), (1, 1), same=False)
    results = [draft.conv(draft.input, 3, (3, 3), grid=grid)]  # of 18 columns: a layer of 17 inputs is as a convolution
    for at in range(10):
        values = {"single": single, "grid": grid, "fusedActivationFunction": (0, 1, 3)[at % 3]}
        results.append(
            draft.linear((narrow, draft.input)[at // 5], (1, 7, 19)[at % 3], (1, 0.4, 0.1)[at % 3], **values)
        )
    model = draft.file(joined(draft, results))
    source = c99.generate(model, each_in_turn).source
    assert all(f"static void tile_{each.name}(" in source for each in ENCODINGS)
    assert all(f"static int32_t linear_{each.name}(" in source for each in ENCODINGS)
    agree(model, tmp_path, each_in_turn)


def test_sums_that_need_segments(tmp_path: Path) -> None:
    draft = Draft((1, 5, 5, 64))
    levels = draft.random.integers(120, 128, (9, 5, 5, 64)) * np.where(np.arange(9) % 3, -1, 1)[:, None, None, None]
    levels[4], levels[5] = -128, draft.random.choice([-128, 127], levels[5].shape)  # -128: what our writer never writes
    levels[6, :, :, ::7], levels[7, 1:], levels[8] = 0, 0, 0
    each = [draft.conv(draft.input, 9, (5, 5), levels=levels.astype(np.int8), grid=(0.05, 3)) for _ in range(5)]
    tall = draft.reshape(draft.input, (1, 1, 1, 1600))
    each += [draft.linear(tall, 9, levels=levels.reshape(9, -1).astype(np.int8), grid=(0.05, 3)) for _ in range(5)]
    each[5:] = [draft.reshape(at, (1, 1, 1, 9)) for at in each[5:]]
    model = draft.file(joined(draft, each))
    layers = [layer.filters.levels for layer in lower(model).layers if layer.filters is not None]
    assert min(code.segments for code in each_in_turn(layers)) > 10
    agree(model, tmp_path, each_in_turn)


def test_large_biases_and_factors(tmp_path: Path) -> None:
    draft = Draft((1, 3, 4, 5))
    grid = (0.05, -7)
    bias = np.array([2**29, -(2**29), 2**23, -(2**23) - 1, 2**23 - 1, 5, 0])
    results = [draft.conv(draft.input, 7, factor=factor, bias=bias, grid=grid) for factor in (1e-7, 1e-6, 1e-5, 1e-3)]
    few = np.zeros((7, 1, 1, 5), np.int8)
    few[range(5), :, :, range(5)] = [[[1]], [[-1]], [[2]], [[1]], [[-3]]]  # the last two filters have no weights
    for factor in (0.4, 0.55, 1, 3, 2.0**20):
        results.append(draft.conv(draft.input, 7, levels=few, factor=factor, bias=bias % 90, grid=grid))
        results.append(draft.conv(draft.input, 1, levels=few[:5, :, :, :1], depthwise=True, factor=factor, grid=grid))
    model = draft.file(joined(draft, results))
    source = c99.generate(model).source
    assert "#define MODEL_HAS_LARGE_BIASES" in source
    assert "#define MODEL_HAS_LARGE_FACTORS" in source
    agree(model, tmp_path)


@pytest.mark.parametrize("most", [2**23 - 1, 2**23])
def test_the_largest_bias_of_24_bits(most: int, tmp_path: Path) -> None:
    draft = Draft((1, 3, 4, 2))
    levels = np.tile(np.int8([1, -1]), (3, 1, 1, 1))  # their sum, by which biases are moved, is zero
    bias = np.array([most, -most, 5])
    model = draft.file(draft.conv(draft.input, 3, levels=levels, factor=0.1, bias=bias, grid=(0.05, -7)))
    assert ("#define MODEL_HAS_LARGE_BIASES" in c99.generate(model).source) == (most == 2**23)
    agree(model, tmp_path)


def at_ties(draft: Draft, result: int) -> int:
    """Give the last layer biases that take its sums to where an output's rounding turns."""
    source, weight, bias = draft.operators[-1].inputs
    scales = draft.tensors[weight].scales
    assert scales is not None
    wanted = draft.random.integers(-60, 60, draft.tensors[bias].shape) + 0.5
    turns = np.rint(wanted / (draft.grid(source)[0] * scales.astype(float) / draft.grid(result)[0]))
    draft.tensors[bias] = replace(draft.tensors[bias], data=turns.astype(np.int32))
    return result


def test_scales_are_multiplied_in_the_same_order_and_precision(tmp_path: Path) -> None:
    draft = Draft((1, 1, 40, 6))
    levels = np.eye(36, dtype=np.int8)[:, :6]
    levels[range(36), np.arange(36) % 6] = 1  # one input each, in steps of a ten-millionth of the output's
    point = draft.slice(draft.input, (0, 0, 0, 0), (1, 1, 1, 6), (1, 1, 1, 1))
    values = {"factor": 1e-7, "grid": (0.05, 3)}
    layers = [
        lambda: draft.conv(draft.input, 36, levels=levels[:, None, None], **values),
        lambda: draft.conv(draft.input, 1, levels=np.ones((6, 1, 1, 1), np.int8), depthwise=True, **values),
        lambda: draft.linear(point, 36, levels=levels, **values),
        *[lambda: draft.linear(point, 36, levels=levels, single=True, **values)] * 5,
    ]
    agree(draft.file(joined(draft, [at_ties(draft, layer()) for layer in layers])), tmp_path, count=30)


def test_filters_without_weights_give_their_biases(tmp_path: Path) -> None:
    draft = Draft((1, 4, 4, 3))
    values = {"bias": np.array([0, 40, -40, 1000, 3]), "factor": 0.3, "density": 0}
    results = [draft.conv(draft.input, 5, grid=(0.05, -7), **values)]
    results.append(draft.reshape(draft.linear(draft.input, 5, grid=(0.05, -7), **values), (1, 1, 1, 5)))
    model = draft.file(joined(draft, results))
    given = inputs(model, 3)
    wanted = tflm(model, given)
    assert (wanted == wanted[0]).all()
    np.testing.assert_array_equal(computed(c99.generate(model), given, tmp_path), wanted)
