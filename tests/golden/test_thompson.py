"""Golden values of masks that are drawn from posteriors, worked by hand: FedRTS."""

import numpy as np

from fedprune.counter_rng import generator
from fedprune.methods.dynamic.fedrts import fedrts
from fedprune.types import Model, Tensor, Trained


def posterior(model: Model) -> list[list[float]]:
    return [model.memory[f"{each}/w"].tolist() for each in ("alpha", "beta")]


def test_outcomes_of_kept_and_of_pruned_weights_move_their_posteriors_and_those_the_mask() -> None:
    method = fedrts({"w": (4,)}, density=0.5, period=1, stop=2, fraction=1.0, scale=4.0, seed=3)
    kept = np.array([True, True, False, False])
    model = method.start({"w": np.ones(4, np.float32)})
    model = method.act(model._replace(params={"w": np.array([3.0, 1.0, 0, 0], np.float32)}, masks={"w": kept}), {}, 0)
    assert posterior(model) == [[1, 1, 1, 1], [1, 1, 1, 1]]

    def brought(weight: float, *values: float) -> Trained:
        return Trained({"w": np.array([*values, 0, 0], np.float32)}, {"w": kept}, weight)

    # 1/2 · (1 + cos(π/2)) · 2 = 1, so κ is 1: weight 0 of the average and of device 1, weight 1 of device 0
    model = method.join(model, {0: brought(1, 1.0, 2.0), 1: brought(3, 5.0, 0.5)})
    # X = 1/2 + 1/2 · 3/4 = 7/8 and 1/2 · 1/4 = 1/8; λ is 4
    assert posterior(model) == [[4.5, 1.5, 1, 1], [1.5, 4.5, 1, 1]]

    (ask,) = method.asks(model, 1, {}).values()
    assert (ask.kind, dict(ask.args), ask.apart) == ("top_gradients", {"w": 1}, True)
    after = method.act(model, {"grad": {0: {"w": grads(2)}, 1: {"w": grads(3)}}}, 1)
    # X = 1/4 + 1/2 · 1/4 = 3/8 and 1/4 + 1/2 · 3/4 = 5/8
    alpha, beta = posterior(after)
    assert (alpha, beta) == ([4.5, 1.5, 2.5, 3.5], [1.5, 4.5, 3.5, 2.5])
    xi = generator(3, "arms", 1, "w").beta(alpha, beta)
    assert np.flatnonzero(after.masks["w"]).tolist() == sorted(np.argsort(xi)[-2:].tolist())
    assert after.params["w"].tolist() == [3.0 * after.masks["w"][0], 1.0 * after.masks["w"][1], 0, 0]
    # nobody could say a gradient: what was learnt of kept weights stays, and no mask is drawn
    assert method.act(model, {"grad": {}}, 1).masks is model.masks
    # after the stop nothing is learnt
    late = method.act(after, {}, 2)
    assert posterior(method.join(late, {0: brought(1, 1.0, 2.0)})) == posterior(late)


def grads(place: int) -> Tensor:
    return np.where(np.arange(4) == place, -0.7, 0.0)
