"""Weights without their zeros: the bits of the dense file, and its costs as foretold, over models and densities."""

import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from export_nets import NETS, SMALL, made, shipped
from torch import nn

from fedprune.export import litert, tflm
from fedprune.export.chip.write import write_c
from fedprune.export.tflm.memory import Buffer, planned
from fedprune.graph import Conv2d, Graph, Linear, inference, trace

pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only")

_ALL = [(name, density) for name in SMALL for density in (1.0, 0.5, 0.2, 0.1)]


@cache
def masked(name: str, density: float) -> tuple[Graph, litert.Ranges, np.ndarray]:
    model, inputs = shipped(name, 8)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight *= torch.rand(weight.shape) < density
    graph = inference(trace(model, inputs[:1]))
    return graph, litert.calibrate(graph, inputs), inputs


def counts(graph: Graph) -> tuple[dict[str, int], dict[str, int]]:
    """Return weight -> how many values it has, and how many of them are not zero."""
    weights = [op.weight for op in graph.operations if isinstance(op, Conv2d | Linear)]
    return {w.name: w.value.size for w in weights}, {w.name: int(np.count_nonzero(w.value)) for w in weights}


@pytest.mark.parametrize(("name", "density"), _ALL)
def test_same_bits_and_costs_as_foretold(name: str, density: float) -> None:
    graph, ranges, inputs = masked(name, density)
    dense, sparse = litert.write_int8(graph, ranges), tflm.write_sparse(graph, ranges)
    wanted, _ = tflm.run(dense, inputs[:2])
    found, arena_bytes = tflm.run(sparse, inputs[:2])
    np.testing.assert_array_equal(found, wanted)
    sizes, kept = counts(graph)
    assert tflm.flash_bytes(len(dense), sizes, kept) == pytest.approx(len(sparse), rel=0.03)
    decoded = tflm.decoded(graph, kept)
    assert tflm.sram_bytes(graph, decoded) == pytest.approx(arena_bytes, rel=0.01)
    assert (sparse == dense) == (density == 1) == (not decoded)
    assert density == 1 or len(sparse) < (0.45 + density) * len(dense)


@pytest.mark.parametrize("kind", NETS)
def test_arena_of_every_operation_is_foretold(kind: type[nn.Module]) -> None:
    model, inputs = made(kind)
    graph = inference(trace(model, inputs))
    file = litert.write_int8(graph, litert.calibrate(graph, inputs.numpy()))
    _, arena_bytes = tflm.run(file, inputs[:1].numpy())
    assert tflm.sram_bytes(graph) == pytest.approx(arena_bytes, rel=0.1)


def test_a_layer_whose_weights_outgrow_the_arena_stays_dense() -> None:
    graph, ranges, inputs = masked("mobilenet", 0.2)
    limit = 60_000
    file = tflm.write_sparse(graph, ranges, limit)
    found, arena_bytes = tflm.run(file, inputs[:2])
    wanted, _ = tflm.run(litert.write_int8(graph, ranges), inputs[:2])
    np.testing.assert_array_equal(found, wanted)
    assert arena_bytes <= 1.01 * limit < tflm.run(tflm.write_sparse(graph, ranges), inputs[:1])[1]
    sizes, kept = counts(graph)
    decoded = tflm.decoded(graph, kept, limit)
    foretold = tflm.flash_bytes(len(litert.write_int8(graph, ranges)), {n: sizes[n] for n in decoded}, kept)
    assert foretold == pytest.approx(len(file), rel=0.03)
    assert tflm.write_sparse(graph, ranges, 0) == litert.write_int8(graph, ranges)


def test_weights_that_round_to_zero_cost_nothing() -> None:
    graph, ranges, _ = masked("resnet8", 1.0)
    weight = next(op.weight for op in graph.operations if isinstance(op, Conv2d) and op.weight.value.size > 30_000)
    before = len(tflm.write_sparse(graph, ranges))
    plain = weight.value.copy()
    try:
        limit = np.abs(plain).max(axis=(1, 2, 3), keepdims=True)
        weight.value[...] = np.where(np.abs(plain) < 0.9 * limit, plain * 1e-4, plain)
        assert len(tflm.write_sparse(graph, ranges)) < before - 20_000
    finally:
        weight.value[...] = plain


def test_greedy_layout_by_hand() -> None:
    # 64 is placed first, at 0; 48 overlaps it in time, so from 64; 32 comes once 64 is gone, in its place.
    assert planned([Buffer(32, 2, 3), Buffer(64, 0, 1), Buffer(48, 1, 2)]) == 112
    assert planned([]) == 0


def test_flash_by_hand() -> None:
    # 1000 weights, 100 kept: 1000 - 125 - 100 - 124 = 651 saved, less 96 for the first; the small layer stays dense.
    assert tflm.flash_bytes(5000, {"a": 1000, "b": 100}, {"a": 100, "b": 0}) == 5000 - 651 + 96
    assert tflm.flash_bytes(5000, {"a": 1000}, {}) == 5000


def test_sources_and_card_name_the_decoder(tmp_path: Path) -> None:
    graph, ranges, _ = masked("resnet8", 0.1)
    file = tflm.write_sparse(graph, ranges)
    assert tflm.operators(file) == ("ADD", "CONV_2D", "TFLM_DECODE", "MEAN")
    card = {"labels": [*"abcdefghij"], "mean": [0.5] * 3, "std": [0.2] * 3}
    paths = write_c(file, tmp_path, card)
    header = paths.header.read_text(encoding="utf-8")
    assert "#define MODEL_OPERATORS 4\n" in header
    assert "(resolver).AddConv2D() || (resolver).AddDecode() || (resolver).AddMean())\n" in header
    assert "ADD, CONV_2D, TFLM_DECODE, MEAN" in paths.card_page.read_text(encoding="utf-8")


def test_the_macro_registers_every_operator_once(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    graph, ranges, _ = masked("resnet8", 0.1)
    card = {"labels": [*"abcdefghij"], "mean": [0.5], "std": [0.2], "arena_bytes": 1}
    write_c(tflm.write_sparse(graph, ranges), tmp_path, card)
    names = ("Add", "Conv2D", "Decode", "Mean")
    methods = "\n".join(f"  int Add{name}() {{ ++added; return 0; }}" for name in names)
    (tmp_path / "main.cc").write_text(
        '#include "model_data.h"\n'
        f"template <unsigned n> struct Resolver {{\n  unsigned added = 0;\n{methods}\n}};\n"
        "int main() {\n  Resolver<MODEL_OPERATORS> resolver;\n"
        "  return MODEL_ADD_OPERATORS(resolver) || resolver.added != MODEL_OPERATORS;\n}\n"
    )
    strict = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    subprocess.run(["g++", *strict, str(tmp_path / "main.cc"), "-o", str(tmp_path / "out")], check=True)
    subprocess.run([str(tmp_path / "out")], check=True)
