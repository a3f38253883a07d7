"""Laws of training in little memory: the same bits with less kept, and sub-models that move nothing but their own."""

import copy
import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedprune import training
from fedprune.models import build, draws
from fedprune.training import train
from fedprune.training.lean import Lean, SubModel, blocks, prepared
from fedprune.training.losses import plain_loss
from fedprune.training.net import Net
from fedprune.training.optimisers import plain_sgd
from fedprune.types import Local, Masks, Now, Optimiser, Sgd

torch.set_num_threads(1)

SHAPES = {"digits_cnn": (1, 8, 8), "resnet8": (3, 8, 8), "dscnn": (1, 12, 10), "har_cnn": (3, 16)}
STILL = Sgd(0.1, momentum=0.0, weight_decay=0.0)


def net(name: str, channels_last: bool = True) -> nn.Module:
    torch.manual_seed(0)
    made = build(name, SHAPES[name], 5)
    return made.to(memory_format=torch.channels_last) if channels_last and len(SHAPES[name]) == 3 else made


def masks_of(model: nn.Module, density: float, seed: int = 0) -> Masks:
    rng = np.random.default_rng(seed)
    found = {n: rng.random(tuple(p.shape)) < density for n, p in model.named_parameters() if p.ndim > 1}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in found:
                parameter[torch.from_numpy(~found[name])] = 0
    return found


def batches(name: str, number: int = 3, size: int = 6) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    shape = SHAPES[name]
    return [(rng.normal(size=(size, *shape)).astype(np.float32), rng.integers(0, 5, size)) for _ in range(number)]


def assert_same(one: nn.Module, other: nn.Module) -> None:
    wanted = other.state_dict()
    for name, value in one.state_dict().items():
        assert torch.equal(value, wanted[name]), name
        assert value.stride() == wanted[name].stride(), name


def inner_of(model: nn.Module, masks: Masks, density: float = 0.5) -> SubModel:
    """Half of what is kept, and half of every bias and every batch norm's scale."""
    rng = np.random.default_rng(7)
    inside = {
        name: masks.get(name, np.True_) & (rng.random(tuple(p.shape)) < density)
        for name, p in model.named_parameters()
        if not name.startswith("head")
    }
    return SubModel(inside, {name: buffer.clone() for name, buffer in model.named_buffers()})


# the same bits


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("lean", [Lean(recompute=True), Lean(sparse=True), Lean(sparse=True, recompute=True)])
def test_less_memory_trains_the_same_bits(name: str, lean: Lean, channels_last: bool) -> None:
    plain, small = net(name, channels_last), net(name, channels_last)
    masks, _ = masks_of(plain, 0.3), masks_of(small, 0.3)
    sgd = Sgd(0.1, 0.9, 0.01)
    assert train(plain, batches(name), sgd, masks) == train(small, batches(name), sgd, masks, lean=lean)
    assert_same(small, plain)


@pytest.mark.parametrize("micro_batch", [0, 4])
@pytest.mark.parametrize("lean", [Lean(recompute=True), Lean(sparse=True), Lean(sparse=True, recompute=True)])
def test_so_does_it_with_micro_batches_and_sub_models(lean: Lean, micro_batch: int) -> None:
    plain, small = net("resnet8"), net("resnet8")
    masks, _ = masks_of(plain, 0.4), masks_of(small, 0.4)
    ones, others = [inner_of(plain, masks)], [inner_of(small, masks)]
    sgd, given = Sgd(0.1, 0.9, 0.01), batches("resnet8", 4)
    plainly = Lean(micro_batch)
    wanted = train(plain, given, sgd, masks, lean=plainly, inner=ones, turn=lambda step: step % 2)
    lean = lean._replace(micro_batch=micro_batch)
    assert train(small, given, sgd, masks, lean=lean, inner=others, turn=lambda step: step % 2) == wanted
    assert_same(small, plain)
    for name, buffer in ones[0].buffers.items():
        assert torch.equal(buffer, others[0].buffers[name])


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_sparse_training_at_the_ends_of_density(density: float) -> None:
    plain, small = net("digits_cnn"), net("digits_cnn")
    masks, _ = masks_of(plain, density), masks_of(small, density)
    masks = {name: mask for name, mask in masks.items() if not name.startswith("head")}
    train(plain, batches("digits_cnn"), Sgd(0.1), masks)
    train(small, batches("digits_cnn"), Sgd(0.1), masks, lean=Lean(sparse=True))
    assert_same(small, plain)


class Scaled(nn.Module):
    """Its input times what numpy, or Python, draws."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * self.draw()


@pytest.mark.parametrize(
    "drawing",
    [lambda: nn.Dropout(0.5), lambda: Scaled(np.random.normal), lambda: Scaled(lambda: random.gauss(1, 1))],
)
def test_a_block_draws_the_same_when_computed_again(drawing: Callable[[], nn.Module]) -> None:
    def dropping() -> nn.Module:
        torch.manual_seed(0)
        block = nn.Sequential(nn.Linear(6, 8), drawing(), nn.ReLU())
        return nn.Sequential(block, nn.Sequential(nn.Linear(8, 8), drawing()), nn.Linear(8, 5))

    given = [(np.random.default_rng(i).normal(size=(7, 6)).astype(np.float32), np.arange(7) % 5) for i in range(3)]
    nets = [dropping(), dropping()]
    for made, recompute in zip(nets, (False, True), strict=True):
        with draws.seeded(4):
            train(made, given, Sgd(0.1), lean=Lean(recompute=recompute))
    assert_same(*nets)
    assert not torch.equal(nets[0][2].weight, dropping()[2].weight)


# micro-batches


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5, 7, 100])
def test_micro_batches_add_up_to_the_batchs_gradient(micro_batch: int) -> None:
    def plain() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5))

    given = [(np.random.default_rng(0).normal(size=(7, 1, 6, 6)).astype(np.float32), np.arange(7) % 5)]
    seen: list[dict[str, torch.Tensor]] = []

    def update(trained: training.Named, grads: training.Named, state: dict[str, Any], now: Now) -> None:
        seen.append({name: grad.clone() for name, grad in grads.items()})
        plain_sgd().update(trained, grads, state, now)

    def loss(net: Net, params: training.Named, *rest: Any) -> torch.Tensor:
        return plain_loss(net, params, *rest) + sum((p**2).sum() for p in params.values())

    for size in (0, micro_batch):
        local = Local(loss=loss, optimiser=Optimiser(lambda trained: {}, update))
        outcome = train(plain(), given, Sgd(0.1), local=local, lean=Lean(micro_batch=size))
        assert outcome.examples == 7
    for name, grad in seen[0].items():
        torch.testing.assert_close(seen[1][name], grad, rtol=1e-4, atol=1e-6, msg=name)


# sub-models


@pytest.mark.parametrize("lean", [Lean(*way) for way in itertools.product((0, 4), (False, True), (False, True))])
def test_a_sub_models_steps_move_nothing_but_its_own(lean: Lean) -> None:
    model = net("resnet8")
    masks = masks_of(model, 0.5)
    inner, before = inner_of(model, masks), copy.deepcopy(model.state_dict())
    own = {name: buffer.clone() for name, buffer in inner.buffers.items()}
    train(model, batches("resnet8"), STILL, masks, lean=lean, inner=[inner], turn=lambda step: 1)
    for name, parameter in model.named_parameters():
        inside = torch.from_numpy(inner.masks.get(name, np.ones(tuple(parameter.shape), bool)))
        assert torch.equal(parameter[~inside], before[name][~inside]), name
        assert not torch.equal(parameter[inside], before[name][inside]), name
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name
        assert not torch.equal(inner.buffers[name], own[name]), name


def test_a_sub_models_step_is_that_of_the_masked_model() -> None:
    whole, alone = net("digits_cnn"), net("digits_cnn")
    inner = inner_of(whole, {})
    with torch.no_grad():
        for name, parameter in alone.named_parameters():
            if name in inner.masks:
                parameter[torch.from_numpy(~inner.masks[name])] = 0
    wanted = train(alone, batches("digits_cnn", 1), STILL, inner.masks)
    found = train(whole, batches("digits_cnn", 1), STILL, inner=[inner], turn=lambda step: 1)
    assert (found.loss, found.sums, found.examples) == (pytest.approx(wanted.loss, rel=1e-5), *wanted[1:])
    for name, parameter in whole.named_parameters():
        inside = torch.from_numpy(inner.masks.get(name, np.ones(tuple(parameter.shape), bool)))
        torch.testing.assert_close(parameter[inside], dict(alone.named_parameters())[name][inside])
    for name, buffer in alone.named_buffers():
        torch.testing.assert_close(inner.buffers[name], buffer)


# what is left behind


def test_pruned_weights_take_no_room_while_training_and_the_model_comes_back() -> None:
    model = net("resnet8")
    masks, parameters = masks_of(model, 0.1), dict(model.named_parameters())
    before, names = copy.deepcopy(model), list(vars(model.stem.conv))
    with prepared(model, masks, Lean(sparse=True, recompute=True)) as (params, _):
        assert all(parameters[name].numel() == 0 for name in masks)
        assert {name: params[name].shape for name in masks} == {n: (int(m.sum()),) for n, m in masks.items()}
    assert_same(model, before)
    assert list(vars(model.stem.conv)) == names
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())


def test_blocks_are_residual_blocks_and_innermost_sequences() -> None:
    assert blocks(net("resnet8")) == ("stem", "stage1.0", "stage2.0", "stage3.0", "head")
    assert blocks(net("digits_cnn"))[:3] == ("stem", "stage1.0", "stage1.1")
    assert blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) == ()


def test_what_cannot_be_trained_is_named() -> None:
    model = net("digits_cnn")
    inner = SubModel({}, {"nothing.running_mean": torch.zeros(1)})
    with pytest.raises(KeyError, match=r"nothing\.running_mean"):
        train(model, batches("digits_cnn"), STILL, inner=[inner], turn=lambda step: 1)


@pytest.mark.parametrize("lean", [Lean(), Lean(sparse=True), Lean(recompute=True), Lean(micro_batch=3)])
def test_what_is_frozen_or_has_no_part_in_the_loss_stays_as_it_is(lean: Lean) -> None:
    model = net("digits_cnn")
    model.spare = nn.Parameter(torch.ones(3, 3))
    for parameter in model.stem.parameters():
        parameter.requires_grad_(False)
    still = {name: value.clone() for name, value in model.named_parameters() if name.startswith(("stem", "spare"))}
    moving = model.head.linear.weight.clone()
    train(model, batches("digits_cnn"), Sgd(0.1, weight_decay=0.1), lean=lean)
    assert len(still) > 2
    assert all(torch.equal(model.get_parameter(name), value) for name, value in still.items())
    assert not torch.equal(model.head.linear.weight, moving)


@pytest.mark.parametrize("lean", [Lean(sparse=True), Lean(recompute=True)])
@pytest.mark.parametrize("local", [Local(loss=plain_loss), Local(optimiser=plain_sgd()), Local(trains=("scores",))])
def test_a_methods_own_steps_are_neither_sparse_nor_recomputed(lean: Lean, local: Local) -> None:
    model = net("digits_cnn")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="sparse and recomputed"):
        train(model, batches("digits_cnn"), STILL, lean=lean, local=local, memory={"scores": torch.zeros(1)})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
