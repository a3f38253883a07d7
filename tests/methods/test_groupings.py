"""Channels of every grouping are cut exactly: a narrow net, the masked one and the exported graph say the same."""

import copy
from collections.abc import Callable

import battery
import here
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedprune import models, training
from fedprune.budgets import macs
from fedprune.data import Schema
from fedprune.experiment import Data, Experiment
from fedprune.graph import fold_batch_norm, inference, run, trace, width
from fedprune.graph.compaction import compact
from fedprune.graph.inner import all_groups
from fedprune.methods import build
from fedprune.pruning.parts import view
from fedprune.runs import cutting
from fedprune.runs.setting import prepare
from fedprune.training.input_moments import input_moments

IMAGE, TOKENS = (2, 8, 8), (6, 16)


def conv(inputs: int, outputs: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Block(nn.Module):
    """``join`` of two ways to the same maps, between a convolution and the means of the maps."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor], width: int, *inner: nn.Module) -> None:
        super().__init__()
        self.join, self.first, self.inner = join, conv(2, 8), nn.Sequential(*inner)
        self.after, self.last = conv(width, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        logits: Tensor = self.last(self.after(self.join(x, self.inner(x))).mean((2, 3)))
        return logits


class OwnAttention(nn.Module):
    """Attention whose code knows how wide it is, and a perceptron behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down, self.last = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(-1, 6, 3, 4, 4).permute(2, 0, 3, 1, 4)
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 6, 16))
        logits: Tensor = self.last((x + self.down(functional.gelu(self.up(x)))).mean(1))
        return logits


class Windows(nn.Module):
    """Attention within windows that lie along the batch, to whose scores a table adds by head and distance."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.last = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 3)
        self.table = nn.Parameter(torch.randn(5, 4))
        self.register_buffer("apart", torch.arange(3)[:, None] - torch.arange(3) + 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.reshape(-1, 3, 16)).reshape(-1, 3, 3, len(self.table.T), 4).permute(2, 0, 3, 1, 4)
        shares = (q @ k.mT / 2 + self.table[self.apart.flatten()].reshape(3, 3, -1).permute(2, 0, 1)).softmax(-1)
        logits: Tensor = self.last((x + self.out((shares @ v).transpose(1, 2).flatten(2)).reshape(x.shape)).mean(1))
        return logits


class TurnedAttention(nn.Module):
    """torch's attention, places first, in a net that asks for its weights and forgets them."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(16, 4, bias=False), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        logits: Tensor = self.last((x + self.attention(x, x, x)[0]).mean(0))
        return logits


def encoder(**given: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.1, batch_first=True, **given)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(96, 3))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "residual": (lambda: Block(torch.add, 8, conv(8, 8), conv(8, 8)), IMAGE, 3),
    "concatenation": (lambda: Block(lambda x, y: torch.cat([x, y], 1), 12, conv(8, 4)), IMAGE, 3),
    "depthwise": (lambda: Block(lambda x, y: y, 8, conv(8, 8, 8)), IMAGE, 2),
    "grouped": (lambda: Block(lambda x, y: y, 8, conv(8, 8, 2)), IMAGE, 3),
    "grouped, with a sum": (lambda: Block(torch.add, 8, conv(8, 16, 4), conv(16, 8, 2)), IMAGE, 3),
    "heads and neurons": (encoder, TOKENS, 2),
    "norms first": (lambda: encoder(norm_first=True), TOKENS, 2),
    "heads, places first": (TurnedAttention, TOKENS, 1),
    "an attention of its own": (OwnAttention, TOKENS, 1),
    "heads of windows": (Windows, TOKENS, 1),
    "swin": (lambda: models.build("swin", (3, 32, 32), 3), (3, 32, 32), 12),
    "keyword_transformer": (lambda: models.build("keyword_transformer", (1, 9, 10), 3), (1, 9, 10), 4),
}


def moved(net: nn.Module, seed: int = 0) -> nn.Module:
    """Without weights and statistics that are 0 or 1."""
    rng = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            value.add_(torch.rand(value.shape, generator=rng) * (0.5 if name.endswith(("bias", "mean")) else 0.1))
    return net.eval()


@pytest.mark.parametrize("method", ["spa", "flap"])
@pytest.mark.parametrize("name", NETS)
def test_a_narrow_net_the_masked_one_and_its_compacted_graph_are_one_function(name: str, method: str) -> None:
    make, shape, count = NETS[name]
    torch.manual_seed(1)
    net = moved(make())
    groups, shapes = all_groups(net, torch.zeros(2, *shape)), {k: tuple(v.shape) for k, v in net.state_dict().items()}
    assert len(groups) == count

    one = np.ones((1, 1, 1)[: len(shape)], np.float32)
    schema = Schema(("a", "b", "c"), shape, 0 * one, one)
    cost = cutting.cost_of(Experiment(Data(""), name, {}, 1), schema, net, lambda: (groups, shapes))
    whole = cost("macs", {group.name: np.ones(group.size, np.bool_) for group in groups})
    inputs = np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32)
    budget = {"macs": int(0.7 * whole)} if method == "spa" else {"keep": 0.7}
    rule = build({"name": method, **budget}, {}, 0, channels=lambda: (groups, shapes), cost=cost)
    model = rule.act(rule.start(training.state_of(net)), answers(net, rule, inputs), 0)
    masks = model.parts["narrow"].masks
    assert not all(mask.all() for mask in masks.values())

    seen = view(model, "narrow").params
    training.load_state(net, seen)
    narrow = width.narrow(seen, masks)
    small = width.fit(net, {key: value.shape for key, value in narrow.items()}).eval()
    training.load_state(small, narrow)
    with torch.no_grad():
        expected = copy.deepcopy(net).double()(torch.from_numpy(inputs).double()).float()  # without rounding
        got = small(torch.from_numpy(inputs))
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
        small.train()
        assert small(torch.from_numpy(inputs)).isfinite().all()
    graph = inference(compact(fold_batch_norm(trace(net, torch.zeros(1, *shape)))))
    out = run(graph, inputs)[graph.outputs[0]]
    assert np.abs(out - expected.numpy()).max() <= 1e-5 * np.abs(expected.numpy()).max()
    if method == "spa":
        assert macs(graph) <= budget["macs"]
        assert macs(graph) == macs(inference(trace(small.eval(), torch.zeros(1, *shape))))


class Spoken(nn.Module):
    """A transformer over the rows of a picture."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.up, self.last = nn.Linear(6, 16), nn.Linear(16, classes)
        self.layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.layer(self.up(x.squeeze(1))).mean(1))
        return logits


def spoken(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return Spoken(classes)


def grouped(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    ends = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes)
    return nn.Sequential(nn.Conv2d(1, 2, 1), conv(2, 8), conv(8, 8, 2), conv(8, 6), *ends)


@pytest.mark.parametrize("name", ["spa", "flap", "obspa", "heterofl", "fjord", "dhspg", "small_dense"])
@pytest.mark.parametrize("net", ["spoken", "grouped"])
def test_methods_that_cut_channels_train_them(net: str, name: str) -> None:
    """Whatever they were written for."""
    it = battery.experiment(name, {}, model=f"test_groupings:{net}", rounds=1)
    setting = prepare(it, "test")
    *_, last = here.steps(setting, here.dense(it), native=True)
    (part,) = last.state.parts.values()
    cut = {key for key, mask in part.masks.items() if not mask.all()}
    inner = (
        {"layer.self_attn.in_proj_weight", "layer.linear2.weight"} if net == "spoken" else {"2.0.weight", "2.1.weight"}
    )
    assert name == "dhspg" or cut >= inner or (name, net) == ("obspa", "grouped")
    assert all(np.isfinite(value).all() for value in last.state.params.values())


def answers(net: nn.Module, rule: object, inputs: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """What devices would say of what layers read."""
    asked = rule.asks(None, 0, {})  # type: ignore[attr-defined]
    found: dict[str, np.ndarray] = {"examples": np.asarray(len(inputs))}
    for ask in asked.values():
        for name, each in input_moments(copy.deepcopy(net), [(inputs, np.zeros(len(inputs)))], ask.args).items():
            assert each.examples, f"nobody knows what {name} reads"
            fan = net.get_parameter(name).shape[1:]
            found |= {f"{name}/mean": each.mean.reshape(-1, *fan), f"{name}/variance": each.variance.reshape(-1, *fan)}
    return dict.fromkeys(asked, found)
