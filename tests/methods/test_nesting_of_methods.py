"""What methods at two sizes make of one model: what is kept beside its weights, and what a smaller part gets."""

import numpy as np
import pytest

from fedprune.federated.rounds import acting
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.tiers import Tiers, one_part
from fedprune.methods import build
from fedprune.methods.nested import nested
from fedprune.types import Method, Model

LAYERS = {"a.weight": (6, 8), "b.weight": (5, 6)}
PARAMS = {
    **{name: np.random.default_rng(1).normal(size=shape).astype(np.float32) for name, shape in LAYERS.items()},
    "n.running_mean": np.zeros(6, np.float32),
}


def of_two_sizes(name: str, **given: object) -> Method:
    def at(density: float) -> Method:
        return build({"name": name, "density": density, **given}, LAYERS, 0, channels=lambda: ([], LAYERS))

    return nested({"large": at(0.5), "small": at(0.25)})


@pytest.mark.parametrize(("name", "kept"), [("lottery_jackpots", "frozen/"), ("kd_dp", "teacher/")])
def test_what_is_kept_beside_the_weights_is_of_all_of_them(name: str, kept: str) -> None:
    method = of_two_sizes(name)
    model = method.act(method.start(PARAMS), {}, 0)
    for layer in LAYERS:
        assert np.array_equal(model.memory[kept + layer], PARAMS[layer])


def test_smaller_parts_are_drawn_by_trained_weights_and_rewound_with_their_statistics() -> None:
    method = of_two_sizes("lth", levels=1, period=1)
    model = method.act(method.start(PARAMS), {}, 0)
    trained = {
        name: np.random.default_rng(2).normal(size=value.shape).astype(np.float32) for name, value in PARAMS.items()
    }
    own = {
        name: part._replace(params={"n.running_mean": trained["n.running_mean"]}) for name, part in model.parts.items()
    }
    after = method.act(model._replace(params=trained, parts=own), {}, 1)
    assert np.array_equal(after.params["a.weight"], np.where(after.masks["a.weight"], PARAMS["a.weight"], 0))
    for part in after.parts.values():
        assert np.array_equal(part.params["n.running_mean"], PARAMS["n.running_mean"])
    small = after.parts["small"].masks["a.weight"]
    assert np.abs(trained["a.weight"][small]).min() > np.abs(trained["a.weight"][~small]).max()


def test_one_part_of_whole_channels_wants_as_many_replies_as_a_whole_model() -> None:
    assert acting._least(one_part(Method(Model), "narrow")) is None
    job = Job()
    assert acting._least(Tiers(Method(Model), ("a", "b"), lambda *_: job, lambda *_: job)) == 0.0
