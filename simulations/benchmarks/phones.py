"""Benchmark of zeros on phones: MobileNet's float file, dense and sparse, in bytes and on an emulated Cortex-A72."""

import argparse
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from fedprune import models
from fedprune.export import litert
from fedprune.export.litert import aarch64 as emulated
from fedprune.export.litert.flatbuffer import pack
from fedprune.export.litert.numbers import Floats
from fedprune.export.litert.rules import lower
from fedprune.graph import Graph, inference, trace
from fedprune.pruning.topk import kept_count, top_k
from simulations.benchmarks import _aarch64
from simulations.benchmarks._report import Figure, write

SHAPE, CLASSES = (3, 96, 96), 2  # visual wake words
DENSITIES = (1.0, 0.3, 0.2, 0.1)
SPEED_TARGETS = {0.3: 1.5, 0.2: 1.8, 0.1: 2.0}
"""Density -> how many times as fast as the dense file, by the emulator's clock."""
WORK_TARGETS = {0.3: 1.0, 0.2: 1.2, 0.1: 1.5}
"""Density -> how many times as many instructions the dense file takes."""
TOLERANCE = 1e-4  # sums are taken in another order


class Row(NamedTuple):
    """One file and what came of it."""

    name: str
    size_bytes: int
    latency_ms: float
    instructions: int
    differs_by: float | None
    """Largest difference from the dense file's outputs, as a part of the largest output."""


def pruned(density: float, inputs: np.ndarray) -> Graph:
    """MobileNet with that part of each 1x1 convolution left, the largest; its batch norms have seen the inputs."""
    torch.manual_seed(0)
    model = models.build("mobilenet", SHAPE, CLASSES)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the plain mean: what runs through the net keeps its size
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
            weight = layer.weight.detach().numpy()
            weight *= top_k(np.abs(weight), kept_count(density, weight.size))
    with torch.no_grad():
        model(torch.from_numpy(inputs))
    return inference(trace(model.eval(), inputs[:1]))


def measure(runs: int) -> tuple[Row, Mapping[float, Row], Row]:
    """Return the dense file, density -> the sparse file of as many weights, and the dense int8 file; all take turns.

    The dense file is that of a net without zeros: its kernels take no less time for zeros, but the emulator takes more.
    """
    inputs = np.random.default_rng(0).normal(size=(16, *SHAPE)).astype(np.float32)
    graphs = {density: pruned(density, inputs) for density in DENSITIES}
    dense = {density: pack(lower(graph, Floats())) for density, graph in graphs.items()}
    written = {density: litert.write_float(graphs[density]) for density in SPEED_TARGETS}
    integers = litert.write_int8(graphs[1.0], litert.calibrate(graphs[1.0], inputs))
    files = [dense[1.0], *written.values(), integers]
    found = emulated.emulated(files, runs=runs)
    wanted = emulated.emulated([dense[density] for density in written], runs=1)
    counts = _aarch64.instructions(files)
    rows = []
    names = ("dense", *(f"sparse, {1 - density:.0%} zeros" for density in written), "dense, int8")
    for name, file, each, count in zip(names, files, found, counts, strict=True):
        rows.append(Row(name, len(file), each.latency.median_ms, count, None))
    for at, each in enumerate(wanted, start=1):
        error = float(np.abs(found[at].output - each.output).max() / np.abs(each.output).max())
        if not error <= TOLERANCE:
            raise AssertionError(
                f"{rows[at].name}: the output is not the dense file's on aarch64, it differs by {error}"
            )
        rows[at] = rows[at]._replace(differs_by=error)
    return rows[0], dict(zip(written, rows[1:-1], strict=True)), rows[-1]


def table(dense: Row, sparse: Mapping[float, Row], integers: Row) -> Table:
    shown = Table(
        title="MobileNet-0.25, 3x96x96, on an emulated Cortex-A72, one thread; milliseconds are not a phone's"
    )
    for column in ("file", "bytes", "ms", "dense / this", "M instructions", "dense / this", "outputs differ by"):
        shown.add_column(column, justify="left" if column == "file" else "right")
    for row in (dense, *sparse.values(), integers):
        speed = (f"{row.latency_ms:,.1f}", f"×{dense.latency_ms / row.latency_ms:.2f}")
        work = (f"{row.instructions / 1e6:,.2f}", f"×{dense.instructions / row.instructions:.2f}")
        error = "" if row.differs_by is None else f"{row.differs_by:.1e}"
        shown.add_row(row.name, f"{row.size_bytes:,}", *speed, *work, error)
    return shown


def figures(dense: Row, sparse: Mapping[float, Row], integers: Row) -> dict[str, Figure]:
    """Bytes, speed and instructions of the sparse files beside the dense one's, and the worst difference of outputs."""
    made = {}
    for density, row in sparse.items():
        name = f"at_{100 * (1 - density):.0f}_percent_zeros"
        against = {"dense": float(dense.size_bytes), "dense, int8": float(integers.size_bytes)}
        # Of a weight left four bytes and its place, one; the layers that stay dense come on top.
        target = round((0.1 + 1.25 * density) * dense.size_bytes)
        made[f"bytes_{name}"] = Figure(row.size_bytes, "bytes", "lower", target, against)
        speed, work = dense.latency_ms / row.latency_ms, dense.instructions / row.instructions
        peers = {"dense, int8": dense.latency_ms / integers.latency_ms}
        made[f"speed_{name}"] = Figure(speed, "× dense, emulated", "higher", SPEED_TARGETS[density], peers)
        peers = {"dense, int8": dense.instructions / integers.instructions}
        made[f"work_{name}"] = Figure(work, "× fewer instructions", "higher", WORK_TARGETS[density], peers)
    worst = max(row.differs_by or 0 for row in sparse.values())
    return made | {"outputs_differ_by": Figure(worst, "of the largest output", "lower", TOLERANCE)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer runs: within a minute, once the system is there")
    quick = parser.parse_args().quick
    console = Console()
    if lacking := emulated.missing() or _aarch64.missing():
        console.print(f"not measured: {lacking}")
        return
    if not emulated.root().is_dir():
        console.print(f"making an emulated Debian in {emulated.root()}, once")
    rows = measure(runs=5 if quick else 25)
    console.print(table(*rows))
    command = "python -m simulations.benchmarks.phones" + " --quick" * quick
    write("phones", figures(*rows), command, packages=["ai-edge-litert"])
    console.print("written to results/phones.json")


if __name__ == "__main__":
    main()
