"""A net that ends in a softmax gives what comes before it: a module or a function, in copies, graphs and training."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fedprune import training
from fedprune.graph import Reshape, Softmax, trace
from fedprune.graph.surgery import shrink
from fedprune.models import ModelError, build, rehearsed
from fedprune.tasks import named
from fedprune.training.lean import Lean
from fedprune.types import Sgd

SHAPE, CLASSES = (6,), 4


def plain(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(*input_shape, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, classes))


class Ending(nn.Module):
    """``plain``, and a function at the end."""

    def __init__(self, body: nn.Module, end: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.body, self.end = body, end

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.end(self.body(inputs))


class Gated(nn.Module):
    """One softmax for a gate inside and for the end: inside it must stay."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.gate, self.head, self.softmax = nn.Linear(6, 6), nn.Linear(6, classes), nn.Softmax(1)

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(inputs * self.softmax(self.gate(inputs)))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.softmax(self.logits(inputs))


def module(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(plain(input_shape, classes), nn.Softmax(1))


def log_module(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(plain(input_shape, classes), nn.LogSoftmax(dim=-1))


def twice(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(module(input_shape, classes), nn.Softmax(1))


def function(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return Ending(plain(input_shape, classes), lambda x: functional.softmax(x, 1))


def log_function(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(Ending(plain(input_shape, classes), lambda x: torch.log_softmax(input=x, dim=1)))


def method_and_view(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return Ending(plain(input_shape, classes), lambda x: x.softmax(-1).unsqueeze(2).view(-1, classes))


def gated(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return Gated(classes)


def by_hand(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return Ending(plain(input_shape, classes), lambda x: x.exp() / x.exp().sum(1, keepdim=True))


def one_logit(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return Ending(plain(input_shape, classes), torch.sigmoid)


HERE = __name__
ENDINGS = ["module", "log_module", "function", "log_function", "method_and_view"]
INPUTS = torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(1))


def built(name: str, classes: int = CLASSES) -> nn.Module:
    return build(f"{HERE}:{name}", SHAPE, classes, seed=3)


@pytest.mark.parametrize("name", ENDINGS)
def test_it_is_the_net_without_its_softmax(name: str) -> None:
    net, wanted = built(name), built("plain")
    for each in (net, copy.deepcopy(net)):
        for mode in (True, False):
            assert torch.equal(each.train(mode)(INPUTS), wanted(INPUTS))
    assert [value.shape for value in net.state_dict().values()] == [v.shape for v in wanted.state_dict().values()]
    said = rehearsed(f"{HERE}:{name}", SHAPE, CLASSES)
    assert f"ends in a {'log-' * ('log' in name)}softmax: what comes before it is taken as its logits" in said


def test_of_two_at_the_end_neither_is_left() -> None:
    assert torch.equal(built("twice")(INPUTS), built("plain")(INPUTS))


@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize("lean", [Lean(), Lean(recompute=True)])
def test_it_trains_to_the_same_bits_as_the_net_without(name: str, lean: Lean) -> None:
    nets = [built(name), built("plain")]
    labels = np.arange(16) % CLASSES
    for net in nets:
        training.train(net, [(INPUTS.numpy(), labels)] * 5, Sgd(0.1), lean=lean)
    for mine, its in zip(*(net.state_dict().values() for net in nets), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize("name", ENDINGS)
def test_its_graph_and_its_smaller_copy_end_in_logits(name: str) -> None:
    net, wanted = built(name), built("plain")
    graph = trace(net, INPUTS)
    assert not [op for op in graph.operations if isinstance(op, Softmax)]
    kinds = [type(op) for op in graph.operations if not isinstance(op, Reshape)]
    assert kinds == [type(op) for op in trace(wanted, INPUTS).operations]
    first = next(key for key, value in net.state_dict().items() if value.shape == (12, 6))
    mask = np.ones((12, 6), np.bool_)
    mask[:5] = False
    with torch.no_grad():
        net.get_parameter(first)[:5] = 0
        net.get_parameter(first.replace("weight", "bias"))[:5] = 0
    small = shrink(net, {first: mask}, torch.zeros(1, *SHAPE))
    assert sum(value.numel() for value in small.parameters()) < sum(value.numel() for value in net.parameters())
    assert torch.allclose(small.eval()(INPUTS), net.eval()(INPUTS), atol=1e-6)
    assert not torch.allclose(small(INPUTS).sum(1), torch.ones(16), atol=1e-2)


def test_a_softmax_that_also_gates_stays_inside() -> None:
    net = built("gated")
    assert isinstance(net, Gated)
    with torch.no_grad():
        wanted = net.head(INPUTS * torch.softmax(net.gate(INPUTS), 1))
    assert torch.equal(net(INPUTS), wanted)


def test_one_that_is_computed_by_hand_is_told() -> None:
    assert torch.allclose(built("by_hand")(INPUTS).sum(1), torch.ones(16))
    assert "gives probabilities, as of a softmax" in rehearsed(f"{HERE}:by_hand", SHAPE, CLASSES)
    assert rehearsed(f"{HERE}:plain", SHAPE, CLASSES) == rehearsed("digits_cnn", (1, 8, 8), 10) == ""


def test_a_sigmoid_of_one_logit_is_taken_off_and_one_of_several_stays() -> None:
    assert torch.equal(built("one_logit", 1)(INPUTS), built("plain", 1)(INPUTS))
    assert torch.equal(built("one_logit", 2)(INPUTS), torch.sigmoid(built("plain", 2)(INPUTS)))


@pytest.mark.parametrize(
    ("task", "end", "off"),
    [
        ("multi_label", torch.sigmoid, True),
        ("multi_label", functional.softmax, False),
        ("regression", torch.sigmoid, False),
        ("regression", functional.softmax, False),
        ("next_token", functional.log_softmax, True),
    ],
)
def test_what_is_taken_off_goes_by_the_task(task: str, end: Any, off: bool, monkeypatch: Any) -> None:
    def ending(input_shape: tuple[int, ...], classes: int) -> nn.Module:
        net = plain(input_shape, classes)
        return Ending(net, end if end is torch.sigmoid else lambda outputs: end(outputs, dim=1))

    monkeypatch.setattr(f"{__name__}.twice", ending)
    net, inputs = build(f"{__name__}:twice", SHAPE, CLASSES, task=named(task)).eval(), torch.randn(5, *SHAPE)
    assert torch.equal(net(inputs), net.body(inputs)) == off  # type: ignore[operator]
    said = rehearsed(f"{__name__}:twice", SHAPE, CLASSES, task=named(task))
    assert bool(said) == (task != "regression")  # whose outputs may well be shares


def test_what_a_forward_raises_while_it_is_looked_at_is_told(monkeypatch: Any) -> None:
    monkeypatch.setattr(Gated, "logits", lambda self, inputs: inputs @ torch.ones(5, 4))
    with pytest.raises(ModelError, match=r"test_endings\.py, line \d+, in .*: RuntimeError: mat1 and mat2"):
        built("gated")
