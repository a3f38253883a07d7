"""The chain of proof: each shipped model, dense and sparse, gives the same integers wherever it runs."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from export_nets import shipped
from torch import nn

from fedprune.export import benching, c99, litert
from fedprune.export.c99 import emulate
from fedprune.export.litert.runtime import interpreter, ready
from fedprune.graph import inference, trace

DENSITIES = (1.0, 0.5, 0.2, 0.1)
MODELS = ("digits_cnn", "har_cnn", "dscnn", "mobilenet", "resnet8", "resnet20")

XNNPACK_STEPS = 12
"""XNNPACK may round each layer's output to the other side of a half: one step a layer, which adds up along a net."""


@cache
def pruned(name: str, density: float) -> tuple[bytes, np.ndarray]:
    """An int8 file whose layers keep a part of their weights, depthwise ones all, and two int8 inputs (2, values)."""
    model, inputs = shipped(name, 8)
    torch.manual_seed(1)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear) and getattr(layer, "groups", 1) == 1:
                layer.weight *= torch.rand(layer.weight.shape) < density
    graph = inference(trace(model, inputs[:1]))
    file = litert.write_int8(graph, litert.calibrate(graph, inputs))
    return file, litert.arrange(inputs[:2], litert.quantisation(file).input).reshape(2, -1)


def in_tflm(file: bytes, inputs: np.ndarray) -> np.ndarray:
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    running = runtime.Interpreter.from_bytes(file, arena_size=1 << 24)
    shape = tuple(running.get_input_details(0)["shape"])
    outputs = []
    for values in inputs:
        running.set_input(values.reshape(shape), 0)
        running.invoke()
        outputs.append(running.get_output(0).reshape(-1).copy())
    return np.stack(outputs)


def in_xnnpack(file: bytes, inputs: np.ndarray) -> np.ndarray:
    running = ready(interpreter(file))
    source, result = running.get_input_details()[0], running.get_output_details()[0]
    outputs = []
    for values in inputs:
        running.set_tensor(source["index"], values.reshape(source["shape"]))
        running.invoke()
        outputs.append(running.get_tensor(result["index"]).reshape(-1))
    return np.stack(outputs)


@cache
def sources(name: str, density: float, tmp: Path) -> Path:
    made = c99.generate(pruned(name, density)[0])
    folder = tmp / f"{name}{density}"
    folder.mkdir()
    (folder / "model.c").write_text(made.source)
    (folder / "model.h").write_text(made.header)
    return folder


@pytest.fixture(scope="module")
def tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("proof")


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("name", MODELS)
def test_runtimes_agree(name: str, density: float) -> None:
    file, inputs = pruned(name, density)
    wanted = benching.reference(file, inputs)
    np.testing.assert_array_equal(in_tflm(file, inputs), wanted)
    fast = in_xnnpack(file, inputs).astype(int)
    assert np.abs(fast - wanted).max() <= XNNPACK_STEPS


@pytest.mark.skipif(emulate.missing("host") is not None, reason=str(emulate.missing("host")))
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("name", MODELS)
def test_c_gives_the_same_on_this_machine(name: str, density: float, tmp: Path) -> None:
    file, inputs = pruned(name, density)
    ran = emulate.run(sources(name, density, tmp), "host", inputs)
    np.testing.assert_array_equal(ran.outputs, benching.reference(file, inputs))


@pytest.mark.skipif(emulate.missing("cortex-m4") is not None, reason=str(emulate.missing("cortex-m4")))
@pytest.mark.parametrize("name", MODELS)
def test_c_gives_the_same_on_a_cortex_m4_and_sparser_costs_less(name: str, tmp: Path) -> None:
    ran = {}
    for density in DENSITIES:
        file, inputs = pruned(name, density)
        ran[density] = emulate.run(sources(name, density, tmp), "cortex-m4", inputs[:1])
        np.testing.assert_array_equal(ran[density].outputs, benching.reference(file, inputs[:1]))
    flash = [each.flash_bytes for each in ran.values()]
    assert flash == sorted(flash, reverse=True)
    counted = {density: each.instructions for density, each in ran.items()}
    assert counted[0.1] < counted[0.2] < counted[1.0]


@pytest.mark.skipif(emulate.missing("cortex-m3") is not None, reason=str(emulate.missing("cortex-m3")))
@pytest.mark.parametrize("target", ["cortex-m3", "cortex-m0"])
@pytest.mark.parametrize("name", MODELS)
def test_c_gives_the_same_on_lesser_chips(name: str, target: str, tmp: Path) -> None:
    file, inputs = pruned(name, 0.2)
    ran = emulate.run(sources(name, 0.2, tmp), target, inputs[:1])
    np.testing.assert_array_equal(ran.outputs, benching.reference(file, inputs[:1]))
