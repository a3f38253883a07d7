"""What must not change a bit: threads, micro-batches where no norm sees a batch, blocks computed twice."""

from __future__ import annotations

import pytest
import torch
from natively import apart, batch_of, in_torch, masked, natively, same
from torch import nn

from fedprune import models
from fedprune.graph import trace
from fedprune.native import library, weights
from fedprune.training import again, native
from fedprune.types import Masks, Sgd

pytestmark = pytest.mark.skipif(library.library() is None, reason="the compiled trainer is not installed")


def without_norms() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 17, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(17, 33, 3, 2, 1), nn.Hardswish(),
        nn.Conv2d(33, 33, 3, groups=33), nn.Flatten(), nn.Linear(33 * 4, 10),
    )  # fmt: skip


@pytest.mark.parametrize("density", [0.2, 1.0])
def test_any_cut_into_micro_batches_gives_the_same_bits(density: float) -> None:
    model = without_norms()
    masks = masked(model, density)
    inputs, labels = batch_of((3, 16, 16), 10, 37)
    whole = natively(model, masks, inputs, labels)
    for at_a_time in (1, 7, 8, 16, 30):
        assert same(natively(model, masks, inputs, labels, at_a_time=at_a_time), whole)


@pytest.mark.parametrize("threads", [2, 3, 40])
def test_threads_change_nothing(threads: int) -> None:
    model = models.build("resnet8", (3, 16, 16), 10)
    masks = masked(model, 0.3)
    batch = batch_of((3, 16, 16), 10, 12)
    assert same(natively(model, masks, *batch, threads=threads), natively(model, masks, *batch))


@pytest.mark.parametrize("threads", [1, 3])
def test_channels_read_in_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 70, 3), nn.ReLU(), nn.Conv2d(70, 37, 3, 2, 1), nn.BatchNorm2d(37), nn.ReLU6(),
        nn.Conv2d(37, 40, (3, 2)), nn.ReLU(), nn.Flatten(), nn.Linear(40 * 15, 10),
    )  # fmt: skip
    masks = masked(model, 0.2)
    batch = batch_of((3, 12, 13), 10, 21)
    in_blocks = natively(model, masks, *batch, threads=threads)
    assert apart(in_blocks, in_torch(model, *batch), masks) < 2e-4
    monkeypatch.setattr(weights, "ENTRIES", 10**6)
    assert same(natively(model, masks, *batch), in_blocks)


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize(("name", "shape"), [("resnet8", (3, 16, 16)), ("dscnn", (1, 49, 10)), ("vgg11", (3, 32, 32))])
def test_blocks_computed_twice_change_nothing(name: str, shape: tuple[int, ...], every: int) -> None:
    model = models.build(name, shape, 10)
    masks = masked(model, 0.3)
    batch = batch_of(shape, 10, 12)
    assert same(natively(model, masks, *batch, recompute=every), natively(model, masks, *batch))


@pytest.mark.parametrize("instructions", ["baseline", "avx2"])
def test_every_instruction_set_computes_the_same_to_rounding(instructions: str) -> None:
    model = without_norms()
    masks = masked(model, 0.3)
    batch = batch_of((3, 16, 16), 10, 21)
    found = natively(model, masks, *batch, instructions=instructions)
    assert apart(found, in_torch(model, *batch), masks) < 2e-4
    if instructions == "avx2":  # which has as many lanes as examples, and fuses as AVX-512 does
        assert library.instructions("avx2") != "avx2" or same(found, natively(model, masks, *batch))


def test_a_machine_that_was_used_before_gives_the_bits_of_a_new_one() -> None:
    model = models.build("resnet8", (3, 16, 16), 10)
    inputs, labels = batch_of((3, 16, 16), 10, 40)
    params = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    own = native.Model(trace(model, inputs[:1]), params)
    sparse, sparser = masked(model, 0.3), masked(model, 0.3, seed=1)

    def ran(which: Masks, examples: int, smoothing: float, *, anew: bool) -> bytes:
        if anew:
            again.forget()
        held = own._replace(params={n: v * which[n] if n in which else v for n, v in params.items()})
        batches = [(inputs[at : at + examples], labels[at : at + examples]) for at in range(0, 40, examples)]
        outcome, trained = native.train(held, batches, Sgd(0.1), which, examples=examples, smoothing=smoothing)
        rest = native.evaluate(held._replace(params=dict(trained)), batches, examples)
        return repr((outcome, rest)).encode() + b"".join(trained[name].tobytes() for name in params)

    asked = [(sparse, 8, 0.0), (sparse, 8, 0.0), (sparser, 8, 0.0), (sparser, 8, 0.1), (sparser, 10, 0.1), ({}, 8, 0.0)]
    fresh = [ran(*each, anew=True) for each in asked]
    assert [ran(*each, anew=False) for each in asked] == fresh
    assert len(set(fresh)) == 5
