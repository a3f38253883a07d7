"""The chain of proof: each shipped model, dense and sparse, gives the same integers wherever it runs."""

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from c99_runs import tflm
from export_nets import SHIPPED, alive, patterns

from fedprune import models
from fedprune.export import c99, litert
from fedprune.export.c99 import boards
from fedprune.export.litert.runtime import interpreter, ready
from fedprune.graph import inference, trace

DENSITIES = (1.0, 0.5, 0.2, 0.1)
# MLPerf Tiny's size for MobileNet; vgg11 and resnet18 have ten million weights, more than any of these chips has bytes
MODELS = {name: SHIPPED[name] for name in ("digits_cnn", "har_cnn", "dscnn", "resnet8", "resnet20")} | {
    "mobilenet": ((3, 96, 96), 2)
}
PAIRS = [(name, density) for name in MODELS for density in DENSITIES]


class Link(NamedTuple):
    """A model's int8 file, two int8 inputs (2, values), and its outputs: LiteRT's reference kernels', torch's."""

    file: bytes
    inputs: np.ndarray
    wanted: np.ndarray
    floats: np.ndarray
    """In steps of the file's output."""


@cache
def link(name: str, density: float) -> Link:
    shape, classes = MODELS[name]
    samples = patterns(shape, 12)
    torch.manual_seed(0)
    model = alive(models.build(name, shape, classes), samples, density)
    graph = inference(trace(model, samples[:1]))
    file = litert.write_int8(graph, litert.calibrate(graph, samples))
    ports = litert.quantisation(file)
    given = litert.arrange(samples[:2], ports.input).reshape(2, -1)
    with torch.no_grad():
        floats = model(torch.from_numpy(samples[:2])).numpy()
    assert ports.output.grid is not None
    steps = floats / ports.output.grid.scale + ports.output.grid.zero_point
    return Link(file, given, litert.reference(file, given).reshape(2, -1), steps)


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
    made = c99.generate(link(name, density).file)
    folder = tmp / f"{name}{density}"
    folder.mkdir()
    (folder / "model.c").write_text(made.source, encoding="utf-8")
    (folder / "model.h").write_text(made.header, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("proof")


def need(target: str) -> None:
    if lacking := boards.missing(target):
        pytest.skip(lacking)


@pytest.mark.parametrize(("name", "density"), PAIRS)
def test_outputs_follow_the_inputs(name: str, density: float) -> None:
    wanted = link(name, density).wanted.astype(int)
    assert np.abs(wanted[0] - wanted[1]).max() >= 4  # else the same integers would prove little


@pytest.mark.parametrize(("name", "density"), PAIRS)
def test_micro_gives_the_same(name: str, density: float) -> None:
    pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only")
    file, inputs, wanted, _ = link(name, density)
    shape = litert.quantisation(file).input.shape
    np.testing.assert_array_equal(tflm(file, inputs.reshape(2, *shape[1:])), wanted)


@pytest.mark.parametrize(("name", "density"), PAIRS)
def test_fast_kernels_change_less_than_int8_does(name: str, density: float) -> None:
    """XNNPACK rounds some values of each layer to the other side of a half, and the layers behind pass that on.

    MobileNet, 27 layers of which are thin and here have random weights, makes many steps of one: int8 is 50 to 130 of
    them away from floats, whichever kernels compute it, and the two kinds of kernels 20 to 70 from each other.
    """
    file, inputs, wanted, floats = link(name, density)
    changed = np.abs(in_xnnpack(file, inputs).astype(int) - wanted).max()
    assert changed <= STEPS.get(name, np.abs(wanted - floats).max())


STEPS = {"digits_cnn": 4, "har_cnn": 2, "dscnn": 3, "resnet8": 2, "resnet20": 4}
"""One more than the most that was measured, at any density."""


@pytest.mark.parametrize(("name", "density"), PAIRS)
def test_c_gives_the_same_on_this_machine(name: str, density: float, tmp: Path) -> None:
    need("host")
    _, inputs, wanted, _ = link(name, density)
    np.testing.assert_array_equal(boards.run(sources(name, density, tmp), "host", inputs).outputs, wanted)


@pytest.mark.parametrize("name", MODELS)
def test_c_gives_the_same_on_a_cortex_m4_and_sparser_costs_less(name: str, tmp: Path) -> None:
    need("cortex-m4")
    ran = {}
    for density in DENSITIES:
        _, inputs, wanted, _ = link(name, density)
        ran[density] = boards.run(sources(name, density, tmp), "cortex-m4", inputs)
        np.testing.assert_array_equal(ran[density].outputs, wanted)
    flash = [each.flash_bytes or 0 for each in ran.values()]
    assert all(more > less for more, less in pairwise(flash))
    instructions = {density: each.instructions or 0 for density, each in ran.items()}
    assert instructions[0.1] < instructions[0.2] < instructions[1.0]
    ram = {density: each.ram_bytes or 0 for density, each in ran.items()}
    assert ram[1.0] <= ram[0.2] == ram[0.1]  # zeros are no activations; with every weight columns are half as large


@pytest.mark.parametrize(
    ("target", "density"),
    [("cortex-m3", 0.2), ("cortex-m0", 0.2), ("cortex-m33", 0.2), ("cortex-m55", 0.2), ("cortex-m55", 1.0)],
)
@pytest.mark.parametrize("name", MODELS)
def test_c_gives_the_same_on_other_chips(name: str, target: str, density: float, tmp: Path) -> None:
    need(target)
    _, inputs, wanted, _ = link(name, density)
    ran = boards.run(sources(name, density, tmp), target, inputs[:1])
    np.testing.assert_array_equal(ran.outputs, wanted[:1])
