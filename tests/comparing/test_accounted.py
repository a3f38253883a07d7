"""Costs by the conventions of papers: the published ratios come out of the formulas alone."""

import numpy as np
import pytest
import torch
from torch import nn

from fedprune import models, training
from fedprune.budgets import accounted
from fedprune.graph import Graph, trace
from fedprune.types import Params

EXAMPLES = 5 * 5000  # five epochs over a tenth of CIFAR-10


@pytest.fixture(scope="module")
def resnet() -> tuple[Graph, Params]:
    model = models.build("resnet18", (3, 32, 32), 10).eval()
    return trace(model, torch.zeros(1, 3, 32, 32)), training.state_of(model)


def kept(params: Params, density: float) -> dict[str, int]:
    """All layers but the first and the last at one density."""
    layers = [name for name, value in params.items() if value.ndim > 1][1:-1]
    return {name: int(density * params[name].size) for name in layers}


def test_published_flops_of_resnet18_at_a_hundredth(resnet: tuple[Graph, Params]) -> None:
    graph, params = resnet
    dense = accounted.training_flops(graph, {}, EXAMPLES)
    assert dense == pytest.approx(8.33e13, rel=1e-3)  # Huang et al., table II
    few = kept(params, 0.01)
    fedtiny = accounted.training_flops(graph, few, EXAMPLES, dense=64)
    prunefl = accounted.training_flops(graph, few, EXAMPLES, dense=EXAMPLES)
    assert round(fedtiny / dense, 3) == 0.014
    assert round(prunefl / dense, 2) == 0.34


def test_published_memory_of_resnet18_at_a_hundredth(resnet: tuple[Graph, Params]) -> None:
    _, params = resnet
    few = kept(params, 0.01)
    dense = accounted.training_bytes(params, {})
    fedtiny = accounted.training_bytes(params, few, grown=int(0.3 * sum(few.values())))
    assert round(fedtiny / dense, 2) == 0.03
    assert round(accounted.training_bytes(params, few, dense=True) / dense, 2) == 0.51


def test_by_hand() -> None:
    graph = trace(nn.Linear(4, 3, bias=False).eval(), torch.zeros(1, 4))
    # 6 of 12 weights: forward 12 FLOPs an example, backward twice that
    assert accounted.training_flops(graph, {"weight": 6}, 10) == 360
    # two of the ten with every weight's gradient: 24 instead of 12 for these
    assert accounted.training_flops(graph, {"weight": 6}, 10, dense=2) == 384
    params = {"weight": np.zeros((3, 4), np.float32), "bias": np.zeros(3, np.float32)}
    # dense: 15 values twice; 2 kept: (value, column) and 4 pointers, bias: 3 values; twice
    assert accounted.training_bytes(params, {}) == 120
    assert accounted.training_bytes(params, {"weight": 2}) == 2 * (16 + 16 + 12)
    assert accounted.training_bytes(params, {"weight": 2}, dense=True, grown=1) == (16 + 16 + 12) + 60 + 8
    # on the link: 2 values and the 12 bits of a bitmap, or 8 bytes of positions; and the bias
    assert accounted.link_bytes(params, {"weight": 2}) == 8 + 2 + 12
