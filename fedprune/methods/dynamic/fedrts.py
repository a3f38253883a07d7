"""FedRTS: masks drawn by combinatorial Thompson sampling (Huang et al., NeurIPS 2025, arXiv 2501.19122)."""

from collections.abc import Mapping

import numpy as np

from fedprune.aggregation import votes
from fedprune.counter_rng import generator
from fedprune.methods.layers import GRAD, Shapes, adjusted, density_in_range, fractions_in_range, masked, scattered
from fedprune.pruning import criteria
from fedprune.pruning.pruners import every, regrow
from fedprune.pruning.schedules import cosine
from fedprune.pruning.thompson import Posterior, drawn, learnt
from fedprune.pruning.topk import top_k
from fedprune.types import Ask, DeviceId, Found, Masks, Method, Model, Params, Trained

_WEIGHT = "weight/"


def fedrts(
    layers: Shapes, *, density: float, period: int = 10, stop: int = 100, fraction: float = 0.4, trust: float = 0.5,
    scale: float = 10.0, seed: int = 0,
) -> Method:  # fmt: skip
    """Keep of each layer the K weights with the largest ξ ~ Beta(α, β), drawn anew every ``period`` rounds (eq. 2).

    The server keeps α and β of each weight, 1 at first. In every round until ``stop`` the outcome of a kept weight is
    X = γ 1[among the κ largest |θ| of the average] + (1 − γ) Σ p_n 1[among those of device n], γ = ``trust``, p_n by
    examples, κ = K − fraction/2 · (1 + cos(πr/stop)) K (eq. 3 and 4). In a round that draws, that of a pruned one is
    γ/2 + (1 − γ) Σ p_n 1[among the K − κ largest |∂L/∂θ| of device n]: no averaged gradient has a say (eq. 5). Then
    α grows by λ X and β by λ (1 − X), λ = ``scale``, in the paper the number of devices in a round (eq. 6). Masks begin
    at random, of Erdős–Rényi-kernel densities; what is revived begins at 0.

    (m): the ½ of eq. 5. Not as there: devices send values along with the places of their gradients; nothing reads them.
    """
    fractions_in_range(fraction=fraction, trust=trust)
    if not scale > 0:
        raise ValueError(f"scale {scale} is not above 0")
    begin = scattered(layers, density_in_range(density), seed)
    swap = regrow(criteria.magnitude, criteria.gradient, cosine(fraction, end=stop))  # for its counts, K − κ
    wanted, _ = adjusted(every(period, swap, until=stop))

    def start(params: Params) -> Model:
        prior = {f"{each}/{name}": np.ones(shape) for each in Posterior._fields for name, shape in layers.items()}
        return begin(params)._replace(memory={"round": np.asarray(0), **prior})

    def told(model: Model, arms: Masks, average: Params, each: Params) -> Model:
        after = {
            name: learnt(_of(model, name), arms[name], trust * average[name] + (1 - trust) * each[name], scale)
            for name in layers
        }
        return model._replace(memory={**model.memory, **_named(after)})

    def join(model: Model, trained: Mapping[DeviceId, Trained]) -> Model:
        round = int(model.memory["round"]) + 1
        kept = {name: int(np.count_nonzero(mask)) for name, mask in model.masks.items()}
        less = swap.grows(model.masks, round)
        core = {name: count - less.get(name, 0) for name, count in kept.items()}
        memory = {name: value for name, value in model.memory.items() if not name.startswith(_WEIGHT)}
        memory |= {f"{_WEIGHT}{device}": np.asarray(float(each.weight)) for device, each in trained.items()}
        model = model._replace(memory=memory)
        if round > stop:
            return model
        theirs: list[tuple[Masks, Masks, float]] = [
            (_largest(each.params, each.masks, core), {}, float(each.weight)) for each in trained.values()
        ]
        return told(model, model.masks, _largest(model.params, model.masks, core), votes(theirs))

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        return {name: ask._replace(apart=True) for name, ask in wanted(model, round, found).items()}

    def act(model: Model, found: Found, round: int) -> Model:
        model = model._replace(memory={**model.memory, "round": np.asarray(round)})
        weights = {device: float(model.memory.get(f"{_WEIGHT}{device}", 0)) for device in found.get(GRAD, {})}
        if not any(weights.values()):
            return model
        none = {name: np.zeros(shape) for name, shape in layers.items()}
        largest: list[tuple[Masks, Masks, float]] = [
            ({name: grad != 0 for name, grad in {**none, **found[GRAD][device]}.items()}, {}, weight)
            for device, weight in weights.items()
        ]
        neither = {name: zeros + 0.5 for name, zeros in none.items()}
        pruned = {name: ~mask for name, mask in model.masks.items()}
        model = told(model, pruned, neither, votes(largest))
        new = {
            name: drawn(_of(model, name), int(np.count_nonzero(mask)), generator(seed, "arms", round, name))
            for name, mask in model.masks.items()
        }
        return masked(model, new)

    return Method(start, join=join, asks=asks, act=act)


def _of(model: Model, name: str) -> Posterior:
    return Posterior(*(model.memory[f"{each}/{name}"] for each in Posterior._fields))


def _named(posteriors: Mapping[str, Posterior]) -> Params:
    return {f"{key}/{name}": value for name, each in posteriors.items() for key, value in each._asdict().items()}


def _largest(params: Params, owned: Masks, most: Mapping[str, int]) -> Masks:
    """The ``most`` largest |θ| of each layer among those that are owned."""
    sizes = {name: np.where(owned[name], np.abs(params[name]), -np.inf) for name in most}
    return {name: top_k(sizes[name], count) & owned[name] for name, count in most.items()}
