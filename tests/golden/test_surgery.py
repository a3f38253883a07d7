"""Coupled channels and surgery on nets small enough to work by hand."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fedprune.graph.coupling import Group, couple, coupled, coupled_channels
from fedprune.graph.layers import layer_shapes
from fedprune.graph.surgery import SurgeryError, removable, shrink
from fedprune.models import build

torch.set_num_threads(1)


def two_convolutions(*, bias: float, padding: int = 0, second_bias: bool = True) -> nn.Sequential:
    """1x1 convolution to two channels, ReLU, 3x3 convolution to one: channel 1 weighs 2 at each of nine taps."""
    net = nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(1, 2, 1),
            relu=nn.ReLU(),
            second=nn.Conv2d(2, 1, 3, padding=padding, bias=second_bias),
        )
    )
    with torch.no_grad():
        net.first.weight.copy_(torch.tensor([3.0, 5.0]).reshape(2, 1, 1, 1))
        net.first.bias.copy_(torch.tensor([1.0, bias]))
        net.second.weight.copy_(torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1).expand(1, 2, 3, 3))
        if second_bias:
            net.second.bias.fill_(0.25)
    return net


EXAMPLE = torch.zeros(1, 1, 3, 3)
FIRST_ROW_ONLY = {"first.weight": np.array([True, False]).reshape(2, 1, 1, 1)}


def test_a_constant_moves_into_the_bias_of_the_layer_that_reads_it() -> None:
    net = two_convolutions(bias=0.5)
    assert {name: list(gone) for name, gone in removable(net, FIRST_ROW_ONLY, EXAMPLE).items()} == {"first": [1]}
    smaller = shrink(net, FIRST_ROW_ONLY, EXAMPLE)
    assert smaller.first.weight.flatten().tolist() == [3.0]
    assert smaller.first.bias.tolist() == [1.0]
    assert smaller.second.weight.shape == (1, 1, 3, 3)
    assert smaller.second.bias.tolist() == [0.25 + 9 * 2 * 0.5]
    assert (smaller.first.out_channels, smaller.second.in_channels) == (1, 1)


def test_a_layer_without_a_bias_is_given_one() -> None:
    smaller = shrink(two_convolutions(bias=0.5, second_bias=False), FIRST_ROW_ONLY, EXAMPLE)
    assert smaller.second.bias.tolist() == [9.0]
    assert smaller.second.bias.requires_grad


def test_a_bias_that_a_layer_is_given_is_cut_with_its_rows() -> None:
    net = nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(1, 2, 1), second=nn.Conv2d(2, 2, 1, bias=False), relu=nn.ReLU(), third=nn.Conv2d(2, 1, 1)
        )
    )
    with torch.no_grad():
        net.first.bias.copy_(torch.tensor([1.0, 0.5]))
        net.second.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 4.0]]).reshape(2, 2, 1, 1))
        net.third.weight.copy_(torch.tensor([1.0, 8.0]).reshape(1, 2, 1, 1))
        net.third.bias.fill_(0.25)
    # The second layer's channel 1 only ever sees the constant 0.5.
    smaller = shrink(net, FIRST_ROW_ONLY, EXAMPLE)
    assert smaller.second.weight.shape == (1, 1, 1, 1)
    assert smaller.second.bias.tolist() == [2 * 0.5]
    assert smaller.third.bias.tolist() == [0.25 + 8 * 4 * 0.5]


def test_under_zero_padding_a_constant_is_no_constant_and_stays() -> None:
    net = two_convolutions(bias=0.5, padding=1)
    assert removable(net, FIRST_ROW_ONLY, EXAMPLE) == {}
    assert shrink(net, FIRST_ROW_ONLY, EXAMPLE).second.weight.shape == (1, 2, 3, 3)


def test_under_zero_padding_the_centre_tap_alone_never_meets_the_border() -> None:
    net = two_convolutions(bias=0.5, padding=1)
    centre = np.zeros((1, 2, 3, 3), dtype=np.bool_)
    centre[..., 1, 1] = True
    smaller = shrink(net, {**FIRST_ROW_ONLY, "second.weight": centre}, EXAMPLE)
    assert smaller.second.bias.tolist() == [0.25 + 2 * 0.5]


def test_a_constant_that_relu_clips_to_zero_goes_even_under_zero_padding() -> None:
    smaller = shrink(two_convolutions(bias=-0.5, padding=1), FIRST_ROW_ONLY, EXAMPLE)
    assert smaller.second.weight.shape == (1, 1, 3, 3)
    assert smaller.second.bias.tolist() == [0.25]


def test_what_nobody_reads_goes_whatever_it_is_worth() -> None:
    net = two_convolutions(bias=0.5, padding=1)
    masks = {"second.weight": np.broadcast_to(np.array([False, True]).reshape(1, 2, 1, 1), (1, 2, 3, 3))}
    smaller = shrink(net, masks, EXAMPLE)
    assert smaller.first.weight.flatten().tolist() == [5.0]


def test_one_channel_always_stays() -> None:
    net = two_convolutions(bias=0.5)
    smaller = shrink(net, {"second.weight": np.zeros((1, 2, 3, 3), dtype=np.bool_)}, EXAMPLE)
    assert smaller.second.weight.shape == (1, 1, 3, 3)
    assert smaller(torch.randn(1, 1, 3, 3)).tolist() == [[[[0.25]]]]


def test_before_a_batch_norm_the_constant_comes_off_the_running_mean() -> None:
    net = nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(1, 2, 1, bias=False),
            bn=nn.BatchNorm2d(2),
            second=nn.Conv2d(2, 2, 1, bias=False),
            last=nn.BatchNorm2d(2),
            flatten=nn.Flatten(),
            head=nn.Linear(8, 2),
        )
    ).eval()
    with torch.no_grad():
        net.second.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, -4.0]]).reshape(2, 2, 1, 1))
        net.bn.bias.copy_(torch.tensor([0.0, 0.75]))
        net.last.running_mean.copy_(torch.tensor([0.5, 0.5]))
    smaller = shrink(net, FIRST_ROW_ONLY, torch.zeros(1, 1, 2, 2))
    assert smaller.last.running_mean.tolist() == [0.5 - 2 * 0.75, 0.5 + 4 * 0.75]
    assert smaller.second.bias is None
    assert smaller.state_dict().keys() == net.state_dict().keys()


def test_a_dead_depthwise_filter_kills_its_channel_on_both_sides() -> None:
    net = build("dscnn", (1, 49, 10), 12).eval()
    mask = np.ones((64, 1, 3, 3), dtype=np.bool_)
    mask[[3, 7]] = False
    masks = {"stage2.depthwise.conv.weight": mask}
    example = torch.zeros(1, 1, 49, 10)
    gone = removable(net, masks, example)
    assert {name: list(channels) for name, channels in gone.items()} == {"stage1.pointwise.conv": [3, 7]}
    smaller = shrink(net, masks, example)
    depthwise = smaller.get_submodule("stage2.depthwise.conv")
    assert (depthwise.groups, depthwise.in_channels, depthwise.out_channels) == (62, 62, 62)
    # per channel: a 1x1 row and a column of 64, two batch norms' weight and bias, one 3x3 filter
    lost = sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in smaller.parameters())
    assert lost == 2 * (64 + 64 + 4 + 9)


def test_the_groups_of_resnet8() -> None:
    groups = coupled_channels(build("resnet8", (3, 32, 32), 10), torch.zeros(2, 3, 32, 32))
    # The stem and the first stage's output are one sum; in the other stages the shortcut and the second convolution.
    assert [(group.name, group.size) for group in groups] == [
        ("stem.conv", 16),
        ("stage1.0.first.conv", 16),
        ("stage2.0.first.conv", 32),
        ("stage2.0.second.conv", 32),
        ("stage3.0.first.conv", 64),
        ("stage3.0.second.conv", 64),
    ]
    weights = [(m.name, m.dim) for m in groups[0].members if len(m.shape) > 1]
    assert weights == [
        ("stem.conv.weight", 0),
        ("stage1.0.second.conv.weight", 0),
        ("stage1.0.first.conv.weight", 1),
        ("stage2.0.first.conv.weight", 1),
        ("stage2.0.shortcut.conv.weight", 1),
    ]
    norms = sorted(m.name for m in groups[0].members if len(m.shape) == 1)
    assert norms == sorted(
        f"{layer}.bn.{key}"
        for layer in ("stem", "stage1.0.second")
        for key in ("weight", "bias", "running_mean", "running_var")
    )


def test_a_flatten_gives_each_channel_its_columns() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    (group,) = coupled_channels(net, torch.zeros(1, 1, 4, 4))
    columns = next(m for m in group.members if not m.produces)
    assert (columns.name, columns.dim) == ("3.weight", 1)
    assert columns.positions.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    with torch.no_grad():
        net[0].bias[1] = 2.0
    mask = np.ones((3, 1, 3, 3), dtype=np.bool_)
    mask[1] = False
    smaller = shrink(net, {"0.weight": mask}, torch.zeros(1, 1, 4, 4))
    assert smaller[3].weight.shape == (2, 8)
    torch.testing.assert_close(smaller[3].bias, net[3].bias + 2 * net[3].weight[:, 4:8].sum(1))


def test_units_are_scored_over_their_producers_and_spread_to_all_that_make_the_channel() -> None:
    net = nn.Sequential(OrderedDict(a=nn.Conv2d(1, 2, 1, bias=True), bn=nn.BatchNorm2d(2), b=nn.Conv2d(2, 1, 1)))
    groups = coupled_channels(net, torch.zeros(1, 1, 2, 2))
    across = coupled(groups)
    scores = {"a.weight": np.array([3.0, 4.0]).reshape(2, 1, 1, 1), "b.weight": np.ones((1, 2, 1, 1))}
    assert across.pool(scores)["a"].tolist() == [3.0, 4.0]
    assert across.pool({"b.weight": scores["b.weight"]}) == {}
    masks = across.spread({"a": np.array([False, True])}, {})
    assert {name: mask.ravel().tolist() for name, mask in masks.items()} == {
        name: [False, True] for name in ("a.weight", "a.bias", "bn.weight", "bn.bias")
    }
    residual = coupled(coupled_channels(build("resnet8", (3, 8, 8), 10), torch.zeros(1, 3, 8, 8)))
    stem, second = np.full((16, 3, 3, 3), 2.0), np.full((16, 16, 3, 3), 5.0)
    pooled = residual.pool({"stem.conv.weight": stem, "stage1.0.second.conv.weight": second})
    assert pooled["stem.conv"].tolist() == [7.0] * 16


def test_layers_are_listed_as_they_run() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.late, self.early = nn.Linear(8, 2), nn.Conv1d(1, 2, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.late(self.early(x).flatten(1))

    net = Backwards()
    assert layer_shapes(net, torch.zeros(1, 1, 4)) == {"early.weight": (2, 1, 3), "late.weight": (2, 8)}
    assert list(layer_shapes(net, torch.zeros(1, 1, 4))) == ["early.weight", "late.weight"]
    assert layer_shapes(nn.Linear(3, 2), torch.zeros(1, 3)) == {"weight": (2, 3)}


class Awkward(nn.Module):
    """conv -> something -> conv -> pool -> linear, where the something hides how the channels are coupled."""

    def __init__(self, between: object, channels: int = 4) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 3, 3, padding=1)
        self.b = nn.Conv2d(channels, 4, 3, padding=1)
        self.gate = nn.Linear(3, 3)
        self.head = nn.Linear(4, 2)
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(functional.adaptive_avg_pool2d(self.b(self.between(self, x)), 1).flatten(1))


AWKWARD = {
    "a sum with the input": Awkward(lambda net, x: net.a(x) + x, 3),
    "a sum over two uses of a layer": Awkward(lambda net, x: net.a(x) + net.a(2 * x), 3),
    "a product with a gate": Awkward(lambda net, x: net.a(x) * net.gate(x.mean((2, 3)))[:, :, None, None], 3),
    "a rotation of the channels": Awkward(lambda net, x: torch.roll(net.a(x), 1, 1), 3),
    "a slice": Awkward(lambda net, x: net.a(x)[:, :2], 2),
    "zero channels": Awkward(lambda net, x: functional.pad(net.a(x), (0, 0, 0, 0, 1, 1)), 5),
    "a mean over channels": Awkward(lambda net, x: net.a(x).mean(1, keepdim=True), 1),
    "halves": Awkward(lambda net, x: torch.cat(net.a(x).split([1, 2], 1)[::-1], 1), 3),
}


@pytest.mark.parametrize("case", AWKWARD)
def test_what_cannot_be_followed_is_left_whole(case: str) -> None:
    net = AWKWARD[case]
    example = torch.zeros(2, 3, 6, 6)
    assert "a" not in [group.name for group in coupled_channels(net, example)]
    masks = {"a.weight": np.zeros((3, 3, 3, 3), dtype=np.bool_)}
    masks["b.weight"] = np.zeros(tuple(net.b.weight.shape), dtype=np.bool_)
    smaller = shrink(net, masks, example)
    assert smaller.a.weight.shape == net.a.weight.shape


def test_a_concatenation_moves_each_group_to_its_own_columns() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 3, 1)
            self.bn, self.c, self.head = nn.BatchNorm2d(5), nn.Conv2d(5, 4, 1), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = self.a(x).relu()
            both = torch.cat([a, self.b(a).relu()], 1)
            return self.head(self.c(self.bn(both)).relu().mean((2, 3)))

    net = Dense().eval()
    example = torch.zeros(1, 1, 3, 3)
    groups = {group.name: group for group in coupled_channels(net, example)}
    assert {name: group.size for name, group in groups.items()} == {"a": 2, "b": 3, "c": 4}

    def columns(group: Group) -> list[int]:
        return next(m for m in group.members if m.name == "c.weight").positions.ravel().tolist()

    assert columns(groups["a"]) == [0, 1]
    assert columns(groups["b"]) == [2, 3, 4]
    with torch.no_grad():
        net.bn.running_mean.uniform_(-1, 1)
        net.bn.bias.uniform_(-1, 1)
    a, b = np.ones((2, 1, 1, 1), dtype=np.bool_), np.ones((3, 2, 1, 1), dtype=np.bool_)
    a[0] = b[1] = False
    masks = {"a.weight": a, "b.weight": b}
    smaller = shrink(net, masks, example)
    assert (smaller.bn.num_features, smaller.c.in_channels) == (3, 3)


def test_operations_on_every_channel_apart_are_told_from_others() -> None:
    example = torch.zeros(1, 3, 6, 6)
    assert couple(Awkward(lambda net, x: net.a(x).relu(), 3), example).per_channel
    assert not couple(AWKWARD["a product with a gate"], example).per_channel


def test_no_constant_is_claimed_behind_a_product() -> None:
    # The product of a constant with a gate varies, though the constant's own zero pattern says otherwise.
    net = AWKWARD["a product with a gate"]
    masks = {"a.weight": np.zeros((3, 3, 3, 3), dtype=np.bool_)}
    assert removable(net, masks, torch.zeros(2, 3, 6, 6)) == {}


def test_a_wrong_mask_is_named() -> None:
    net = two_convolutions(bias=0.5)
    with pytest.raises(ValueError, match=r"mask third\.weight: the model has no such parameter"):
        shrink(net, {"third.weight": np.ones((1,), dtype=np.bool_)}, EXAMPLE)
    with pytest.raises(ValueError, match=r"mask first\.weight: shape \(2,\)"):
        shrink(net, {"first.weight": np.ones((2,), dtype=np.bool_)}, EXAMPLE)


def test_a_net_with_its_widths_written_out_is_refused_when_cut() -> None:
    net = Awkward(lambda net, x: net.a(x).view(-1, 3, 6, 6), 3)
    masks = {"a.weight": np.zeros((3, 3, 3, 3), dtype=np.bool_), "b.weight": np.zeros((4, 3, 3, 3), dtype=np.bool_)}
    with pytest.raises(SurgeryError, match="does not run"):
        shrink(net, masks, torch.zeros(1, 3, 6, 6))
