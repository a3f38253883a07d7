"""Exported C on this machine, under every warning and check: its outputs are TensorFlow Lite Micro's, bit for bit."""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from c99_files import Draft
from c99_nets import chain
from c99_runs import WARNINGS, computed, inputs, tflm, written
from export_nets import NETS, alive, patterns
from torch import nn

from fedprune.export import c99, litert
from fedprune.export.c99.encoding import ENCODINGS, Code, encode
from fedprune.export.c99.plan import _laid_out
from fedprune.export.c99.rules import lower
from fedprune.export.c99.sources import sources
from fedprune.export.c99.streams import stream
from fedprune.graph import inference, trace
from fedprune.types import Tensor

pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only")

Optimise = Callable[[Sequence[Tensor], Sequence[str]], list[Code]]
_ANY = [each for each in ENCODINGS if not each.kept]  # those of any weights; test_c99_patterns has the others


def each_in_turn(layers: Sequence[Tensor], kernels: Sequence[str]) -> list[Code]:
    return [encode(filters, _ANY[at % len(_ANY)]) for at, filters in enumerate(layers)]


def agree(model: bytes, folder: Path, optimise: Optimise = c99.smallest, count: int = 9) -> np.ndarray:
    """Return the outputs, which the interpreter and the C program have in common, and which follow the inputs."""
    given = inputs(model, count)
    wanted = tflm(model, given)
    assert np.ptp(wanted.astype(int), axis=0).max() > 10
    np.testing.assert_array_equal(computed(c99.generate(model, optimise), given, folder), wanted)
    return wanted.astype(int)


@pytest.mark.parametrize("kind", NETS)
def test_nets_of_the_writer(kind: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    samples = patterns(kind.shape, 16)  # type: ignore[attr-defined]
    graph = inference(trace(alive(kind(), samples, 0.4), samples[:1]))
    model = litert.write_int8(graph, litert.calibrate(graph, samples))
    for optimise in (c99.smallest, c99.fastest):
        agree(model, tmp_path, optimise)


# those of the first forty whose outputs follow their inputs closely
@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15, 16, 21, 24, 28, 32, 33, 35, 36, 37, 38])
def test_random_nets(seed: int, tmp_path: Path) -> None:
    agree(chain(seed), tmp_path, (c99.smallest, c99.fastest, each_in_turn)[seed % 3])


def joined(draft: Draft, results: Sequence[int]) -> int:
    """Return all values of all results, one after the other; the interpreter joins at most ten at once."""
    flat = [draft.reshape(each, (1, 1, 1, int(np.prod(draft.shape(each))))) for each in results]
    while len(flat) > 1:
        flat = [draft.concat(flat[at : at + 10]) for at in range(0, len(flat), 10)]
    return flat[0]


@pytest.mark.parametrize("depthwise", [False, True])
def test_windows(depthwise: bool, tmp_path: Path) -> None:
    draft = Draft((1, 7, 11, 6), seed=5)
    grid = (0.04, -11)
    windows = [
        # filters, kernel, stride, dilation, same, groups
        (1, (3, 3), (1, 1), (1, 1), True, 1),
        (7, (1, 1), (2, 3), (1, 1), False, 1),
        (19, (9, 13), (1, 1), (1, 1), True, 2),  # larger than the map
        (5, (1, 5), (1, 2), (1, 1), False, 1),
        (3, (7, 1), (3, 1), (1, 1), True, 3),
        (4, (2, 2), (2, 2), (1, 1), False, 2),
        (6, (3, 3), (1, 1), (2, 3), True, 6),
        (9, (2, 3), (1, 1), (3, 2), False, 3),
        (2, (7, 11), (1, 1), (1, 1), False, 1),  # the whole map
        (13, (4, 3), (5, 4), (1, 1), True, 1),
        (6, (1, 1), (1, 1), (1, 1), True, 6),
        (8, (6, 2), (1, 1), (1, 5), True, 2),
    ]
    results = []
    for at, (filters, kernel, stride, dilation, same, groups) in enumerate(windows):
        kind = {"depthwise": True} if depthwise else {"groups": groups}
        count = (1, 1, 2, 1, 3)[at % 5] if depthwise else -(-filters // groups) * groups
        values = {"density": (1, 0.5, 0.1)[at % 3], "clip": (0, 1, 3, 2)[at % 4], "grid": grid, "same": same}
        results.append(draft.conv(draft.input, count, kernel, stride, dilation, **kind, **values))
    agree(draft.file(joined(draft, results)), tmp_path, each_in_turn)


def test_pools_pads_and_slices(tmp_path: Path) -> None:
    draft = Draft((1, 7, 11, 3))
    source, whole = draft.input, draft.shape(draft.input)
    results = [
        draft.pool(source, kind, kernel, stride, same=same, clip=clip)
        for kind in ("MAX_POOL_2D", "AVERAGE_POOL_2D")
        for kernel, stride, same, clip in (
            ((2, 2), (2, 2), False, 0), ((3, 3), (2, 2), True, 0), ((9, 12), (1, 1), True, 1),
            ((7, 11), (1, 1), False, 0), ((1, 3), (1, 3), True, 3), ((2, 1), (3, 2), False, 2),
        )
    ]  # fmt: skip
    results += [
        draft.pad(source, ((0, 0), (1, 0), (0, 3), (2, 1))),
        draft.pad(source, ((0, 0), (0, 2), (1, 1), (0, 0)), -77),
        draft.slice(source, (0, 1, 2, 0), whole, (1, 2, 3, 2)),
        draft.slice(source, (0, -3, -11, -1), (1, 7, 9, 3), (1, 1, 2, 1)),
        draft.concat([source, draft.pool(source, "MAX_POOL_2D", (1, 4), (1, 2))], 2),
        draft.concat([draft.slice(source, (0, 5, 0, 0), whole, (1, 1, 1, 1)), source], 1),
        draft.concat([source, draft.unary("QUANTIZE", source, draft.grid(source)), source], 3),
    ]
    agree(draft.file(joined(draft, results)), tmp_path)


GRIDS = [(0.05, -3), (1e-4, 90), (0.3, -128), (0.013, 127), (7.0, 0), (0.002, 4)]


def test_sums_products_and_means_of_many_grids(tmp_path: Path) -> None:
    draft = Draft((1, 3, 5, 4))
    target = (0.05, 7)
    made = [draft.conv(draft.input, 4, (1, 1), grid=grid) for grid in GRIDS]
    pairs = [(a, b, at % 4) for at, (a, b) in enumerate(zip(made, [*made[2:], made[0], made[0]], strict=True))]
    results = [draft.both("ADD", a, b, target, clip) for a, b, clip in pairs]
    results += [draft.both("MUL", a, b, target, clip) for a, b, clip in pairs]
    results += [draft.both("MUL", draft.conv(draft.mean(draft.input), 4, (1, 1), grid=(0.02, 3)), made[0], target)]
    results += [draft.mean(each, target, *((1, 2), (-2, 1))[at % 2 :][:1], keep=at > 2) for at, each in enumerate(made)]
    results += [draft.mean(each, target, (1, 2)) for each in (draft.unary("QUANTIZE", results[0], target), draft.input)]
    agree(draft.file(joined(draft, results)), tmp_path)


def test_softmax_of_many_grids(tmp_path: Path) -> None:
    draft = Draft((1, 3, 5, 4))
    counts, betas = (2, 1, 9, 4, 3, 19), (1, 1, 0.5, 4, 1, 2)
    made = [draft.conv(draft.input, classes, (1, 1), grid=grid) for classes, grid in zip(counts, GRIDS, strict=True)]
    results = [draft.unary("SOFTMAX", at, (1 / 256, -128), beta=beta) for at, beta in zip(made, betas, strict=True)]
    agree(draft.file(joined(draft, results)), tmp_path)


def test_log_softmax_of_many_grids(tmp_path: Path) -> None:
    draft = Draft((1, 3, 5, 4))
    made = [
        draft.conv(draft.input, classes, (1, 1), grid=grid)
        for classes, grid in zip((2, 9, 19, 5), GRIDS[1:], strict=False)
    ]
    made += [draft.input, draft.reshape(draft.input, (1, 60)), draft.reshape(draft.input, (1, 15, 4))]
    agree(draft.file(joined(draft, [draft.unary("LOG_SOFTMAX", at, (16 / 256, 127)) for at in made])), tmp_path)


def test_tables_of_operations_on_each_value(tmp_path: Path) -> None:
    draft = Draft((1, 3, 5, 4))
    made = [draft.conv(draft.input, 4, (1, 1), grid=grid) for grid in GRIDS]
    codes = [("RELU", {}), ("LEAKY_RELU", {"alpha": 0.3}), ("QUANTIZE", {}), ("HARD_SWISH", {"version": 1})]
    target = (0.03, 7)
    results = [draft.unary(code, at, target, **values) for code, values in codes for at in made[:3:2]]
    results += [draft.unary("RELU6", made[0], draft.grid(made[0]))]
    results += [draft.unary("LOGISTIC", at, (1 / 256, -128)) for at in made]
    results += [draft.unary("TANH", at, (1 / 128, 0)) for at in made]
    agree(draft.file(joined(draft, [draft.unary("QUANTIZE", each, target) for each in results])), tmp_path)


def test_a_clip_of_other_grids_is_that_of_the_interpreter(tmp_path: Path) -> None:
    # TensorFlow Lite Micro's RELU6 leaves its input's scale as it is; LiteRT's goes to its output's, as the file says
    draft = Draft((1, 4, 4, 5))
    agree(draft.file(draft.unary("RELU6", draft.input, (0.07, 10))), tmp_path)


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
    assert all(f"static void tile_{each.name}(" in source for each in _ANY[1:])
    assert all(f"static int32_t linear_{each.name}(" in source for each in _ANY[1:])
    assert all(f"static void {name}(" in source for name in ("dense", "vector"))
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
    assert min(code.segments for code in each_in_turn(layers, [])) > 6
    assert np.ptp(agree(model, tmp_path, each_in_turn)) > 200


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
    assert np.ptp(agree(model, tmp_path)) > 200


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


def test_shapes_of_other_writers(tmp_path: Path) -> None:
    draft = Draft((1, 20, 4))
    line = draft.conv(draft.reshape(draft.input, (1, 1, 20, 4), "EXPAND_DIMS"), 5, (1, 3))
    line = draft.reshape(draft.reshape(line, (1, 20, 5), "SQUEEZE"), (1, 1, 20, 5), "EXPAND_DIMS")
    line = draft.unary("TANH", draft.conv(line, 3, (1, 5)), (1 / 128, 0))
    square = draft.conv(draft.reshape(line, (1, 10, 2, 3)), 8)
    same = draft.conv(draft.reshape(draft.reshape(square, (1, 160)), (1, 10, 2, 8)), 4)  # there and back
    ends = draft.reshape(draft.mean(same), (1, 4))
    agree(draft.file(draft.linear(draft.unary("RELU", ends), 6)), tmp_path)


def test_one_row_is_not_overtaken(tmp_path: Path) -> None:
    agree(chain(23), tmp_path)  # a table is applied in place, where another map holds the row's first bytes


def test_a_map_that_is_read_in_two_shapes(tmp_path: Path) -> None:
    draft = Draft((1, 8, 16, 4))
    high = draft.pool(draft.reshape(draft.input, (1, 16, 8, 4)), "MAX_POOL_2D", (9, 1), (2, 1), same=True)
    agree(draft.file(draft.concat([draft.unary("RELU", draft.input, draft.grid(high)), high], 2)), tmp_path)


def test_more_steps_than_a_byte_counts(tmp_path: Path) -> None:
    draft = Draft((1, 12, 8, 4))
    last = draft.input
    for _ in range(260):
        last = draft.pool(last, "MAX_POOL_2D", (1, 1), (1, 1))
    last = draft.pool(draft.conv(draft.conv(last, 12), 12), "MAX_POOL_2D", (2, 2), (2, 2))
    model = draft.file(last)
    program = lower(model)
    streams = [stream(program, at, at) for at in range(260)] + [stream(program, 260, 262)]
    plan = _laid_out(program, [each for each in streams if each is not None])
    filters = {at: layer.filters.levels for at, layer in enumerate(program.layers) if layer.filters is not None}
    codes = dict(zip(filters, c99.smallest([*filters.values()], ["conv"] * len(filters)), strict=True))
    given = inputs(model, 3)
    np.testing.assert_array_equal(computed(sources(program, plan, codes), given, tmp_path), tflm(model, given))


PROGRAM = """
#include <cstdio>
#include "model.h"
#include "model.h"
int main() {
  while (std::fread(model_input(), 1, MODEL_INPUT_BYTES, stdin) == MODEL_INPUT_BYTES)
    std::fwrite(model_run(), 1, MODEL_OUTPUT_BYTES, stdout);
}
"""


@pytest.mark.parametrize(
    ("c", "cpp", "level"), [("gcc", "g++", "-Os"), ("gcc", "g++", "-O3"), ("clang", "clang++", "-O2")]
)
def test_part_of_a_cpp_program(c: str, cpp: str, level: str, tmp_path: Path) -> None:
    lacking = [name for name in (c, cpp) if shutil.which(name) is None]
    if lacking:
        pytest.skip(f"{' and '.join(lacking)} are not installed")
    model = chain(4)
    given = inputs(model, 9)
    (written(c99.generate(model, each_in_turn), tmp_path) / "main.cc").write_text(PROGRAM)
    for command in (
        [c, *WARNINGS, level, "-ffreestanding", "-c", "model.c"],
        [cpp, *WARNINGS[1:], "-std=c++11", level, "main.cc", "model.o", "-o", "program"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True)
    ran = subprocess.run([tmp_path / "program"], input=given.tobytes(), capture_output=True, check=True)
    found = np.frombuffer(ran.stdout, np.int8).reshape(len(given), -1)
    np.testing.assert_array_equal(found, tflm(model, given))
