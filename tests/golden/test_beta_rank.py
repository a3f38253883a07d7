"""Golden values of β-rank, worked by hand: moments of classes that weigh the same, and what they keep."""

import numpy as np
import pytest
import torch
from torch import nn

from fedprune import measures
from fedprune.graph.coupling import Group, Member
from fedprune.measures.filter_moments import Filters
from fedprune.methods.shrunk.beta_rank import beta_rank
from fedprune.training.filter_moments import filter_moments
from fedprune.types import Model, Params, Tensor
from fedprune.wire.payload import Payload

# a's three channels are read by b, whose two are the output's
PARAMS: Params = {
    "a.weight": np.array([[1, 0], [2, -1], [0, 4]], np.float32),
    "b.weight": np.ones((2, 3), np.float32),
}
SHAPES = {name: value.shape for name, value in PARAMS.items()}
PLACES = np.arange(3)[:, None]
GROUPS = (
    Group("a", 3, (Member("a.weight", (3, 2), 0, PLACES, True), Member("b.weight", (2, 3), 1, PLACES, False))),
)  # fmt: skip


def test_classes_weigh_the_same_and_filters_that_let_most_through_stay() -> None:
    method = beta_rank({}, width=0.5, channels=lambda: (GROUPS, SHAPES))
    model = method.start(PARAMS)
    counts = method.asks(model, 0, {})["classes"]
    assert (counts.kind, counts.args) == ("counts", 2)
    told = {"classes": {"classes": np.array([1, 3])}}
    asked = method.asks(model, 0, told)["moments"]
    assert asked.kind == "filter_moments"
    # 4 examples of 2 classes: 4 / (2 · 1) and 4 / (2 · 3)
    assert asked.args == Filters(("a.weight",), (2.0, pytest.approx(2 / 3)))
    # ‖f‖₁ are 1, 3, 4, and σ_out / σ_in 6/2, 4/2, 1/2: of 3, 6, 2 the greatest two stay
    moments = {"a.weight/read": np.array([4.0]), "a.weight/made": np.array([[36.0], [16.0], [1.0]])}
    done = method.act(model, {**told, "moments": moments}, 0)
    assert done.parts["narrow"].masks["a.weight"][:, 0].tolist() == [True, True, False]
    # the first channels where nobody says anything
    assert method.asks(model, 0, {"classes": {}})["moments"].args.weights == ()
    assert method.act(model, {"classes": {}, "moments": {}}, 0).parts["narrow"].masks["a.weight"][2].tolist() == [0, 0]
    assert not method.asks(model, 1, {})
    plain = beta_rank({}, width=0.5, balanced=False, channels=lambda: (GROUPS, SHAPES))
    assert plain.asks(model, 0, {})["moments"].args == Filters(("a.weight",))


def spread(values: list[float], weights: list[float]) -> float:
    mean = float(np.average(values, weights=weights))
    return float(np.average((np.array(values) - mean) ** 2, weights=weights))


def test_moments_are_of_each_place_by_itself() -> None:
    net = nn.Conv1d(1, 2, 2, bias=True)
    with torch.no_grad():
        net.weight[:] = torch.tensor([[[1.0, 0.0]], [[1.0, -2.0]]])
    layer = nn.Sequential(net)
    # three places of 2 columns each; the first of class 1
    inputs = np.array([[[1, 2, 3, 4]], [[0, 0, 4, 4]], [[2, 1, 0, 7]]], np.float32)
    worth, labels = np.array([1.0, 3.0]), np.array([1, 0, 0])
    found = filter_moments(layer, [(inputs, labels)], ["0.weight"], lambda of: worth[of])["0.weight"]
    weights = [3.0, 1.0, 1.0]
    assert found.examples == 5
    first, second = [spread(inputs[:, 0, at].tolist(), weights) for at in range(4)], inputs[:, 0]
    assert found.variance[0] == pytest.approx(first[:3])
    assert found.variance[1] == pytest.approx(first[1:])
    assert found.variance[2] == pytest.approx(first[:3])
    assert found.variance[3] == pytest.approx(
        [spread((second[:, at] - 2 * second[:, at + 1]).tolist(), weights) for at in range(3)]
    )


def answer(read: list[float], made: list[list[float]], weight: float) -> Payload:
    tensors: dict[str, Tensor] = {
        "read/a.weight": np.array(read, np.float32)[:, None],
        "made/a.weight": np.array(made, np.float32)[:, :, None],
    }
    return Payload({"examples": 2, "weight": weight}, tensors)


def test_devices_add_up_by_what_their_examples_weigh() -> None:
    kind, args = measures.find("filter_moments"), Filters(("a.weight",), (1.5, 0.5))
    # columns' means 0, 0 and 4, 2, with a mean variance of 1 and 2; weights 1 and 3
    answers = [
        answer([0, 0, 1], [[0, 0, 0], [1, 2, 3]], 1.0),
        answer([4, 2, 2], [[8, 0, 0], [1, 2, 7]], 3.0),
        answer([9, 9, 9], [[9, 9, 9], [9, 9, 9]], 0.0),
    ]
    for each in answers:
        kind.check(each, args, Model(PARAMS))
    merged = kind.merge(answers, args)
    # within (1 + 3 · 2) / 4, between ¾ · ¼ · the mean of 16 and 4
    assert merged["a.weight/read"].tolist() == [1.75 + 10 * 3 / 16]
    assert merged["a.weight/made"][:, 0].tolist() == [1 + 64 * 3 / 16, 2, 6]
    assert merged["examples"] == 4
    assert kind.merge(answers[2:], args) == {}
    with pytest.raises(ValueError, match=r"2 examples weigh 3\.5, expected 3\.0 at most"):
        kind.check(answer([0, 0, 1], [[0, 0, 0], [1, 2, 3]], 3.5), args, Model(PARAMS))
    with pytest.raises(ValueError, match=r"2 examples weigh 1\.0, expected 1 each"):
        kind.check(answers[0], Filters(("a.weight",)), Model(PARAMS))
