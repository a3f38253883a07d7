"""HESSO with CRIC: redundant channels fade to 0 along a line (Chen et al., 2024, arXiv 2409.09085)."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from fedprune.graph.width import embed, narrow
from fedprune.measures.scaled_gradients import Scaled
from fedprune.methods.channels import (
    best_channels,
    keep_in_range,
    made_of,
    narrower,
    pushed,
    rows,
    salience,
    scaled,
    unpushed,
    whole,
)
from fedprune.methods.layers import Channels, Shapes, from_to
from fedprune.pruning.topk import kept_count
from fedprune.types import Ask, Found, Masks, Method, Model, Params

_NEARER = 0.75, 0.5, 0.25


def hesso(
    layers: Shapes, *, keep: float = 0.5, begin: int = 0, stop: int = 10, periods: int = 1, cycles: int = 10,
    channels: Channels,
) -> Method:  # fmt: skip
    """All but ``keep`` of the channels fade to 0 and go, as many in each of ``periods`` between ``begin`` and ``stop``.

    A channel is all that makes it: rows, biases, γ and β. The least by `channels.salience`, five scores alike, with the
    devices' pooled gradient, go (§3.2 (m)); one of each group stays. In round t of a period of T rounds the server
    multiplies them by (T − t) / (T − t + 1), a line to exactly 0 (alg. 1 (m)); then devices hold a narrower model.

    CRIC, with at most so many ``cycles`` (alg. 2): the chosen are tried at ¾, ½ and ¼ of their size, scores by the
    gradients there add up, and what is then among the least and has not been tried is tried next, until there is none.
    The sum decides: it follows the loss on the way to 0, where one look sees its slope alone.

    Not as there: a step of a period is a round and the server's, so that devices take plain steps; scores are in units
    of their mean over a group. (m): the order of cycles, and that x is the whole channel, wherever the gradient is.
    """
    keep_in_range(keep)
    from_to("stop", stop, 1)
    from_to("begin", begin, 0, stop - 1, "the round before stop")
    from_to("periods", periods, 1, stop - begin, "the rounds from begin to stop")
    from_to("cycles", cycles, 0)
    made = made_of(channels()[0])
    names = list(dict.fromkeys(m.name for members in made.values() for m in members))
    ends = [begin + (stop - begin) * period // periods for period in range(periods + 1)]

    def share(round: int) -> float:
        return 1 - (1 - keep) * sum(end <= round for end in ends) / periods

    def towards(params: Params, chosen: Masks, by: float) -> Params:
        for name, members in made.items():
            params = {**params, **scaled(members, params, chosen[name], by)}
        return params

    def look(model: Model, found: Found, round: int) -> tuple[Masks, Mapping[str, Ask]]:
        """(the channels that stay by what is found, what is to be asked besides)."""
        (part,), free, params = model.parts.values(), unpushed(model), {name: model.params[name] for name in names}
        kept, tried = free, {name: ~mask for name, mask in free.items()}
        scores = {name: np.where(mask, 0.0, -np.inf) for name, mask in free.items()}
        asks = {"grad": Ask("gradients", names)}
        for cycle in range(cycles + 1):
            if not all(found.get(name) for name in asks):
                break
            for name in asks:
                grads = embed({n: found[name][n] for n in names}, params, part.masks)
                scores = {n: s + salience(rows(made[n], params), rows(made[n], grads)) for n, s in scores.items()}
            kept = best_channels(scores, share(round))
            chosen = {name: ~mask & ~tried[name] for name, mask in kept.items()}
            tried = {name: mask | chosen[name] for name, mask in tried.items()}
            ones = {name: np.ones_like(value) for name, value in params.items()}
            asks = {
                f"grad/{cycle}/{by}": Ask(
                    "scaled_gradients", Scaled(names, narrow(towards(ones, chosen, by), part.masks))
                )
                for by in _NEARER
                if cycle < cycles and any(mask.any() for mask in chosen.values())
            }
            if not asks:
                break
        return kept, asks

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        free = np.concatenate([*unpushed(model).values()])
        due = begin <= round < stop and free.sum() > max(len(made), kept_count(share(round), free.size))
        return look(model, found, round)[1] if due else {}

    def act(model: Model, found: Found, round: int) -> Model:
        if not begin <= round <= stop:
            return model
        free, end = unpushed(model), next(end for end in ends if end >= round)
        kept, _ = look(model, found, round)
        gone = {name: ~mask for name, mask in free.items()}
        after = model._replace(params=towards(model.params, gone, (end - round) / (end - round + 1)))
        return pushed(narrower(after, channels, free) if round == end else after, kept, 1.0)

    return Method(partial(whole, channels), asks=asks, act=act)
