"""Golden values of masks that devices' gradients decide before training, each worked by hand: GraSP, SSFL."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedprune import measures, training
from fedprune.methods.static.grasp import grasp
from fedprune.methods.static.ssfl import ssfl
from fedprune.tasks import CLASSIFICATION
from fedprune.types import Ask, Model, Params, Tensor
from fedprune.wire.payload import Payload

LAYER = "0.weight"


def device(*inputs: float) -> Any:
    """One that holds these inputs, all of the first of two classes, for a layer of one input and two outputs."""
    net = nn.Sequential(nn.Linear(1, 2, bias=False))

    def model(params: Params) -> nn.Module:
        with torch.no_grad():
            training.load_state(net, params)
        return net

    batch = np.array(inputs, np.float32)[:, None], np.zeros(len(inputs), np.int64)
    return SimpleNamespace(
        model=model,
        task=CLASSIFICATION,
        experiment=SimpleNamespace(training=SimpleNamespace(grow_batch=8)),
        parts=SimpleNamespace(train=batch[0]),
        batches=lambda examples, size: [batch],
        number=lambda *names: 0,
    )


def told(ask: Ask, model: Model, *devices: Any) -> dict[str, Tensor]:
    """Merged evidence."""
    kind = measures.find(ask.kind)
    answers: list[Payload] = [kind.measure(each, kind.request(model, ask.args), 0) for each in devices]
    for answer in answers:
        kind.check(answer, ask.args, model)
    return dict(kind.merge(answers, ask.args))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_grasps_product_is_that_of_the_pooled_gradient(temperature: float) -> None:
    # p = (1/2, 1/2), so that g = mean(x) (−1/2, 1/2) = (−3/4, 3/4) and H = mean(x²) [[1/4, −1/4], [−1/4, 1/4]]: H g is
    # 5/2 · 1/4 · (−3/2, 3/2). Devices' own products are (−1/4, 1/4) and (−2, 2), whose mean is another.
    method = grasp({LAYER: (2, 1)}, density=0.5, temperature=temperature)
    model = method.start({LAYER: np.zeros((2, 1), np.float32)})
    devices = device(1.0), device(2.0)
    (first,) = method.asks(model, 0, {}).values()
    slope = told(first, model, *devices)
    assert slope[LAYER].ravel().tolist() == [-0.75 / temperature, 0.75 / temperature]
    (second,) = method.asks(model, 0, {"slope": slope}).values()
    product = told(second, model, *devices)
    assert product[LAYER].ravel() == pytest.approx([-0.9375 / temperature**3, 0.9375 / temperature**3])
    assert not method.asks(model, 0, {"slope": {}})


def test_grasp_keeps_the_largest_products_with_their_sign() -> None:
    theta = {"a": np.array([1.0, -2.0, 3.0]), "b": np.array([0.5, 4.0])}
    products = {"a": np.array([-3.0, -1.0, 0.1]), "b": np.array([2.5, -0.5])}
    method = grasp({"a": (3,), "b": (2,)}, density=0.6)
    model = method.start(theta)
    # θ ⊙ Hg is −3, 2, 0.3 in a and 1.25, −2 in b
    after = method.act(model, {"slope": {}, "grad": products}, 0)
    assert {name: mask.tolist() for name, mask in after.masks.items()} == {"a": [False, True, True], "b": [True, False]}
    assert not method.asks(after, 1, {})
    assert method.act(model, {"slope": {}}, 0) is model


def test_ssfl_averages_what_each_device_finds_salient() -> None:
    method = ssfl({"w": (4,)}, density=0.5)
    model = method.start({"w": np.array([1.0, 1.0, -2.0, 1.0])})
    (ask,) = method.asks(model, 0, {}).values()
    assert (ask.kind, ask.args, ask.apart) == ("gradients", ("w",), True)
    said = {
        "one": {"w": np.array([4.0, 1.0, 0.5, 0.0]), "examples": np.asarray(1)},
        "three": {"w": np.array([-4.0, 1.0, 0.5, 2.0]), "examples": np.asarray(3)},
    }
    # |θ g| is 4, 1, 1, 0 of one example and 4, 1, 1, 2 of three: 4, 1, 1, 1.5
    after = method.act(model, {"grad": said}, 0)
    assert after.masks["w"].tolist() == [True, False, False, True]
    # where two devices pull apart nothing is left of a pooled gradient, and all of the saliencies
    apart = {name: {"w": sign * np.array([3.0, 0, 0, 0]) + np.array([0, 1.0, 1.0, 0]), "examples": np.asarray(1)}
             for name, sign in (("here", 1), ("there", -1))}  # fmt: skip
    assert method.act(model, {"grad": apart}, 0).masks["w"].tolist() == [True, False, True, False]
    assert method.act(model, {"grad": {}}, 0) is model
