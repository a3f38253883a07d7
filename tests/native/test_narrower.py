"""Narrower models: their graphs follow from the whole one's and their weights, and train as torch's do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from fedprune import models, training
from fedprune.graph import Graph, trace, width
from fedprune.graph.coupling import coupled_channels
from fedprune.graph.message import of_text, to_text
from fedprune.native import library, nodes
from fedprune.training import native
from fedprune.training.lean import SubModel
from fedprune.training.native_steps import Inner
from fedprune.types import Masks, Params, Sgd, Tensor

pytestmark = pytest.mark.skipif(library.library() is None, reason="the compiled trainer is not installed")


class Joined(nn.Module):
    """Two branches side by side, one of them padded and pooled, a gate of channels, and a flat end."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 9, 1)
        self.norm = nn.BatchNorm2d(15)
        self.down, self.up = nn.Conv2d(15, 4, 1), nn.Conv2d(4, 15, 1)
        self.each = nn.Conv2d(15, 15, 3, padding=1, groups=15)
        self.head = nn.Linear(15 * 9, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(torch.cat([self.one(x), self.other(x)], 1)))
        gate = torch.sigmoid(self.up(torch.relu(self.down(y.mean((2, 3), keepdim=True)))))
        y = nn.functional.max_pool2d(torch.relu(self.each(y * gate)), 2)
        logits: torch.Tensor = self.head(y.flatten(1))
        return logits


class Gated(nn.Module):
    """A gate of channels by linear layers, whose vector becomes a map again."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, groups=8)
        self.down, self.up, self.head = nn.Linear(8, 4), nn.Linear(4, 8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.one(x))
        gate = torch.sigmoid(self.up(torch.relu(self.down(y.mean((2, 3))))))[:, :, None, None]
        logits: torch.Tensor = self.head(torch.relu(self.other(y * gate)).mean((2, 3)))
        return logits


NETS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "residual": ((3, 16, 16), lambda: models.build("resnet8", (3, 16, 16), 5)),
    "depthwise": ((1, 20, 10), lambda: models.build("dscnn", (1, 20, 10), 5)),
    "mobile": ((3, 64, 64), lambda: models.build("mobilenet", (3, 64, 64), 5)),
    "of one dimension": ((9, 64), lambda: models.build("har_cnn", (9, 64), 5)),
    "plain": ((1, 8, 8), lambda: models.build("digits_cnn", (1, 8, 8), 5)),
    "joined": ((3, 6, 6), Joined),
    "gated": ((3, 6, 6), Gated),
}


def cut(model: nn.Module, shape: tuple[int, ...], kept: float, start: int) -> tuple[Masks, Params]:
    """(masks of a window of channels, the state under them)."""
    groups = coupled_channels(model, torch.zeros(2, *shape))
    state = training.state_of(model)
    shapes = {name: value.shape for name, value in state.items()}
    masks = width.width_masks(groups, shapes, width.window(groups, kept, start))
    return masks, width.narrow(state, masks)


def text_of(model: nn.Module, shape: tuple[int, ...]) -> str:
    slots = {name: (value.shape, value.dtype.name, True) for name, value in training.state_of(model).items()}
    return to_text(trace(model, torch.zeros(1, *shape)), slots)


def apart(one: Tensor, other: Tensor, before: Tensor) -> float:
    """How far apart, of how far both have moved, in norms: a ReLU at 0 that goes the other way moves a few by much."""
    away, moved, size = (float(np.linalg.norm(each)) for each in (one - other, other - before, before))
    return away / max(moved, 1e-4 * np.sqrt(before.size), 1e-4 * size)


def said(graph: Graph) -> list[tuple[object, ...]]:
    return [(type(op), graph.shapes[op.output], getattr(op, "groups", 1)) for op in graph.operations]


@pytest.mark.parametrize("kept", [0.5, 0.25])
@pytest.mark.parametrize("name", NETS)
def test_a_narrower_model_is_torchs_and_trains_as_it_does(name: str, kept: float) -> None:
    """And so does one nested in it, by turns, whose statistics of channels that it has not say nothing."""
    training.one_thread()
    torch.manual_seed(1)
    shape, make = NETS[name]
    model = make()
    masks, state = cut(model, shape, kept, 1)
    small = width.fit(model, {n: v.shape for n, v in state.items()})
    training.load_state(small, state)
    graph = of_text(text_of(model, shape), state)
    assert nodes.not_covered(graph) is None
    assert said(graph) == said(trace(small, torch.zeros(1, *shape)))
    smaller = width.narrow(cut(model, shape, kept / 2, 1)[0], masks)
    buffers = {n: v for n, v in state.items() if n in dict(small.named_buffers())}
    inner = Inner({n: m for n, m in smaller.items() if n not in buffers}, {n: v.copy() for n, v in buffers.items()})
    sub = SubModel(inner.masks, {n: torch.from_numpy(v.copy()) for n, v in buffers.items()})
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(12, *shape)).astype(np.float32), rng.integers(0, 5, 12)) for _ in range(2)]
    own, sgd = native.Model(graph, state), Sgd(0.002, 0.9, 5e-4)
    outcome, params = native.train(own, batches, sgd, {}, examples=12, inner=[inner], turn=lambda step: step % 2)
    wanted = training.train(small, batches, sgd, inner=[sub], turn=lambda step: step % 2)
    assert outcome.loss == pytest.approx(wanted.loss, rel=1e-3)
    for n, value in training.state_of(small).items():
        assert apart(params[n], value, state[n]) < 0.1, n
    for n, buffer in sub.buffers.items():
        there = smaller.get(n, np.ones(buffer.shape, np.bool_))
        assert apart(inner.buffers[n][there], buffer.numpy()[there], buffers[n][there]) < 0.1, n
    tested = native.evaluate(own._replace(params=training.state_of(small)), batches, 12)
    assert tested.loss == pytest.approx(training.evaluate(small, batches).loss, rel=1e-4)


def test_weights_that_fit_no_width_are_no_graphs() -> None:
    torch.manual_seed(0)
    shape, make = NETS["plain"]
    model = make()
    text, (_, state) = text_of(model, shape), cut(model, shape, 0.5, 0)
    weight = next(name for name, value in state.items() if value.ndim == 4 and value.shape[1] > 1)
    for wrong in (state[weight][:, :-1], np.repeat(state[weight], 9, 0), state[weight][0]):
        with pytest.raises(ValueError, match="not a graph"):
            of_text(text, {**state, weight: wrong})
