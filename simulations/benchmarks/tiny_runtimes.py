"""Benchmark of tiny runtimes: flash, RAM and instructions of C99 sources by zeros, beside TensorFlow Lite Micro."""

import argparse
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from fedprune import models
from fedprune.experiment import load
from fedprune.export import litert
from fedprune.export.chip import benching
from fedprune.graph import inference, trace
from fedprune.graph.coupling import coupled_channels
from fedprune.graph.surgery import shrink
from fedprune.graph.width import first_channels, width_masks
from fedprune.runs.run import simulate
from fedprune.runs.setting import prepare
from simulations.benchmarks._classes import Classes, classes
from simulations.benchmarks._report import Figure, write
from simulations.benchmarks._rounds import test_parts

NETS = {"resnet8": ((3, 32, 32), 10), "dscnn": ((1, 49, 10), 12), "mobilenet": ((3, 96, 96), 2)}
SHAPES = {**NETS, "autoencoder": ((640,), 640)}
"""The nets of MLPerf Tiny, with weights of our own."""
DENSITIES = (1.0, 0.5, 0.2, 0.1)
CHIP = "cortex-m4"
OTHER_CHIPS = ("cortex-m33", "cortex-m55")
RUNS = {"cifar10": 87_376, "keywords": 35_400}
"""Experiment -> the bytes its int8 file may take."""
INPUTS = 100

FLASH = {
    "resnet8": {0.2: 31_000, 0.1: 21_000}, "dscnn": {0.2: 18_000}, "mobilenet": {0.2: 105_000},
}  # fmt: skip
INSTRUCTIONS = {
    "resnet8": {1.0: 17_000_000, 0.2: 9_000_000, 0.1: 7_000_000}, "dscnn": {1.0: 5_000_000},
    "mobilenet": {1.0: 18_000_000, 0.2: 29_000_000}, "autoencoder": {1.0: 550_000},
}  # fmt: skip
CYCLES = {"resnet8": 19_800_000, "dscnn": 5_200_000, "mobilenet": 25_000_000, "autoencoder": 630_000}
"""The best published of a Cortex-M4 (MLPerf Tiny, closed division), of visual wake words the best with all channels."""
HALVED_RAM = 26_000
DEAD = {128: 0.58, 256: 0.9}
"""Channels of a layer -> the share of them that no input moves, in one more row of a MobileNet: as many multiply-adds
and weights are left of it (3.7 M, 29,000) as of MLPerf's own file."""
DEAD_INSTRUCTIONS = 9_000_000
LITTLE = "C99, smallest"


class Row(NamedTuple):
    """A model at a density, and what each way to run it costs."""

    net: str
    density: float
    costs: Mapping[str, benching.Costs]
    classes: Classes | None = None
    others: Mapping[str, int] = MappingProxyType({})
    """Instructions of the smallest sources on `OTHER_CHIPS`, of a net with every weight."""


def autoencoder() -> nn.Module:
    """MLPerf Tiny's net for anomalies, of fully connected layers."""
    sizes = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128)
    inner = [
        layer
        for before, after in pairwise(sizes)
        for layer in (nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU())
    ]
    return nn.Sequential(*inner, nn.Linear(sizes[-1], 640))


def pruned(net: str, density: float, width: float = 1.0, dead: Mapping[int, float] = MappingProxyType({})) -> bytes:
    """An int8 file of a net whose layers keep their largest weights; depthwise ones, of few weights, keep all.

    ``dead`` as `DEAD`.
    """
    shape, classes = SHAPES[net]
    torch.manual_seed(0)
    inputs = np.random.default_rng(0).normal(size=(32, *shape)).astype(np.float32)
    model = autoencoder() if net == "autoencoder" else models.build(net, shape, classes)
    with torch.no_grad():
        model(torch.from_numpy(inputs))  # running statistics that are not those of a fresh net
    model = model.eval()
    kill(model, dead)
    if width < 1:
        groups = coupled_channels(model, torch.from_numpy(inputs[:1]))
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        masks = width_masks(groups, shapes, first_channels(groups, width))
        named = {name for name, _ in model.named_parameters()}
        kept = {name: mask for name, mask in masks.items() if name in named}
        model = shrink(model, kept, torch.from_numpy(inputs[:1]))
    with torch.no_grad():
        for layer in model.modules():
            depthwise = isinstance(layer, nn.Conv2d) and layer.groups > 1
            if isinstance(layer, nn.Conv2d | nn.Linear) and not depthwise and density < 1:
                size = layer.weight.abs().flatten()
                least = size.kthvalue(size.numel() - round(density * size.numel())).values
                layer.weight *= layer.weight.abs() > least
    graph = inference(trace(model, inputs[:1]))
    return litert.write_int8(graph, litert.calibrate(graph, inputs))


def kill(model: nn.Module, shares: Mapping[int, float]) -> None:
    """Give the last channels of every pointwise layer a negative constant, of which an activation leaves nothing."""
    for layer, norm in pairwise(model.modules()):
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and isinstance(norm, nn.BatchNorm2d):
            dead = round(shares.get(layer.out_channels, 0) * layer.out_channels)
            norm.weight.data[layer.out_channels - dead :] = 0
            norm.bias.data[layer.out_channels - dead :] = -1


def costs(net: str, density: float, width: float = 1.0, dead: Mapping[int, float] = MappingProxyType({})) -> Row:
    model = pruned(net, density, width, dead)
    name = net if width == 1 else f"{net}, channels × {width:g}"
    name += ", dead channels" if dead else ""
    ways = benching.on_chip(model, CHIP)
    if density < 1:
        return Row(name, density, ways)
    others = {chip: counted(benching.on_chip(model, chip)[LITTLE]) for chip in OTHER_CHIPS}
    return Row(name, density, ways, classes(model, CHIP), others)


def counted(costs: benching.Costs) -> int:
    """The instructions of C that gives the bits of the reference kernels."""
    assert costs.instructions is not None
    if costs.differing:
        raise RuntimeError(f"{costs.differing} inputs differ from {costs.beside}")
    return costs.instructions


class Checked(NamedTuple):
    """The model of an experiment: its file, its accuracy on the real test set, and real inputs on the chip."""

    name: str
    size_bytes: int
    accuracy_float: float
    accuracy_int8: float
    inputs: int
    differing: int
    """Inputs whose outputs on the chip are not those of ``beside``."""
    beside: str
    """Whose reference kernels those are; empty where nothing here runs the model to compare."""
    costs: Mapping[str, benching.Costs]


def checked(name: str, data_dir: Path, folder: Path, inputs: int) -> Checked:
    """Train the experiment where it is not there, and run its model on the chip over real test inputs."""
    source = f"simulations/{name}.toml"
    if not (folder / "result.json").exists():
        simulate(
            load(Path(source)),
            folder,
            source=source,
            data_dir=str(data_dir),
            resume=(folder / "metrics.jsonl").exists(),
        )
    setting = prepare(load(Path(source)), source, str(data_dir))
    samples, labels = test_parts(setting, str(data_dir))
    few = np.linspace(0, len(labels) - 1, inputs).astype(np.int64)
    model, floats = ((folder / each).read_bytes() for each in ("model.tflite", "model_float.tflite"))
    accuracies = [float(np.mean(litert.run(each, samples).argmax(1) == labels)) for each in (floats, model)]
    given = litert.arrange(samples[few], litert.quantisation(model).input).reshape(inputs, -1)
    ways = benching.on_chip(model, CHIP, given)
    differing = max(each.differing or 0 for each in ways.values())
    beside = next((each.beside for each in ways.values() if each.beside), "")
    return Checked(name, len(model), accuracies[0], accuracies[1], inputs, differing, beside, ways)


def said(run: Checked) -> str:
    """The line of an experiment's model."""
    compared = f"{run.differing} differ from {run.beside}" if run.beside else "compared with nothing"
    return (
        f"{run.name}: {run.size_bytes:,} bytes; {100 * run.accuracy_float:.2f} % in float, "
        f"{100 * run.accuracy_int8:.2f} % in int8; {run.inputs} real inputs on the {CHIP}: {compared}; "
        f"{run.costs[LITTLE].flash_bytes:,} bytes of flash, {run.costs[LITTLE].ram_bytes:,} of RAM"
    )


def table(rows: Sequence[Row]) -> Table:
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("net", "zeros", "way", "flash, bytes", "RAM, bytes", f"M instructions, {CHIP}"):
        shown.add_column(column, justify="left" if column in ("net", "way") else "right")
    for row in rows:
        for at, (way, each) in enumerate(row.costs.items()):
            first = (row.net, f"{100 * (1 - row.density):.0f} %") if at == 0 else ("", "")
            counted = "" if each.instructions is None else f"{each.instructions / 1e6:.2f}"
            shown.add_row(*first, way, f"{each.flash_bytes:,}", f"{each.ram_bytes:,}", counted)
    return shown


def by_class(rows: Sequence[Row]) -> Table:
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("net, M instructions", *Classes._fields):
        shown.add_column(column, justify="left" if column.startswith("net") else "right")
    for row in rows:
        if row.classes is not None:
            shown.add_row(row.net, *(f"{count / 1e6:.2f}" for count in row.classes))
    return shown


def by_chip(rows: Sequence[Row]) -> Table:
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("net, M instructions", CHIP, *OTHER_CHIPS):
        shown.add_column(column, justify="left" if column.startswith("net") else "right")
    for row in rows:
        if row.others:
            numbers = (counted(row.costs[LITTLE]), *row.others.values())
            shown.add_row(row.net, *(f"{count / 1e6:.2f}" for count in numbers))
    return shown


def figures(rows: Sequence[Row], runs: Sequence[Checked]) -> dict[str, Figure]:
    """Of every net and density the smallest sources, against the fastest and TensorFlow Lite Micro."""
    made: dict[str, Figure] = {}
    for net, density, ways, kinds, chips in rows:
        short = net.replace(", channels × 0.5", "_halved").replace(", dead channels", "_dead")
        name = f"{short}_{100 * (1 - density):.0f}"
        best, others = ways[LITTLE], {way: each for way, each in ways.items() if way != LITTLE}
        flash = {way: float(each.flash_bytes) for way, each in others.items()}
        ram = {way: float(each.ram_bytes) for way, each in others.items()}
        beside = {way: float(each.instructions) for way, each in others.items() if each.instructions is not None}
        instructions = counted(best)
        limit = DEAD_INSTRUCTIONS if short == "mobilenet_dead" else INSTRUCTIONS.get(net, {}).get(density)
        made[f"{name}_flash_bytes"] = Figure(best.flash_bytes, "bytes", "lower", FLASH.get(net, {}).get(density), flash)
        made[f"{name}_ram_bytes"] = Figure(
            best.ram_bytes, "bytes", "lower", HALVED_RAM if name == "resnet8_halved_80" else None, ram
        )
        made[f"{name}_m4_instructions"] = Figure(instructions, "instructions", "lower", limit, beside)
        for chip, count in chips.items():
            made[f"{name}_{chip.removeprefix('cortex-')}_instructions"] = Figure(
                count, "instructions", "lower", against={CHIP: float(instructions)}
            )
        for kind, count in kinds._asdict().items() if kinds else ():
            unit = "cycles, by a model" if kind == "cycles" else "instructions"
            made[f"{name}_m4_{kind}"] = Figure(count, unit, "lower", CYCLES.get(net) if kind == "cycles" else None)
    for run in runs:
        lost = 100 * (run.accuracy_float - run.accuracy_int8)
        made[f"{run.name}_file_bytes"] = Figure(run.size_bytes, "bytes", "lower", RUNS[run.name])
        made[f"{run.name}_points_lost_to_int8"] = Figure(lost, "percentage points", "lower", 0.3)
        made[f"{run.name}_differing_inputs"] = Figure(run.differing, f"of {run.inputs} inputs", "lower", 0)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="all nets dense, and ResNet-8 at 80 %%: within a minute")
    parser.add_argument("--data-dir", type=Path, help="folder of the data sets, for the models of two experiments")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder of their runs, made where they are not there"
    )
    asked = parser.parse_args()
    console = Console()
    dense = [(net, 1.0) for net in SHAPES]
    sparse = [("resnet8", 0.2)] if asked.quick else [(net, density) for net in NETS for density in DENSITIES[1:]]
    rows = []
    for net, density in (*dense, *sparse):
        with console.status(f"{net} at density {density}"):
            rows.append(costs(net, density))
    with console.status("mobilenet with dead channels"):
        rows.append(costs("mobilenet", 1.0, dead=DEAD))
    if not asked.quick:
        rows.append(costs("resnet8", 0.2, 0.5))
    console.print(table(rows))
    console.print(by_class(rows))
    console.print(by_chip(rows))
    runs = []
    for name in RUNS if asked.data_dir and not asked.quick else ():
        runs.append(run := checked(name, asked.data_dir, asked.runs / name, INPUTS))
        console.print(said(run))
    command = "python -m simulations.benchmarks.tiny_runtimes" + (" --quick" if asked.quick else " --data-dir DATA")
    packages = ["torch", "ai-edge-litert", "tflite-micro"]
    console.print(f"written to {write('tiny_runtimes', figures(rows, runs), command, packages)}")


if __name__ == "__main__":
    main()
