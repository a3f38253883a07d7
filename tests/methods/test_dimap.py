"""DIMAP's claims, on a small net of two stages of attention: scales do not matter, and sizes alone are worse."""

import functools

import numpy as np
import pytest
import torch
from central_runs import digits, paired
from torch import nn

from fedprune import training
from fedprune.graph.layers import layer_shapes
from fedprune.methods import build
from fedprune.methods.static.dimap import module_of
from fedprune.models import draws
from fedprune.pruning import masks
from fedprune.types import Masks, Params

SEEDS = range(5)


class Merging(nn.Module):
    """Windows of 2 × 2 tokens become one, of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        count, _, width = tokens.shape
        square = tokens.reshape(count, 2, 2, 2, 2, width).permute(0, 1, 3, 2, 4, 5)
        merged: torch.Tensor = self.linear(self.norm(square.reshape(count, 4, 4 * width)))
        return merged


class Hierarchical(nn.Module):
    """Patches of 2 × 2 pixels, a stage of 16 tokens and one of 4."""

    def __init__(self) -> None:
        super().__init__()

        def stage(width: int) -> nn.Module:
            return nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)

        self.patches, self.stage1, self.merging, self.stage2 = nn.Conv2d(1, 24, 2, 2), stage(24), Merging(24), stage(48)
        self.places, self.head = nn.Parameter(0.1 * torch.randn(1, 16, 24)), nn.Linear(48, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.stage1(self.patches(images).flatten(2).transpose(1, 2) + self.places)
        logits: torch.Tensor = self.head(self.stage2(self.merging(tokens)).mean(1))
        return logits


with draws.seeded(0):
    LAYERS = layer_shapes(Hierarchical(), torch.zeros(2, 1, 8, 8))


@functools.cache
def trained(seed: int) -> Params:
    training.one_thread()
    dataset, train, _ = digits()
    inputs = torch.from_numpy(dataset.normalise(train.inputs))
    labels = torch.from_numpy(train.labels)
    with draws.seeded(seed):
        net = Hierarchical()
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for epoch in range(10):
        order = np.random.default_rng((seed, epoch)).permutation(len(labels))
        for some in np.array_split(order, len(order) // 64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(inputs[some]), labels[some]).backward()
            optimiser.step()
    return training.state_of(net)


def pruned(name: str, params: Params, density: float) -> Masks:
    return build({"name": name, "density": density}, LAYERS, 0).start(params).masks


def accuracy(params: Params) -> float:
    dataset, _, test = digits()
    net = Hierarchical().eval()
    with torch.no_grad():
        training.load_state(net, params)
        return float((net(torch.from_numpy(dataset.normalise(test.inputs))).argmax(1).numpy() == test.labels).mean())


def test_a_module_ten_times_as_large_keeps_the_same_weights() -> None:
    params = trained(0)
    modules = {module_of(name) for name in LAYERS}
    assert {"stage1", "stage1/attention", "stage2", "stage2/attention", "merging"} <= modules
    for module in modules:
        larger = {
            name: value * 10 if name in LAYERS and module_of(name) == module else value
            for name, value in params.items()
        }
        assert masks.equal(pruned("dimap", larger, 0.25), pruned("dimap", params, 0.25))
    assert not masks.equal(pruned("magnitude", larger, 0.25), pruned("magnitude", params, 0.25))


def test_the_largest_weight_of_every_module_stays() -> None:
    params = trained(0)
    kept = pruned("dimap", params, 0.005)
    for module in {module_of(name) for name in LAYERS}:
        mine = [name for name in LAYERS if module_of(name) == module]
        most = max(mine, key=lambda name: float(np.abs(params[name]).max()))
        assert kept[most].flat[np.abs(params[most]).argmax()]


@pytest.mark.parametrize("density", [0.5, 0.3, 0.2])
def test_it_beats_one_ranking_of_sizes(density: float) -> None:
    """By 1, 6 and 20 points. Between modules, single layers (LAMP) and ERK no difference is shown."""
    gains: list[float] = []
    for seed in SEEDS:
        params = trained(seed)
        one, other = (accuracy(masks.apply(params, pruned(name, params, density))) for name in ("dimap", "magnitude"))
        assert masks.density(pruned("dimap", params, density)) == pytest.approx(density, rel=0.001)
        gains.append(one - other)
    mean, half = paired(gains)
    assert mean > half
