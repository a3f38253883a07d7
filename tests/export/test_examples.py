"""Experiments from data to a chip: each parses, and its net is pruned, a file of integers, and C that computes it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from c99_runs import computed

from fedprune import experiment
from fedprune import graph as graphs
from fedprune.data.plays import VOCABULARY
from fedprune.experiment import Experiment
from fedprune.export import c99, litert
from fedprune.export.litert import ports, reference
from fedprune.export.litert.reader import read
from fedprune.methods.building import prunable_of
from fedprune.models import build
from fedprune.tasks import named

SIMULATIONS = Path(__file__).parents[2] / "simulations"
EXAMPLES = {
    "ucihar_gru": ((9, 128), 6, 0),
    "keywords_transformer": ((1, 49, 10), 40, 3),
    "shapes": ((3, 32, 32), 4, 0),
    "plays": ((64,), len(VOCABULARY), 0),
    "vit": ((3, 32, 32), 10, 3),
    "swin": ((3, 32, 32), 10, 3),
}
"""Experiment -> shape of an example, outputs, and how far levels of C may be from those of LiteRT's reference kernels.

Their root of a layer norm's variance is a step from TensorFlow Lite Micro's, which C has, and which has no GELU.
"""


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_examples_net_becomes_integers_and_c(name: str, tmp_path: Path) -> None:
    asked = experiment.load(SIMULATIONS / f"{name}.toml")
    shape, classes, most = EXAMPLES[name]
    model = build(asked.model, shape, classes).eval()
    layers, every = prunable_of(asked, model, shape), sum(p.numel() for p in model.parameters())
    assert sum(int(np.prod(each)) for each in layers.layers.values()) > 0.8 * every
    samples = _samples(asked, shape, classes)
    graph = graphs.inference(graphs.trace(model, samples[:1]))
    file = litert.write_int8(graph, litert.calibrate(graph, samples.numpy()))
    assert {np.dtype(each.dtype).kind for each in read(file).tensors} <= {"i", "b"}  # a loop asks whether to go on
    with torch.no_grad():
        wanted = model(samples).numpy()
    found = litert.run(file, samples.numpy(), reference=True)
    assert 10 * np.log10(wanted.var() / ((wanted - found) ** 2).mean()) > 20
    port = ports(read(file)).input
    given = np.concatenate([litert.noise(port, seed).reshape(1, -1) for seed in range(5)])
    in_c, levels = computed(c99.generate(file), given, tmp_path).astype(int), reference(file, given).astype(int)
    assert np.abs(in_c - levels).max() <= most
    assert np.ptp(levels) > 100


def _samples(asked: Experiment, shape: tuple[int, ...], classes: int) -> torch.Tensor:
    seeded = torch.Generator().manual_seed(0)
    if named(asked.task).tokens:
        return torch.randint(0, classes, (16, *shape), generator=seeded)
    return torch.randn(16, *shape, generator=seeded)
