"""Laws of surgery: the smaller model is the masked model, for every shipped net and for random small ones."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedprune.graph.coupling import coupled, coupled_channels
from fedprune.graph.surgery import removable, shrink
from fedprune.models import build
from fedprune.types import Masks

torch.set_num_threads(1)

# Spatial extents as small as the nets allow: the laws do not depend on them, the time does.
SHAPES = {
    "digits_cnn": (1, 8, 8),
    "dscnn": (1, 49, 10),
    "har_cnn": (9, 32),
    "mobilenet": (3, 33, 32),
    "resnet8": (3, 16, 16),
    "resnet18": (3, 8, 8),
    "resnet20": (3, 16, 15),
    "vgg11": (3, 32, 32),
}


def trained(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    net = build(name, SHAPES[name], 10)
    as_if_trained(net, seed=1)
    return net, torch.zeros(2, *SHAPES[name])


def as_if_trained(net: nn.Module, *, seed: int) -> None:
    """Batch norms as training leaves them: no statistic at its initial value, gamma and beta of both signs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, _BatchNorm):
                module.running_mean.normal_(0, 0.5, generator=generator)
                module.running_var.uniform_(0.3, 2, generator=generator)
                module.weight.normal_(0, 1, generator=generator)
                module.bias.normal_(0, 1, generator=generator)


def masked(net: nn.Module, masks: Masks) -> nn.Module:
    other = copy.deepcopy(net)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name in masks:
                parameter[torch.from_numpy(~masks[name])] = 0
    return other


def assert_same_function(net: nn.Module, smaller: nn.Module, masks: Masks, example: torch.Tensor) -> None:
    inputs = torch.randn((4, *example.shape[1:]), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, got = masked(net, masks).eval()(inputs), copy.deepcopy(smaller).eval()(inputs)
    assert float((got - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def random_masks(net: nn.Module, density: float, *, seed: int) -> Masks:
    random = np.random.default_rng(seed)
    return {
        name: random.random(tuple(parameter.shape)) < density
        for name, parameter in net.named_parameters()
        if parameter.ndim > 1 and "head" not in name
    }


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_half_the_channels_by_l1(name: str) -> None:
    net, example = trained(name)
    groups = coupled_channels(net, example)
    across = coupled(groups)
    units = across.pool({key: parameter.detach().abs().numpy() for key, parameter in net.named_parameters()})
    assert {group.name: group.size for group in groups} == {key: value.size for key, value in units.items()}
    kept = {key: value >= np.sort(value)[value.size // 2] for key, value in units.items()}
    masks = across.spread(kept, {})
    smaller = shrink(net, masks, example)
    assert_same_function(net, smaller, masks, example)
    gone = removable(net, masks, example)
    assert {key: list(value) for key, value in gone.items()} == {
        key: list(np.flatnonzero(~value)) for key, value in kept.items()
    }

    def half(tensor: str, shape: torch.Size) -> int:
        # Every axis halves but the input's, the output's and the kernel's.
        depthwise = len(shape) > 2 and shape[1] == 1 and tensor != first
        rows = shape[0] if tensor.startswith("head") else shape[0] // 2
        columns = shape[1] if tensor == first or depthwise else shape[1] // 2
        return rows * columns * math.prod(shape[2:])

    first = next(key for key, _ in net.named_parameters())
    expected = sum(
        half(key, p.shape) if p.ndim > 1 else p.numel() if key.startswith("head") else p.numel() // 2
        for key, p in net.named_parameters()
    )
    assert parameters(smaller) == expected


@pytest.mark.parametrize("density", [0.002, 0.02, 0.1])
@pytest.mark.parametrize("name", sorted(SHAPES))
def test_random_single_weights(name: str, density: float) -> None:
    net, example = trained(name)
    masks = random_masks(net, density, seed=3)
    smaller = shrink(net, masks, example)
    assert_same_function(net, smaller, masks, example)
    assert parameters(smaller) <= parameters(net)


@pytest.mark.parametrize("name", ["digits_cnn", "dscnn", "resnet8"])
def test_what_is_left_is_needed(name: str) -> None:
    net, example = trained(name)
    smaller = shrink(net, random_masks(net, 0.02, seed=4), example)
    # But for the one channel that each group keeps.
    assert removable(smaller, {}, example) == {}


def test_the_argument_is_not_changed_and_its_modes_carry_over() -> None:
    net, example = trained("digits_cnn")
    net.get_submodule("stem").eval()
    net.get_parameter("head.linear.bias").requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    modes = [module.training for module in net.modules()]
    smaller = shrink(net, random_masks(net, 0.02, seed=5), example)
    after = net.state_dict()
    assert before.keys() == after.keys() == smaller.state_dict().keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [module.training for module in net.modules()] == modes == [module.training for module in smaller.modules()]
    frozen = [name for name, parameter in smaller.named_parameters() if not parameter.requires_grad]
    assert frozen == ["head.linear.bias"]
    assert all(parameter.dtype == torch.float32 for parameter in smaller.parameters())


def test_without_masks_a_fresh_model_is_left_whole_and_the_result_is_a_copy() -> None:
    net, example = trained("digits_cnn")
    smaller = shrink(net, {}, example)
    assert parameters(smaller) == parameters(net)
    ours = {parameter.data_ptr() for parameter in net.parameters()}
    assert not ours & {parameter.data_ptr() for parameter in smaller.parameters()}


def test_a_smaller_model_trains_on() -> None:
    net, example = trained("mobilenet")
    smaller = shrink(net, random_masks(net, 0.1, seed=6), example).train()
    smaller(torch.randn_like(example)).logsumexp(1).sum().backward()
    assert all(parameter.grad is not None for parameter in smaller.parameters())


class Small(nn.Module):
    """A random net: convolutions with or without padding, norm, bias, pool, sum, depthwise or flatten."""

    def __init__(self, choices: list[tuple[int, bool, bool, bool, str]], *, flatten: bool) -> None:
        super().__init__()
        self.convolutions, self.norms, self.depthwise = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.extras = [choice[4] for choice in choices]
        channels, side = 2, 8
        for width, padded, normed, biased, extra in choices:
            outputs = channels if extra == "sum" else width
            padding = 1 if padded or extra == "sum" else 0
            self.convolutions.append(nn.Conv2d(channels, outputs, 3, padding=padding, bias=biased))
            self.norms.append(nn.BatchNorm2d(outputs) if normed else nn.Identity())
            layer = nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs, bias=biased)
            self.depthwise.append(layer if extra == "depthwise" else nn.Identity())
            channels, side = outputs, side + 2 * padding - 2
            side = side // 2 if extra == "pool" else side
        self.pool = nn.Identity() if flatten else nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels * (side * side if flatten else 1), 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for convolution, norm, depthwise, extra in zip(
            self.convolutions, self.norms, self.depthwise, self.extras, strict=True
        ):
            y = norm(convolution(x))
            y = nn.functional.max_pool2d(y, 2) if extra == "pool" else y + x if extra == "sum" else y
            x = depthwise(y.relu())
        return self.head(self.pool(x).flatten(1))


choice = st.tuples(
    st.integers(2, 5), st.booleans(), st.booleans(), st.booleans(), st.sampled_from(["", "sum", "pool", "depthwise"])
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    choices=st.lists(choice, min_size=1, max_size=3),
    flatten=st.booleans(),
    density=st.sampled_from([0.05, 0.15, 0.4]),
    dead=st.sampled_from([0.0, 0.3, 0.7]),
    seed=st.integers(0, 2**16),
)
def test_any_small_net(
    choices: list[tuple[int, bool, bool, bool, str]], flatten: bool, density: float, dead: float, seed: int
) -> None:
    if sum(extra == "pool" for *_, extra in choices) > 1:
        choices = [(*rest, "" if index else extra) for index, (*rest, extra) in enumerate(choices)]
    if any(extra == "pool" for *_, extra in choices):
        choices = [(width, True, normed, biased, extra) for width, _, normed, biased, extra in choices]
    torch.manual_seed(seed)
    net = Small(choices, flatten=flatten)
    as_if_trained(net, seed=seed)
    random = np.random.default_rng(seed)
    masks = {}
    for name, parameter in net.named_parameters():
        mask = random.random(tuple(parameter.shape)) < (density if parameter.ndim > 1 else 0.8)
        mask[random.random(mask.shape[0]) < dead] = False
        masks[name] = mask
    masks["head.weight"][:, 0] = True
    example = torch.zeros(1, 2, 8, 8)
    smaller = shrink(net, masks, example)
    inputs = torch.randn(3, 2, 8, 8)
    with torch.no_grad():
        expected, got = masked(net, masks).eval()(inputs), smaller.eval()(inputs)
    # No net of this size has cancellation to speak of, but an all-masked one has no scale: one is of the order.
    assert float((got - expected).abs().max()) <= 1e-5 * max(float(expected.abs().max()), 1.0)
    lost = sum(value.size for value in removable(net, masks, example).values())
    assert (lost > 0) == (parameters(smaller) < parameters(net))
