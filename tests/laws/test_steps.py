"""Laws of what an experiment asks of every step: Adam, FedProx's term, clipped gradients, divergence."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedprune.training import train
from fedprune.training.divergence import Diverged
from fedprune.training.lean import Lean
from fedprune.training.losses import plain_loss
from fedprune.training.optimisers import Steps, adam, plain_sgd
from fedprune.types import Local, Masks, Sgd

from .test_lean_training import assert_same, batches, masks_of, net

torch.set_num_threads(1)

SGD = Sgd(0.1, 0.9, 0.01)
ALL = Steps(adam, clip=0.5, proximal=0.3)


def pair(name: str = "digits_cnn", density: float = 0.4) -> tuple[nn.Module, nn.Module, Masks]:
    one, other = net(name), net(name)
    masks, _ = masks_of(one, density), masks_of(other, density)
    return one, other, masks


@pytest.mark.parametrize("masked", [False, True])
def test_adam_is_torchs_with_decay_on_weights_alone(masked: bool) -> None:
    mine, theirs, masks = pair()
    masks = masks if masked else {}
    sgd = Sgd(0.003, 0.8, 0.1)
    train(mine, batches("digits_cnn", 5), sgd, masks, steps=Steps(adam))
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in theirs.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=0.003, betas=(0.8, 0.999))
    theirs.train()
    for inputs, labels in batches("digits_cnn", 5):
        optimiser.zero_grad()
        nn.functional.cross_entropy(theirs(torch.from_numpy(inputs)), torch.from_numpy(labels)).backward()
        for name, parameter in theirs.named_parameters():
            if name in masks:
                parameter.grad *= torch.from_numpy(masks[name])
        optimiser.step()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("steps", [ALL, Steps(clip=0.5), Steps(proximal=0.3), Steps(adam)])
@pytest.mark.parametrize("lean", [Lean(recompute=True), Lean(sparse=True), Lean(4, sparse=True, recompute=True)])
@pytest.mark.parametrize("name", ["resnet8", "har_cnn"])
def test_less_memory_trains_the_same_bits(name: str, lean: Lean, steps: Steps) -> None:
    plain, small, masks = pair(name)
    sgd = SGD._replace(learning_rate=0.01)
    wanted = train(plain, batches(name), sgd, masks, steps=steps, lean=Lean(lean.micro_batch))
    assert train(small, batches(name), sgd, masks, steps=steps, lean=lean) == wanted
    assert_same(small, plain)
    for key, mask in masks.items():
        assert not small.state_dict()[key].numpy()[~mask].any()


def test_a_methods_own_loss_gets_them_too_and_its_own_optimiser_stays() -> None:
    for own, steps, same in (
        (Local(plain_loss), ALL, True),
        (Local(optimiser=plain_sgd()), ALL._replace(optimiser=None), True),
        (Local(optimiser=plain_sgd()), ALL, False),
    ):
        one, other, masks = pair()
        train(one, batches("digits_cnn"), SGD, masks, steps=steps)
        train(other, batches("digits_cnn"), SGD, masks, steps=steps, local=own)
        far = max(
            float((a - b).detach().abs().max()) for a, b in zip(one.parameters(), other.parameters(), strict=True)
        )
        assert (far < 1e-5) == same


def linear() -> nn.Linear:
    """Two logits of two inputs, all 0."""
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
    return layer


BATCH = (np.array([[1.0, 2.0]], np.float32), np.array([0]))
STILL = Sgd(0.1, 0.0, 0.0)
DOWN = -np.array([[-0.5, -1.0], [0.5, 1.0]])  # against the gradient (p − y) xᵀ of equal logits; its norm is √2.5


@pytest.mark.parametrize("clip", [0.5, math.sqrt(2.5) + 1e-3])
def test_a_gradient_is_clipped_to_its_norm(clip: float) -> None:
    layer = linear()
    train(layer, [BATCH], STILL, steps=Steps(clip=clip))
    np.testing.assert_allclose(layer.weight.detach(), 0.1 * DOWN * min(1, clip / math.sqrt(2.5)), rtol=1e-6)


def test_the_norm_is_that_of_kept_weights() -> None:
    layer, mask = linear(), np.array([[True, False], [False, False]])
    train(layer, [BATCH], STILL, {"weight": mask}, steps=Steps(clip=0.25))
    np.testing.assert_allclose(layer.weight.detach(), [[0.1 * 0.25, 0], [0, 0]], rtol=1e-6)  # of the gradient 0.5


def test_the_proximal_term_pulls_back_to_where_training_began() -> None:
    layer, plain = linear(), linear()
    train(layer, [BATCH, BATCH], STILL, steps=Steps(proximal=2.0))
    train(plain, [BATCH, BATCH], STILL)
    # the first step is the same, and the second goes back 0.1 · 2 of it
    np.testing.assert_allclose(plain.weight.detach() - layer.weight.detach(), 0.2 * 0.1 * DOWN, rtol=1e-5)


def test_the_more_proximal_the_nearer() -> None:
    found = []
    for proximal in (0.0, 0.5, 5.0):
        model = net("digits_cnn")
        before = [p.detach().clone() for p in model.parameters()]
        train(model, batches("digits_cnn", 12), Sgd(0.05, 0.0), steps=Steps(proximal=proximal))
        ends = zip(model.parameters(), before, strict=True)
        found.append(sum(float((a - b).detach().square().sum()) for a, b in ends))
    assert found[0] > found[1] > found[2]


# divergence


def endless(scale: float) -> Iterator[Any]:
    for inputs, labels in batches("digits_cnn", 50):
        yield scale * inputs, labels


def test_training_that_explodes_stops_and_names_where() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5))
    with pytest.raises(
        Diverged, match=r"^diverged in step \d+: the loss is [\d.e+naif-]+; largest value: .* in \d\."
    ) as error:
        train(model, endless(1e3), Sgd(1.0, 0.9))
    assert int(error.value.step or 0) < 49
    assert error.value.tensor in model.state_dict()
    assert error.value.largest > 10


def test_a_last_step_that_overflows_is_divergence() -> None:
    layer = linear()
    with pytest.raises(Diverged, match="largest value: inf in weight"):
        train(layer, [(100 * BATCH[0], BATCH[1])], Sgd(3e38, 0.0))


def test_large_losses_alone_are_none() -> None:
    """Targets in large units, or a bad start: what counts is that it grows."""
    model = net("digits_cnn")
    with torch.no_grad():
        list(model.parameters())[-2].mul_(1e6)
    outcome = train(model, batches("digits_cnn", 2), Sgd(1e-9, 0.0))
    assert outcome.loss / outcome.examples > 1e4
