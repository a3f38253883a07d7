"""Golden values of methods for fleets, each worked by hand: FedDST, PruneFL, the small dense net."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from fedprune.aggregation import Share, coverage_mean
from fedprune.graph.coupling import Group, Member
from fedprune.methods.dynamic.feddst import feddst
from fedprune.methods.dynamic.prunefl import prunefl
from fedprune.methods.shrunk.small_dense import small_dense
from fedprune.pruning.masks import apply
from fedprune.types import DeviceId, Holder, Method, Model, Tensor, Trained


def kept(masks: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Positions of what is kept, in C order."""
    return {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()}


def joined(
    method: Method, model: Model, brought: Mapping[DeviceId, tuple[Sequence[float], float, Any]], round: int
) -> Model:
    """The model after a round in which devices brought (weights, examples, the gradients that they report)."""
    trained = {
        device: Trained(
            {"w": np.array(weights)}, method.part(model, Holder(device, "", round)).masks, n, reports={"grad": grads}
        )
        for device, (weights, n, grads) in brought.items()
    }
    shares = [Share(each.params, each.masks, each.weight) for each in trained.values()]
    averaged = model._replace(params=coverage_mean(model.params, shares))
    return method.act(method.join(averaged, trained), {}, round)


def test_feddsts_devices_swap_each_by_its_own_and_the_server_prunes_what_they_make_of_it() -> None:
    # cos(π · 1/3) = 1/2, so that 0.45 · 3/2 = 0.675 of half: a third of three, one weight, is swapped after round 1
    method = feddst({"w": (6,)}, density=0.5, period=2, stop=3, fraction=0.45)
    model = Model({"w": np.array([1.0, 1.0, 1.0, 0, 0, 0])}, {"w": np.arange(6) < 3}, {"round": np.asarray(0)})
    (ask,) = method.local.reports.values()
    assert (ask.kind, dict(ask.args)) == ("top_gradients", {"w": 1})
    grads = {name: {"w": np.eye(6)[at]} for name, at in (("a", 3), ("b", 5))}
    model = joined(
        method, model, {"a": ([3, 0.1, 2, 0, 0, 0], 1, grads["a"]), "b": ([0.2, 4, 1, 0, 0, 0], 3, grads["b"])}, 1
    )
    # a drops its second weight and grows the fourth, b the first and the last
    assert kept(model.masks) == {"w": [0, 1, 2, 3, 5]}
    assert kept(method.part(model, Holder("a", "", 2)).masks) == {"w": [0, 2, 3]}
    assert kept(method.part(model, Holder("b", "", 2)).masks) == {"w": [1, 2, 5]}
    assert kept(method.part(model, Holder("c", "", 2)).masks) == {"w": [0, 1, 2]}
    assert model.params["w"].tolist() == pytest.approx([0.9, 3.025, 1.25, 0, 0, 0])  # averaged over both, by examples
    model = joined(method, model, {"a": ([3, 0, 2, 1.5, 0, 0], 1, {}), "b": ([0, 4, 1, 0, 0, -0.1], 3, {})}, 2)
    # 3 of a alone, 4 of b alone, (2 + 3 · 1)/4, 1.5 of a alone, −0.1 of b alone
    assert kept(model.masks) == {"w": [0, 1, 3]}
    assert model.params["w"].tolist() == [3, 4, 0, 1.5, 0, 0]
    assert not model.memory.keys() - {"round"}
    assert kept(method.part(model, Holder("a", "", 3)).masks) == {"w": [0, 1, 3]}
    # the stop has come
    assert kept(joined(method, model, {"a": ([3, 0.1, 0, 2, 0, 0], 1, grads["a"])}, 3).masks) == {"w": [0, 1, 3]}


def test_prunefl_keeps_what_lowers_the_loss_most_in_the_time_that_it_takes() -> None:
    layers = {"matrix": (4, 1), "conv": (1, 1, 2, 2)}
    # 2/3 · (1 + cos(π · 2/4))/2 = 1/2 · 2/3: of three kept weights one competes
    method = prunefl(layers, density=0.75, period=2, stop=4, fraction=2 / 3, convolution=4.0)
    theta = {
        "matrix": np.array([5.0, 4.0, 3.0, 0.2])[:, None],
        "conv": np.array([3.0, 2.0, 1.0, 0.2]).reshape(1, 1, 2, 2),
    }
    # sums over products of dims are 5/4 and 6/4, so that 3/4 of 8 begin as 6 · 5/11 and 6 · 6/11
    assert kept(method.start(theta).masks) == {"matrix": [0, 1], "conv": [0, 1, 2]}
    masks = {name: (np.arange(4) < 3).reshape(shape) for name, shape in layers.items()}
    model = Model(apply(theta, masks), masks)
    assert not method.asks(model, 1, {})
    assert not method.asks(model, 4, {})
    (ask,) = method.asks(model, 2, {}).values()
    assert (ask.kind, ask.args, ask.apart) == ("gradients", ("matrix", "conv"), False)
    grads = {
        "matrix": np.array([9.0, 9.0, 1.0, 3.0])[:, None],
        "conv": np.array([9.0, 9.0, -4.0, 1.0]).reshape(1, 1, 2, 2),
    }
    # the two largest of each stay; of the others g²/t is 1 and 9 in the matrix, 16/4 and 1/4 in the convolution
    after = method.act(model, {"grad": grads}, 2)
    assert kept(after.masks) == {"matrix": [0, 1, 3], "conv": [0, 1, 2]}
    assert after.params["matrix"].ravel().tolist() == [5, 4, 0, 0]
    # a convolution that takes five times as long has less to gain than the matrix, and layers trade weights
    slow = prunefl(layers, density=0.75, period=2, stop=4, fraction=2 / 3, convolution=20.0)
    assert kept(slow.act(model, {"grad": grads}, 2).masks) == {"matrix": [0, 1, 2, 3], "conv": [0, 1]}
    assert method.act(model, {"grad": {}}, 2) is model


def test_a_small_dense_net_is_as_wide_as_the_sparse_ones_bytes_allow() -> None:
    shapes = {"a.weight": (6, 4, 3, 3), "b.weight": (8, 6, 3, 3), "c.weight": (10, 8)}

    def group(rows: str, columns: str, size: int) -> Group:
        places = np.arange(size)[:, None]
        members = Member(rows, shapes[rows], 0, places, True), Member(columns, shapes[columns], 1, places, False)
        return Group(rows, size, members)

    groups = [group("a.weight", "b.weight", 6), group("b.weight", "c.weight", 8)]
    # 54 of 216, 108 of 432 and 20 of 80 values, a byte each, and a bit a position: 81 + 162 + 30 bytes. Half as wide it
    # is 3 · 36 + 4 · 3 · 9 + 10 · 4 = 256 bytes; a little wider 4 · 36 + 5 · 4 · 9 + 10 · 5 = 374
    method = small_dense(shapes, density=0.25, channels=lambda: (groups, shapes))
    (part,) = method.start({name: np.ones(shape, np.float32) for name, shape in shapes.items()}).parts.values()
    assert {name: int(mask.sum()) for name, mask in part.masks.items()} == {
        "a.weight": 108,
        "b.weight": 108,
        "c.weight": 40,
    }
    # nothing is narrower than a channel each
    least = small_dense(shapes, density=0.001, channels=lambda: (groups, shapes))
    (part,) = least.start({name: np.ones(shape, np.float32) for name, shape in shapes.items()}).parts.values()
    assert int(part.masks["b.weight"].sum()) == 9
