"""Laws of what local steps are built from: a teacher's soft targets, masks of scores, a choice of examples."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fedprune.models import build
from fedprune.pruning.topk import top_k
from fedprune.training import Named, train
from fedprune.training.examples import chosen
from fedprune.training.losses import distilled, plain_loss
from fedprune.training.net import Net
from fedprune.training.straight_through import straight_through, top_k_mask
from fedprune.types import Local, Masks, Now, Sgd

from .test_local import SGD, teacher, tensors
from .test_training import batches, small_net, state, unchanged


@pytest.mark.parametrize(("alpha", "temperature"), [(0.3, 2.0), (1.0, 4.0), (0.0, 1.0)])
def test_soft_targets_are_hintons(alpha: float, temperature: float) -> None:
    net, other = small_net(), teacher().eval()
    memory = {f"big/{name}": value for name, value in tensors(other).items()}
    [(inputs, labels)] = batches(1)
    given, target = torch.from_numpy(inputs), torch.from_numpy(labels)
    net.train()
    now = Now(1, 0, SGD)
    found = distilled("big/", alpha, temperature)(Net(net), dict(net.named_parameters()), given, target, memory, now)
    p = (other(given) / temperature).softmax(1)
    logits = net(given)
    q = (logits / temperature).softmax(1)
    apart = (p * (p.log() - q.log())).sum(1).mean()
    expected = (1 - alpha) * functional.cross_entropy(logits, target) + alpha * temperature**2 * apart
    torch.testing.assert_close(found, expected)


def test_a_teacher_is_followed() -> None:
    torch.manual_seed(1)
    student, other = build("digits_cnn", (1, 8, 8), 5), build("digits_cnn", (1, 8, 8), 5, seed=3).eval()
    rng = np.random.default_rng(0)
    given = [(rng.normal(size=(16, 1, 8, 8)).astype(np.float32), np.zeros(16, np.int64)) for _ in range(8)]
    memory = {
        f"teacher/{name}": 3 * value if name.endswith("weight") else value for name, value in tensors(other).items()
    }
    inputs = torch.from_numpy(given[0][0])
    wanted = Net(other).still({n.removeprefix("teacher/"): v for n, v in memory.items()}, inputs).softmax(1)

    def apart() -> float:
        return float((student.eval()(inputs).softmax(1) - wanted).detach().abs().mean())

    before = apart()
    train(student, given * 4, Sgd(0.02), local=Local(loss=distilled(alpha=1.0, temperature=1.0)), memory=memory)
    assert apart() < 0.5 * before


@pytest.mark.parametrize("given", [{"alpha": 1.5}, {"temperature": 0.0}, {"alpha": float("nan")}])
def test_soft_targets_without_a_meaning_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"alpha .* is outside"):
        distilled(**given)  # type: ignore[arg-type]


def test_a_mask_of_scores_is_the_servers_and_lets_gradients_through() -> None:
    scores = torch.tensor([[0.5, -1.0, 0.5], [0.5, 2.0, 0.0]], requires_grad=True)
    mask = top_k_mask(scores, 3)
    assert torch.equal(mask, torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]))  # ties to the first
    assert np.array_equal(mask.detach().numpy(), top_k(scores.detach().numpy(), 3))
    factor = torch.arange(6.0).reshape(2, 3)
    (mask * factor).sum().backward()
    assert scores.grad is not None
    assert torch.equal(scores.grad, factor)
    with pytest.raises(ValueError, match="NaN"):
        top_k_mask(torch.tensor([1.0, float("nan")]), 1)


def test_straight_through_rounds_forwards_alone() -> None:
    values = torch.tensor([0.4, 1.6], requires_grad=True)
    straight_through(values, torch.round).dot(torch.tensor([3.0, 5.0])).backward()
    assert torch.equal(straight_through(values, torch.round), torch.tensor([0.0, 2.0]))
    assert values.grad is not None
    assert torch.equal(values.grad, torch.tensor([3.0, 5.0]))


def test_scores_of_frozen_weights_find_a_mask() -> None:
    # Lottery jackpots: weights stay, in memory; a mask of trained scores is what is learnt.
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 5))
    weight = net[1].weight.detach().clone()
    memory = {"score": weight.abs(), "weight": weight.clone()}
    masks: Masks = {"1.weight": top_k(weight.abs().numpy(), 60)}

    def loss(net: Net, params: Named, *rest: Any) -> torch.Tensor:
        mask = top_k_mask(rest[2]["score"], 60)
        return plain_loss(net, {**params, "1.weight": rest[2]["weight"] * mask}, *rest)

    local = Local(loss=loss, trains=("score",), reads=("weight",))

    def run(times: int, rate: float) -> float:
        return train(net, batches(2, 12) * times, Sgd(rate), masks, memory=memory, local=local).loss / (24 * times)

    before = run(1, 0.0)
    run(20, 0.05)
    assert run(1, 0.0) < 0.85 * before
    assert torch.equal(memory["weight"], weight)
    assert not np.array_equal(top_k(memory["score"].numpy(), 60), masks["1.weight"])
    assert not net[1].weight.detach().numpy()[~masks["1.weight"]].any()


# examples


def choice(answer: Any) -> np.ndarray:
    [(inputs, labels)] = batches(1, 8)
    return chosen(lambda *_: answer, small_net(), inputs, labels, {}, np.random.default_rng(0))


def test_a_choice_is_in_order() -> None:
    found = choice(np.array([5, 0, 7], np.uint8))
    assert found.dtype == np.int64
    assert found.tolist() == [0, 5, 7]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ([], "list of whole numbers"),
        (np.array([], np.int64), "no example"),
        ([0.5, 1.0], "list of whole numbers"),
        ([True, False], "list of whole numbers"),
        ([[0, 1]], "list of whole numbers"),
        ([0, 8], "0 to 8 are chosen of 8"),
        ([-1, 3], "-1 to 3 are chosen of 8"),
        (np.array([2**64 - 1], np.uint64), "are chosen of 8"),
        ([2, 2, 3], "twice"),
    ],
)
def test_no_choice_is_refused(answer: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        choice(answer)


@pytest.mark.parametrize("size", [0, 3])
def test_a_choice_may_ask_the_net_and_leaves_it(size: int) -> None:
    net, other = small_net().eval(), teacher()
    net[0].train()  # a mode of its own
    before = state(net)
    [(inputs, labels)] = batches(1, 8)

    def hardest(net: Net, params: Named, inputs: torch.Tensor, labels: torch.Tensor, memory: Named, rng: Any) -> Any:
        net(params, inputs)
        losses = functional.cross_entropy(net.still(memory, inputs), labels, reduction="none")
        return losses.topk(3).indices

    found = chosen(hardest, net, inputs, labels, tensors(other), np.random.default_rng(0), at_rest=size)
    losses = functional.cross_entropy(
        other.eval()(torch.from_numpy(inputs)), torch.from_numpy(labels), reduction="none"
    )
    assert set(found) == set(losses.topk(3).indices.tolist())
    assert unchanged(net, before)
    assert [module.training for module in net] == [True, *[False] * (len(net) - 1)]
