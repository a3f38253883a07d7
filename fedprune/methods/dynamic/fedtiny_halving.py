"""FedTiny whose candidate is chosen by training some of each, the pool halved: no paper's, after arXiv 2212.01977."""

from collections.abc import Mapping

import numpy as np

from fedprune.aggregation import mean_of_variances
from fedprune.methods.dynamic.fedtiny import fedtiny
from fedprune.methods.layers import Shapes, density_in_range, masked
from fedprune.methods.rewinding import FIRST, named, unnamed
from fedprune.pruning import candidates
from fedprune.pruning.candidates import Pool
from fedprune.types import Ask, Found, Masks, Method, Model, Params

_LEFT, _LOSS, _HELD = "left", "loss", "held/"
_WORST = np.finfo(np.float64).max  # a checkpoint holds what is finite


def fedtiny_halving(
    layers: Shapes, *, density: float, pool: int = 4, trial: int = 2, period: int = 10, stop: int = 100,
    fraction: float = 0.3, blocks: int = 5, seed: int = 0,
) -> Method:  # fmt: skip
    """Train each of ``pool`` coarse masks in turn for ``trial`` rounds, keep the better half, until one is left.

    Candidates are FedTiny's; better is the lower loss on devices' development parts after its rounds, since losses
    before any training say little of what training makes of a candidate. Then weights are swapped as FedTiny does it
    with one candidate, ``stop`` and ``period`` counted from there. The tournament's rounds are rounds like all others,
    ``trial`` · (pool + pool/2 + … + 2) of them, in which each device trains one candidate; of the others the server
    keeps the weights. The learning rate goes on falling meanwhile.

    What it costs it does not win on the digits: at a density of 0.01, 32 rounds in all and nine seeds, one unchosen
    candidate that trained in all of them was 6.5 ± 3.7 points better.
    """
    density_in_range(density)
    for key, value in (("pool", pool), ("trial", trial)):
        if value < 1:
            raise ValueError(f"{key} {value} is below 1")
    drawn = candidates.candidate_counts(dict(layers), density, pool, seed=seed)
    after = fedtiny(
        layers, density=density, pool=1, period=period, stop=stop, fraction=fraction, blocks=blocks, seed=seed
    )
    ends = _ends(pool, trial)
    last = max(ends, default=0)

    def kept(memory: Params, candidate: int) -> Masks:
        first = unnamed(FIRST, memory)
        return candidates.candidate_masks({name: first[name] for name in layers}, drawn[candidate])

    def start(params: Params) -> Model:
        memory = {_LEFT: np.arange(pool), _LOSS: np.full(pool, _WORST), **named(FIRST, params)}
        return masked(Model(params, memory=memory if last else {}), kept(memory, 0))

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        if round > last:
            return after.asks(model, round - last, found)
        return {"losses": Ask("losses", Pool([model.masks], mean_of_variances))} if round in ends else {}

    def act(model: Model, found: Found, round: int) -> Model:
        if round > last:
            return after.act(model, found, round - last) if round else model
        if round not in ends:
            return model
        left, place = model.memory[_LEFT], ends[round]
        losses = model.memory[_LOSS].copy()
        losses[left[place]] = min(_WORST, float(found["losses"]["loss"][0])) if found.get("losses") else _WORST
        memory = {**model.memory, _LOSS: losses, **named(f"{_HELD}{left[place]}/", model.params)}
        place += 1
        if place == len(left):
            left, place = left[np.argsort(losses[left], kind="stable")][: len(left) // 2], 0
        params = unnamed(f"{_HELD}{left[place]}/", memory) or unnamed(FIRST, memory)
        new = masked(model._replace(params=params), kept(memory, left[place]))
        return new._replace(memory={**memory, _LEFT: left} if len(left) > 1 else {})

    return Method(start, asks=asks, act=act)


def _ends(pool: int, trial: int) -> dict[int, int]:
    """Round in which a candidate's trial ends -> its place among those that are left then."""
    places = list[int]()
    while pool > 1:
        places += range(pool)
        pool //= 2
    return {(i + 1) * trial: place for i, place in enumerate(places)}
