"""Golden values of patterns that come about bit by bit, worked by hand."""

from typing import Any

import numpy as np
import pytest
import torch

from fedprune.methods.learned.mdgf import mdgf
from fedprune.methods.learned.sdgf import sdgf
from fedprune.types import Method, Now, Sgd

ROW = [[5.0, 1.0, -3.0, 2.0, 4.0, -6.0, 8.0, 7.0]]
LAYERS = {"w": (1, 8)}


def seen(method: Method, round: int) -> list[float]:
    """What the weights count as; their gradient is that of whole ones."""
    params, found = {"w": torch.tensor(ROW, requires_grad=True)}, dict[str, torch.Tensor]()

    def net(params: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        found.update(params)
        return params["w"].sum().reshape(1, 1).repeat(1, 2)

    assert method.local.loss is not None
    method.local.loss(net, params, torch.zeros(1, 1), torch.tensor([0]), {}, Now(round, 0, Sgd(0.1)))
    (grad,) = torch.autograd.grad(found["w"].sum(), params["w"])
    assert grad.tolist() == [[1.0] * 8]
    counted: list[float] = (found["w"][0] / params["w"][0]).tolist()
    return counted


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"beta": 0.25}, [0.75, 0.5, 0.25, 0.0, 0.0]),
        ({"beta": 0.5, "begin": 2}, [1.0, 1.0, 0.5, 0.0, 0.0]),
        ({"beta": 1.0, "exponential": True}, [float(np.exp(-t)) for t in range(1, 6)]),
    ],
)
def test_what_a_mask_leaves_out_counts_less_and_less(given: dict[str, Any], left: list[float]) -> None:
    method = mdgf(LAYERS, n=2, m=4, stop=5, **given)
    for round, share in enumerate(left, 1):
        assert seen(method, round) == pytest.approx([1, share, 1, share, share, share, 1, 1])
    assert seen(method, 6) == [1.0] * 8  # pruned by then


def test_patterns_become_sparser_by_halves() -> None:
    method = sdgf(LAYERS, n=1, m=8, stop=8)
    by_size = [6, 7, 5, 0, 4, 2, 3, 1]  # positions, the largest first
    for round, kept in ((1, 7), (2, 7), (3, 4), (4, 4), (5, 2), (6, 2), (7, 1), (8, 1)):
        assert seen(method, round) == [float(place in by_size[:kept]) for place in range(8)]
    assert seen(method, 9) == [1.0] * 8


def test_patterns_may_keep_their_share_in_smaller_groups() -> None:
    # 8:16 and 4:8 of the 8 inputs, 2:4, 1:2
    method = sdgf(LAYERS, n=1, m=2, begin=1, stop=5, geometric=True)
    assert seen(method, 1) == [1.0] * 8
    assert seen(method, 2) == [1.0] * 8
    assert seen(method, 3) == [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    assert seen(method, 4) == [1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    assert seen(method, 5) == [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("make", [mdgf, sdgf])
def test_the_server_keeps_the_pattern_of_the_average(make: Any) -> None:
    method = make(LAYERS, n=1, m=4, stop=3)
    model = method.start({"w": np.array(ROW)})
    assert all(method.act(model, {}, round) is model for round in (0, 1, 2, 4))
    assert method.act(model, {}, 3).params["w"].tolist() == [[5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 8.0, 0.0]]
    for wrong in ({"n": 4, "m": 4}, {"n": 0}):
        with pytest.raises(ValueError, match="is no pattern"):
            make(LAYERS, **wrong)
    with pytest.raises(ValueError, match="begin 5 is not from 0 to before stop 5"):
        make(LAYERS, begin=5, stop=5)
