"""Layer-LTH by hand: which branches there are, which goes, and what is left of it in a graph."""

import numpy as np
import pytest
import torch
from torch import nn

from fedprune import models
from fedprune.graph import compaction, fold_batch_norm, run, trace
from fedprune.graph.activations import Constant
from fedprune.graph.branches import branches
from fedprune.graph.coupling import Group, coupled_channels
from fedprune.graph.operations import Conv2d, Graph
from fedprune.methods import MethodError, build
from fedprune.types import Method, Model


class Net(nn.Module):
    """A first layer, a branch of two layers, a branch of one, and another of two."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 1)
        self.a1, self.a2 = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
        self.short = nn.Conv2d(4, 4, 1)
        self.b1, self.b2, self.norm = nn.Conv2d(4, 5, 1), nn.Conv2d(5, 4, 1), nn.BatchNorm2d(4)
        self.last = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = torch.relu(x + self.a2(torch.relu(self.a1(x))))
        x = x + self.short(x)
        x = x + self.norm(self.b2(torch.relu(self.b1(x))))
        out: torch.Tensor = self.last(x.mean((2, 3)))
        return out


def groups(net: nn.Module, *shape: int) -> tuple[Group, ...]:
    return coupled_channels(net, torch.zeros(2, *shape))


def test_a_branch_is_what_lies_beside_a_way_that_stays_open() -> None:
    assert branches(groups(Net(), 1, 4, 4)) == {"a2": ("a1.weight", "a2.weight"), "b2": ("b1.weight", "b2.weight")}
    for name, shape, count in (("resnet20", (3, 8, 8), 9), ("digits_cnn", (1, 8, 8), 0), ("dscnn", (1, 49, 10), 0)):
        assert len(branches(groups(models.build(name, shape, 10, seed=0), *shape))) == count


SHAPES = {f"{name}.weight": tuple(value.weight.shape) for name, value in Net().named_children() if name != "norm"}


def method(remove: int) -> Method:
    found = groups(Net(), 1, 4, 4)
    return build({"name": "layer_lth", "remove": remove}, SHAPES, 0, channels=lambda: (found, SHAPES))


def test_the_branch_without_which_features_change_least_goes_and_again() -> None:
    params = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    it = method(2)
    model = it.start(params)
    a, b = ("a1.weight", "a2.weight"), ("b1.weight", "b2.weight")
    first = it.asks(model, 0, {})["branch0"].args
    assert (list(first.candidates), first.last, first.examples) == ([a, b], "last.weight", 256)
    found = {"branch0": {"similarity": np.array([0.4, 0.9])}}
    assert [*it.asks(model, 0, found)["branch1"].args.candidates] == [(*b, *a)]
    assert not it.asks(model, 1, {})

    def left(of: Model) -> set[str]:
        return {name for name, mask in of.masks.items() if mask.all()}

    assert left(it.act(model, found, 0)) == {"first.weight", "short.weight", "last.weight", *a}
    both = {**found, "branch1": {"similarity": np.array([0.1])}}
    assert not it.asks(model, 0, both)
    done = it.act(model, both, 0)
    assert left(done) == {"first.weight", "short.weight", "last.weight"}
    assert not done.params["a2.weight"].any()
    assert left(it.act(model, {"branch0": {}}, 0)) == set(SHAPES)


@pytest.mark.parametrize(("remove", "why"), [(0, "below 1"), (3, "above 2, the model's branches")])
def test_more_branches_than_there_are_cannot_go(remove: int, why: str) -> None:
    with pytest.raises(MethodError, match=f"remove {remove} is {why}"):
        method(remove)


def graph_of(net: nn.Module) -> Graph:
    return fold_batch_norm(trace(net.eval(), np.zeros((1, 1, 4, 4), np.float32)))


def test_what_is_left_of_a_branch_of_zeros_is_its_bias() -> None:
    torch.manual_seed(0)
    net, inputs = Net(), np.random.default_rng(0).normal(size=(1, 1, 4, 4)).astype(np.float32)
    with torch.no_grad():
        for layer in (net.b1, net.b2, net.a2):
            layer.weight.zero_()
        net.norm.running_mean += 0.5
        net.norm.bias += torch.tensor([0.0, 1.0, 2.0, 3.0])
        expected = net.eval()(torch.from_numpy(inputs)).numpy()
    graph = graph_of(net)
    small = compaction.compact(graph)
    constants = [op.value.value for op in small.operations if isinstance(op, Constant)]
    # (b − ½) / √(1 + ε) + β, and a2's own bias
    scaled = (net.b2.bias.detach().numpy() - 0.5) / np.sqrt(1 + net.norm.eps) + np.arange(4)
    assert constants[0].ravel() == pytest.approx(net.a2.bias.detach().numpy())
    assert constants[1].ravel() == pytest.approx(scaled, abs=1e-6)
    assert sum(isinstance(op, Conv2d) for op in small.operations) == 2
    assert np.allclose(run(small, inputs)[small.outputs[0]], expected, atol=1e-5)
    # with a weight left it stays
    with torch.no_grad():
        net.b2.weight[1, 2] = net.b1.weight[2, 1] = 1
    assert sum(isinstance(op, Conv2d) for op in compaction.compact(graph_of(net)).operations) == 4
