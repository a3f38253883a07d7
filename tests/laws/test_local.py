"""Laws of a method's own local steps: its loss, its optimiser, and what it trains along."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedprune import training
from fedprune.training import Named, train
from fedprune.training.lean import Lean, SubModel
from fedprune.training.losses import plain_loss
from fedprune.training.net import Net
from fedprune.training.optimisers import plain_sgd
from fedprune.training.quantised import quantisation_aware
from fedprune.types import Local, Now, Optimiser, Sgd

from .test_training import batches, masks_for, small_net, state, unchanged

SGD = Sgd(0.1, 0.9, 0.02)


def same(one: nn.Module, other: nn.Module) -> bool:
    return unchanged(one, state(other))


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in training.state_of(model).items()}


def teacher(seed: int = 5) -> nn.Module:
    """A net whose running statistics are its own."""
    made = small_net()
    train(made, batches(3, seed=seed), Sgd(0.3))
    return made


# plain steps, said by hand


@pytest.mark.parametrize(
    "local", [Local(loss=plain_loss), Local(optimiser=plain_sgd()), Local(plain_loss, plain_sgd())]
)
@pytest.mark.parametrize("sgd", [SGD, Sgd(0.05, 0.0), Sgd(0.1, 0.8)])
@pytest.mark.parametrize("micro_batch", [0, 4])
@pytest.mark.parametrize("nested", [False, True])
def test_the_plain_loss_and_the_plain_optimiser_give_the_same_bits(
    local: Local, sgd: Sgd, micro_batch: int, nested: bool
) -> None:
    outcomes, nets, buffers = [], [], []
    for each in (Local(), local):
        net = small_net()
        masks, half = masks_for(net), masks_for(small_net(), 0.2)
        inside = SubModel({n: half[n] & masks[n] for n in masks}, {n: b.clone() for n, b in net.named_buffers()})
        inner, turn = ([inside], lambda step: step % 2) if nested else ([], None)
        lean = Lean(micro_batch)
        outcomes.append(train(net, batches(), sgd, masks, local=each, lean=lean, inner=inner, turn=turn))
        nets.append(net)
        buffers.append(inside.buffers)
    assert outcomes[0] == outcomes[1]
    assert same(*nets)
    assert all(torch.equal(value, buffers[1][name]) for name, value in buffers[0].items())


# what a loss asks of the net


def asked(ask: Any, **more: Any) -> nn.Module:
    """A net that was trained for a step with ``ask(net, params, inputs)`` in its loss."""
    net = small_net()

    def loss(net: Net, params: Named, inputs: torch.Tensor, *rest: Any) -> torch.Tensor:
        ask(net, params, inputs)
        return plain_loss(net, params, inputs, *rest)

    train(net, batches(2), SGD, local=Local(loss=loss), **more)
    return net


def test_a_still_net_is_another_one_in_evaluation() -> None:
    other, plain = teacher(), small_net()
    seen = []
    net = asked(lambda net, params, inputs: seen.append((inputs, net.still(tensors(other), inputs))))
    other.eval()
    for inputs, logits in seen:
        assert torch.equal(logits, other(inputs))
        assert not logits.requires_grad
    train(plain, batches(2), SGD)
    assert same(net, plain)  # no mode, weight or statistic has moved


def test_it_is_the_same_in_parts() -> None:
    inputs = torch.from_numpy(batches(1, 7)[0][0])
    whole, parts = (Net(small_net(), size).still({}, inputs) for size in (0, 3))
    torch.testing.assert_close(whole, parts)


def test_a_still_net_is_neither_rounded_nor_a_smaller_part() -> None:
    other, seen = teacher(), []
    expected = copy.deepcopy(other).eval()
    inside = SubModel(masks_for(small_net(), 0.2), {n: b.clone() for n, b in small_net().named_buffers()})

    def loss(net: Net, params: Named, inputs: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append((inputs, net.still(tensors(other), inputs)))
        return plain_loss(net, params, inputs, *rest)

    asking = quantisation_aware(Local(loss=loss))
    nets = [small_net(), small_net()]
    for net, local in zip(nets, (asking, quantisation_aware(Local())), strict=True):
        smaller = inside._replace(buffers={name: value.clone() for name, value in inside.buffers.items()})
        train(net, batches(2), SGD, local=local, inner=[smaller], turn=lambda step: 1)
    assert len(seen) == 2
    assert all(torch.equal(logits, expected(inputs)) for inputs, logits in seen)
    assert same(*nets)  # and no range of the rounding has grown by it


def test_parameters_that_are_given_are_computed_with() -> None:
    net, seen = small_net(), []

    def doubled(net: Net, params: Named, inputs: torch.Tensor) -> None:
        with torch.no_grad():
            seen.append((net({**params, "6.bias": params["6.bias"] + 1}, inputs), net(params, inputs)))

    trained = asked(doubled)
    for more, plain in seen:
        torch.testing.assert_close(more, plain + 1)
    train(net, batches(2), SGD)
    assert all(torch.equal(p, dict(trained.named_parameters())[n]) for n, p in net.named_parameters())


def test_those_of_a_smaller_part_are_cut_to_it() -> None:
    inside = SubModel(masks_for(small_net(), 0.3), {n: b.clone() for n, b in small_net().named_buffers()})
    net, alone, before = small_net(), small_net(), small_net()
    masks_for(alone, 0.3)  # whose pruned weights are 0

    def loss(net: Net, params: Named, *rest: Any) -> torch.Tensor:
        return plain_loss(net, {name: 2 * tensor for name, tensor in params.items()}, *rest)

    sgd, local = Sgd(0.1, 0.0), Local(loss=loss)
    found = train(net, batches(2), sgd, local=local, inner=[inside], turn=lambda step: 1)
    assert found == train(alone, batches(2), sgd, inside.masks, local=local)
    for name, kept in inside.masks.items():
        within = torch.from_numpy(kept)
        assert torch.equal(net.get_parameter(name)[within], alone.get_parameter(name)[within])
        assert torch.equal(net.get_parameter(name)[~within], before.get_parameter(name)[~within])


def test_names_that_the_model_has_not_are_told() -> None:
    with pytest.raises(KeyError, match=r"7\.weight is no parameter or buffer"):
        asked(lambda net, params, inputs: net({"7.weight": torch.zeros(1)}, inputs))
    with pytest.raises(KeyError, match=r"7\.weight is no parameter or buffer"):
        asked(lambda net, params, inputs: net.still({"7.weight": torch.zeros(1)}, inputs))


def test_a_loss_without_logits_is_refused() -> None:
    local = Local(loss=lambda net, params, *rest: params["6.bias"].sum())
    with pytest.raises(RuntimeError, match="has not asked the net"):
        train(small_net(), batches(1), SGD, local=local)


# memory that is trained


def gated(net: Net, params: Named, inputs: torch.Tensor, labels: torch.Tensor, memory: Named, now: Now) -> torch.Tensor:
    return plain_loss(net, {**params, "6.weight": params["6.weight"] * memory["gate"]}, inputs, labels, memory, now)


def test_memory_trains_as_by_hand_and_does_not_decay() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 5, bias=False))
    other = copy.deepcopy(net)
    gate = torch.full((5, 36), 0.7)

    def loss(net: Net, params: Named, *rest: Any) -> torch.Tensor:
        return plain_loss(net, {"1.weight": params["1.weight"] * rest[2]["gate"]}, *rest)

    train(net, batches(), SGD, local=Local(loss=loss, trains=("gate",)), memory={"gate": gate})

    weight, mine = other[1].weight, torch.full((5, 36), 0.7, requires_grad=True)
    groups = [{"params": [weight], "weight_decay": 0.02}, {"params": [mine]}]
    sgd = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    for inputs, labels in batches():
        sgd.zero_grad()
        logits = torch.from_numpy(inputs).flatten(1) @ (weight * mine).T
        functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
        sgd.step()
    torch.testing.assert_close(gate, mine.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(net[1].weight, weight, rtol=1e-5, atol=1e-6)
    assert not gate.requires_grad
    assert gate.grad is None


def test_what_is_read_stays() -> None:
    gate = torch.full((5, 27), 0.7)
    before = gate.clone()
    train(small_net(), batches(), SGD, local=Local(loss=gated, reads=("gate",)), memory={"gate": gate})
    assert torch.equal(gate, before)


def test_memory_without_a_part_in_the_loss_is_told() -> None:
    memory = {"gate": torch.zeros(2)}
    with pytest.raises(RuntimeError, match="gate has no part in the loss"):
        train(small_net(), batches(1), SGD, local=Local(trains=("gate",)), memory=memory)
    with pytest.raises(KeyError, match="memory holds no scores"):
        train(small_net(), batches(1), SGD, local=Local(loss=gated, trains=("scores",)), memory=memory)
    with pytest.raises(ValueError, match=r"6\.bias is a parameter's name"):
        train(small_net(), batches(1), SGD, local=Local(trains=("6.bias",)), memory={"6.bias": torch.zeros(5)})


def test_what_a_loss_leaves_out_of_a_step_stays_where_it_is() -> None:
    net, gate = small_net(), torch.full((5, 27), 0.7)
    seen: list[tuple[bool, bool]] = []

    def loss(net: Net, params: Named, *rest: Any) -> torch.Tensor:
        # Weights in even steps, gates in odd ones.
        even = rest[-1].step % 2 == 0
        held = {name: tensor if even else tensor.detach() for name, tensor in params.items()}
        gate = rest[2]["gate"].detach() if even else rest[2]["gate"]
        return plain_loss(net, {**held, "6.weight": held["6.weight"] * gate}, *rest)

    def update(trained: Named, grads: Named, state: dict[str, Any], now: Now) -> None:
        seen.append(("gate" in grads, "0.weight" in grads))
        before = {name: tensor.clone() for name, tensor in trained.items()}
        plain.update(trained, grads, state, now)
        assert {n for n, tensor in trained.items() if not torch.equal(tensor, before[n])} <= grads.keys()

    plain = plain_sgd()
    local = Local(loss=loss, optimiser=Optimiser(plain.init, update), trains=("gate",))
    train(net, batches(4), SGD, local=local, memory={"gate": gate})
    assert seen == [(False, True), (True, False)] * 2
    assert (gate != 0.7).any()


def test_a_step_that_fails_leaves_memory_as_it_was_found() -> None:
    gate = torch.full((5, 27), 0.7)

    def fail(step: int) -> None:
        raise RuntimeError("the step fails")

    local = Local(loss=gated, trains=("gate",))
    with pytest.raises(RuntimeError, match="the step fails"):
        train(small_net(), batches(1), SGD, local=local, memory={"gate": gate}, before_step=fail)
    assert not gate.requires_grad


def test_what_is_around_training_sees_the_model_before_and_after() -> None:
    net, seen = small_net(), []

    @contextmanager
    def around(model: nn.Module) -> Iterator[None]:
        seen.append(state(model))
        yield
        seen.append(state(model))

    start = state(net)
    train(net, batches(1), SGD, local=Local(around=around))
    assert all(torch.equal(value, start[name]) for name, value in seen[0].items())
    assert unchanged(net, seen[1])
    assert not torch.equal(seen[0]["6.weight"], seen[1]["6.weight"])
