"""Layers of N:M masks in C: written by place, they compute TensorFlow Lite Micro's bits, here and on chips."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from c99_files import Draft, wide
from c99_runs import computed, inputs, tflm, written
from torch import nn

from fedprune import graph as graphs
from fedprune.export import c99, litert
from fedprune.export import tflm as reference
from fedprune.export.c99 import boards
from fedprune.export.c99.encoding import PATTERNS, Code, Encoding, encode
from fedprune.methods import build
from fedprune.pruning.patterns import n_of_m
from fedprune.types import Tensor

pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only")

GRID = (0.05, -7)


def thinned(levels: Tensor, encoding: Encoding) -> Tensor:
    """The levels (filters, ...), of every group of a filter's neighbours the largest."""
    flat = levels.reshape(len(levels), -1)
    return np.where(n_of_m(np.abs(flat.astype(int)), encoding.kept, encoding.width), flat, 0).reshape(levels.shape)


def by_place(layers: Sequence[Tensor], kernels: Sequence[str]) -> list[Code]:
    """Every layer by its places, of the smallest pattern that it has."""
    sparsest = sorted(PATTERNS, key=lambda each: each.kept / each.width)
    offered = [next(each for each in sparsest if each.holds(filters)) for filters in layers]
    return [encode(filters, each) for filters, each in zip(layers, offered, strict=True)]


def of_every_pattern() -> bytes:
    """Windows of groups and kernels of all sizes, most of which no unit's groups fit, and layers of one position."""
    draft = Draft((1, 6, 9, 12), seed=2)
    flat = []
    for encoding in PATTERNS:

        def levels(*shape: int, encoding: Encoding = encoding) -> Tensor:
            return thinned(draft.levels(shape, 0.9), encoding)  # a tenth of the places with zeros

        results = [
            draft.conv(draft.input, 5, levels=levels(5, 3, 3, 12), grid=GRID),
            draft.conv(draft.input, 7, (1, 1), levels=levels(7, 1, 1, 12), grid=GRID, clip=1),
            draft.conv(draft.input, 6, (2, 5), (2, 1), groups=3, levels=levels(6, 2, 5, 4), grid=GRID),
            draft.conv(draft.input, 4, levels=-128 * (levels(4, 3, 3, 12) != 0).astype(np.int8), grid=GRID),
        ]
        joined = draft.concat([draft.reshape(each, (1, int(np.prod(draft.shape(each))))) for each in results], 1)
        vector = draft.linear(draft.input, 21, levels=levels(21, 648), grid=GRID)
        flat += [joined, vector, draft.linear(vector, 9, levels=levels(9, 21), grid=GRID)]
    return draft.file(draft.concat(flat, 1))


def test_windows_and_vectors(tmp_path: Path) -> None:
    model = of_every_pattern()
    made = c99.generate(model, by_place)
    for encoding in PATTERNS:
        assert all(f"{kernel}_{encoding.name}(" in made.source for kernel in ("tile", "linear"))
    given = inputs(model, 7)
    wanted = tflm(model, given)
    assert np.ptp(wanted.astype(int), axis=0).max() > 100
    np.testing.assert_array_equal(computed(made, given, tmp_path), wanted)


@pytest.mark.parametrize("target", ["cortex-m0", "cortex-m4"])
def test_on_chips(target: str, tmp_path: Path) -> None:
    if lacking := boards.missing(target):
        pytest.skip(lacking)
    model = of_every_pattern()
    given = inputs(model, 3)
    folder = written(c99.generate(model, by_place), tmp_path)
    np.testing.assert_array_equal(boards.run(folder, target, given.reshape(3, -1)).outputs, tflm(model, given))


@pytest.mark.parametrize("encoding", PATTERNS, ids=lambda each: each.name)
def test_sums_that_need_segments(encoding: Encoding, tmp_path: Path) -> None:
    draft = Draft((1, 4, 4, 256), seed=1)
    levels = thinned(np.full((3, 4, 4, 256), 127, np.int8), encoding)
    levels[1] = -128 * (levels[1] != 0)
    levels[2] = np.where(draft.random.random(levels[2].shape) < 0.5, levels[2], -levels[2])
    window = draft.conv(draft.input, 3, (4, 4), levels=levels, grid=GRID)
    vector = draft.linear(draft.input, 3, levels=levels.reshape(3, -1), grid=GRID)
    model = draft.file(draft.concat([draft.reshape(window, (1, 48)), vector], 1))
    made = c99.generate(model, by_place)
    assert ".segments = 1," not in made.source
    given = inputs(model, 5)
    np.testing.assert_array_equal(computed(made, given, tmp_path), tflm(model, given))


def test_vectors_of_int16(tmp_path: Path) -> None:
    draft = Draft((1, 1, 1, 37), seed=3)
    last = draft.input
    for encoding, filters in zip(PATTERNS, (40, 33, 6), strict=True):
        levels = thinned(draft.levels((filters, 1, 1, draft.shape(last)[3]), 0.9), encoding)
        last = draft.conv(last, filters, (1, 1), levels=levels, same=False)
    model = wide(draft, last)
    made = c99.generate(model, by_place)
    assert all(f"wide_{each.name}(" in made.source for each in PATTERNS)
    given = np.random.default_rng(0).integers(-32768, 32768, (5, 1, 1, 37)).astype(np.int16)
    wanted = reference.levels(model, given)
    assert np.ptp(wanted.astype(int), axis=0).max() > 1000
    np.testing.assert_array_equal(computed(made, given, tmp_path).view(np.int16), wanted)


def test_no_decoder_looks_past_the_memory(tmp_path: Path) -> None:
    """Of 17 inputs the last group of sixteen is one, and three more of its unit's are not there."""
    draft = Draft((1, 1, 1, 17))
    levels = thinned(draft.levels((3, 17), 1), PATTERNS[2])
    model = draft.file(draft.linear(draft.input, 3, levels=levels))
    made = c99.generate(model, by_place)
    assert made.arena_bytes >= 64
    given = inputs(model, 3)
    np.testing.assert_array_equal(computed(made, given, tmp_path), tflm(model, given))


def test_a_net_of_a_method(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 48, 3), nn.ReLU(), nn.Conv2d(48, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, 10),
    )  # fmt: skip
    params = {at: net.get_parameter(at).detach().numpy() for at in ("2.weight", "6.weight")}
    method = build({"name": "wanda", "density": 0.25, "of": 4}, {at: each.shape for at, each in params.items()}, 0)
    pruned = method.act(method.start(params), {"inputs": {"examples": np.asarray(1)}}, 0)
    for at, each in pruned.params.items():
        net.get_parameter(at).data = torch.as_tensor(8 * each)  # so that outputs follow inputs
    samples = torch.randn(16, 3, 10, 10)
    graph = graphs.inference(graphs.trace(net.eval(), samples[:1]))
    model = litert.write_int8(graph, litert.calibrate(graph, samples.numpy()))
    made = c99.generate(model)
    assert "tile_1of4(" in made.source
    given = inputs(model, 5)
    wanted = tflm(model, given)
    assert np.ptp(wanted.astype(int), axis=0).max() > 10
    np.testing.assert_array_equal(computed(made, given, tmp_path), wanted)
