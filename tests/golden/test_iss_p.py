"""Golden values of soft shrinkage and of the round that ends it, worked by hand."""

import numpy as np
import pytest
import torch

from fedprune.methods.learned.iss_p import iss_p
from fedprune.training.shrinking import shrinking
from fedprune.types import Now, Sgd


def test_a_step_shrinks_the_least_after_it_has_moved_them() -> None:
    optimiser = shrinking(["w"], 0.5, 0.5, until=3)
    trained = {"w": torch.tensor([[4.0, -1.0], [3.0, 2.0]]), "b": torch.tensor([0.1])}
    state = optimiser.init(trained)

    def step(round: int, grad: list[list[float]]) -> None:
        optimiser.update(trained, {"w": torch.tensor(grad)}, state, Now(round, 0, Sgd(1.0, 0.0)))

    step(1, [[0.0, 0.0], [0.0, 0.0]])
    assert trained["w"].tolist() == [[4.0, -0.5], [3.0, 1.0]]
    step(
        1, [[3.0, 0.0], [0.0, 0.0]]
    )  # 1 and 1/2 are the least: the first has come to where the last is, ties to the first
    assert trained["w"].tolist() == [[0.5, -0.25], [3.0, 1.0]]
    step(3, [[0.0, 0.0], [0.0, -1.0]])
    assert trained["w"].tolist() == [[0.25, -0.125], [3.0, 2.0]]
    step(4, [[0.0, 0.0], [1.0, 0.0]])
    assert trained["w"].tolist() == [[0.25, -0.125], [2.0, 2.0]]
    assert trained["b"].tolist() == pytest.approx([0.1])


def test_the_average_is_ranked_once_and_kept() -> None:
    method = iss_p({"a": (4,), "b": (2,)}, density=0.5, stop=2)
    model = method.start({"a": np.array([1.0, -4.0, 3.0, 2.0]), "b": np.array([9.0, 8.0])})
    assert all(method.act(model, {}, round) is model for round in (0,))
    assert all(mask.all() for mask in method.act(model, {}, 1).masks.values())
    ended = method.act(model, {}, 2)
    assert ended.params["a"].tolist() == [0.0, -4.0, 3.0, 0.0]
    assert ended.params["b"].tolist() == [9.0, 0.0]
    assert method.act(ended, {}, 4).masks["a"].tolist() == [False, True, True, False]
