"""Laws of width: the narrow model is the masked one, widths and windows nest, narrow and embed undo one another."""

import functools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedprune.graph.coupling import Group, coupled_channels
from fedprune.graph.width import embed, first_channels, fit, narrow, width_masks, window
from fedprune.models import build
from fedprune.pruning import masks as masking
from fedprune.training import load_state, state_of
from fedprune.types import Masks, Params

torch.set_num_threads(1)


class Vgg(nn.Module):
    """Biases, no norm, a flatten of several columns a channel, a concatenation, a constant that no state holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1)
        self.third = nn.Conv2d(11, 7, 3, padding=1)
        self.hidden, self.tied, self.head = nn.Linear(7 * 4, 9), nn.Linear(9, 9), nn.Linear(9, 4)
        self.register_buffer("scale", torch.tensor([2.0]), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.max_pool2d(self.first(x).relu(), 2)
        y = torch.cat([y, self.second(y).relu()], 1)
        y = nn.functional.max_pool2d(self.third(y).relu(), 2)
        return self.head(self.tied(self.hidden(y.flatten(1)).relu()).relu())


INPUTS = {
    "dscnn": (1, 49, 10),
    "har_cnn": (9, 32),
    "mobilenet": (3, 33, 32),
    "resnet8": (3, 16, 16),
    "vgg": (3, 8, 8),
}
NETS = sorted(INPUTS)
widths = st.fractions(Fraction(1, 64), 1, max_denominator=64).map(float)
starts = st.integers(0, 200)


def fresh(name: str) -> nn.Module:
    torch.manual_seed(0)
    return Vgg() if name == "vgg" else build(name, INPUTS[name], 4)


@functools.cache
def trained(name: str) -> tuple[nn.Module, tuple[Group, ...], Params]:
    """A net with statistics as training leaves them, its groups and its state."""
    net = fresh(name).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, _BatchNorm):
                module.running_mean.normal_(0, 0.5, generator=generator)
                module.running_var.uniform_(0.3, 2, generator=generator)
                module.weight.normal_(0, 1, generator=generator)
                module.bias.normal_(0, 1, generator=generator)
    return net, coupled_channels(net, torch.zeros(2, *INPUTS[name])), state_of(net)


def shapes(params: Params) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in params.items() if value.ndim}


def masks_of(name: str, width: float, start: int) -> Masks:
    _, groups, state = trained(name)
    return width_masks(groups, shapes(state), window(groups, width, start))


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=12)
@given(width=widths, start=starts)
def test_the_narrow_model_is_the_masked_one(name: str, width: float, start: int) -> None:
    _, groups, state = trained(name)
    masks = masks_of(name, width, start)
    masking.check(masks, state)
    small = narrow(state, masks)
    narrower = fit(fresh(name), shapes(small)).eval()
    load_state(narrower, small)
    masked = fresh(name).eval()
    load_state(masked, masking.apply(state, masks))
    inputs = torch.randn((3, *INPUTS[name]), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, got = masked(inputs), narrower(inputs)
    assert float((got - expected).abs().max()) <= 1e-5 * max(float(expected.abs().max()), 1.0)
    for group in groups:
        assert small[group.name + ".weight"].shape[0] == max(1, math.ceil(Fraction(width) * group.size - 1e-9))


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=12)
@given(width=widths, start=starts)
def test_embed_undoes_narrow_but_for_what_is_pruned(name: str, width: float, start: int) -> None:
    _, _, state = trained(name)
    masks = masks_of(name, width, start)
    small = narrow(state, masks)
    back, applied = embed(small, state, masks), masking.apply(state, masks)
    assert list(back) == list(state)
    assert all(np.array_equal(back[key], applied[key]) and back[key].dtype == state[key].dtype for key in state)
    again = narrow(back, masks)
    assert all(np.array_equal(again[key], small[key]) for key in small)


@settings(max_examples=20)
@given(name=st.sampled_from(NETS), pair=st.tuples(widths, widths), start=starts)
def test_widths_nest_at_any_start(name: str, pair: tuple[float, float], start: int) -> None:
    small, large = (masks_of(name, width, start) for width in sorted(pair))
    assert small.keys() == large.keys()
    assert masking.nested(small, large)


@pytest.mark.parametrize("name", NETS)
def test_width_one_keeps_everything_and_masks_all_that_channels_run_through(name: str) -> None:
    _, groups, state = trained(name)
    masks = masks_of(name, 1, 5)
    assert all(mask.all() for mask in masks.values())
    assert masks.keys() == {member.name for group in groups for member in group.members}
    # The output's own bias is all that no channel runs through.
    assert [key for key, value in state.items() if value.ndim and key not in masks] == [
        next(key for key in reversed(state) if key.endswith("bias"))
    ]
    assert all(narrow(state, masks)[key] is value for key, value in state.items())


@settings(max_examples=200)
@given(channels=st.integers(1, 512), part=st.fractions(0, 1, max_denominator=512), start=st.integers(-50, 600))
def test_a_window_keeps_as_many_as_meant_however_its_width_is_rounded(
    channels: int, part: Fraction, start: int
) -> None:
    if part == 0:
        return
    group = Group("g", channels, ())
    kept = window([group], float(part), start)["g"]
    assert kept.sum() == max(1, math.ceil(part * channels))
    assert kept[start % channels]
    assert np.array_equal(kept, np.roll(first_channels([group], float(part))["g"], start))


@pytest.mark.parametrize("name", ["mobilenet", "resnet8"])
def test_a_fitted_model_keeps_memory_format_types_and_modes_and_is_a_copy(name: str) -> None:
    last = torch.channels_last
    model = fresh(name).to(memory_format=last).eval()
    model.get_parameter("head.linear.bias").requires_grad_(False)
    before = state_of(model)
    wanted = shapes(narrow(state_of(model), masks_of(name, 0.5, 0)))
    net = fit(model, wanted)
    assert {key: tuple(value.shape) for key, value in net.state_dict().items() if value.ndim} == wanted
    assert not any(value.any() for value in net.state_dict().values())
    assert all(np.array_equal(value, before[key]) for key, value in state_of(model).items())
    for key, value in net.named_parameters():
        assert value.requires_grad == (key != "head.linear.bias")
        assert value.dim() != 4 or value.is_contiguous(memory_format=last)
    assert not any(module.training for module in net.modules())
    # Strides, as a 1x1 kernel is contiguous either way.
    assert [p.stride() for p in net.parameters()] == [
        p.stride() for p in fit(fresh(name), wanted).to(memory_format=last).parameters()
    ]
    assert all(value.is_contiguous() for value in fit(fresh(name), wanted).parameters())
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            counts = module.out_channels, module.in_channels // module.groups
            assert counts == module.weight.shape[:2]
            assert module.groups in (1, module.out_channels)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.num_features == len(module.running_mean)
        elif isinstance(module, nn.Linear):
            assert (module.out_features, module.in_features) == module.weight.shape
    net.train()(torch.randn(2, *INPUTS[name])).sum().backward()


def test_what_is_shared_or_not_in_the_state_stays() -> None:
    net = fresh("vgg")
    net.tied.weight = nn.Parameter(torch.ones(9, 9))
    net.add_module("other", nn.Linear(9, 9))
    net.other.weight = net.tied.weight
    fitted = fit(net, {key: tuple(value.shape) for key, value in net.state_dict().items()})
    assert fitted.other.weight is fitted.tied.weight
    assert float(fitted.scale) == 2.0
    linear = fit(nn.Linear(4, 3), {"weight": (3, 2), "bias": (3,)})
    assert (linear.in_features, linear.out_features) == (2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": None}, r"not the model's names: \['0\.weight'\]"),
        ({"other": (1,)}, r"not the model's names: \['0\.other'\]"),
        ({"weight": (5, 3, 3, 3)}, r"0\.weight: shape \(4, 3, 3, 3\) cannot be made \(5, 3, 3, 3\)"),
        ({"weight": (4, 3)}, r"0\.weight: shape .* cannot be made \(4, 3\)"),
        ({"weight": (4, 3, 3, 1)}, r"0\.weight: shape .* cannot be made \(4, 3, 3, 1\)"),
    ],
)
def test_shapes_that_are_no_narrower_model_are_refused(change: dict[str, tuple[int, ...] | None], message: str) -> None:
    shapes = {"0.weight": (4, 3, 3, 3), "0.bias": (4,)}
    changed = {**shapes, **{f"0.{key}": shape for key, shape in change.items()}}
    with pytest.raises(ValueError, match=f"^{message}"):
        fit(nn.Sequential(nn.Conv2d(3, 4, 3)), {key: shape for key, shape in changed.items() if shape is not None})


def test_a_layer_whose_channels_it_does_not_know_is_not_cut() -> None:
    with pytest.raises(ValueError, match=r"^1\.weight: shape \(4,\) cannot be made \(2,\)"):
        fit(
            nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)),
            {"0.weight": (2, 3), "0.bias": (2,), "1.weight": (2,), "1.bias": (2,)},
        )


def test_masks_and_units_that_do_not_fit_are_refused() -> None:
    value, diagonal = np.ones((2, 2)), np.eye(2, dtype=np.bool_)
    with pytest.raises(ValueError, match=r"^mask w: what it keeps is not whole rows and columns"):
        narrow({"w": value}, {"w": diagonal})
    with pytest.raises(ValueError, match=r"^mask w: shape \(2, 2\), its tensor has \(3, 2\)"):
        narrow({"w": np.ones((3, 2))}, {"w": diagonal})
    with pytest.raises(ValueError, match=r"^w: shape \(2, 2\), expected \(1, 2\)"):
        embed({"w": value}, {"w": value}, {"w": np.array([[True, True], [False, False]])})
    with pytest.raises(ValueError, match=r"^v: shape \(1,\), expected \(2,\)"):
        embed({"v": np.ones(1)}, {"v": np.ones(2)}, {})
    with pytest.raises(ValueError, match=r"^names differ"):
        embed({}, {"w": value}, {})
    _, groups, state = trained("resnet8")
    first = groups[0]
    for units in (np.zeros(first.size, np.bool_), np.ones(3, np.bool_), np.ones(first.size)):
        with pytest.raises(ValueError, match=rf"^units {first.name}: expected"):
            width_masks(groups, shapes(state), {first.name: units})
    with pytest.raises(ValueError, match=r"^units nope: there is no such group"):
        width_masks(groups, shapes(state), {"nope": np.ones(3, np.bool_)})
    with pytest.raises(ValueError, match=r"^\S+: shape None, its group has"):
        width_masks(groups, {}, {})
