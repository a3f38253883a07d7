"""Parts of the model for unequal devices: who trains which, how they are first drawn, and kept nested."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedprune import criteria, masks
from fedprune.federated.jobs import Job
from fedprune.federated.state import ORDER, Part, State, statistics
from fedprune.nesting import counts, nested
from fedprune.types import Masks, Method


@dataclass(frozen=True, eq=False)
class Tiers:
    """How a model is shared among devices."""

    methods: Mapping[str, Method]
    """Part -> the method at its size, the largest part first. One named ``""`` is the whole model, for all alike."""
    job: Callable[[int, int | None], Job | None]
    """(device, bytes that it may use, None where it has not said) -> what it trains; None where nothing fits."""

    def jobs(self, devices: Sequence[int], memory_bytes: Mapping[int, int]) -> dict[int, Job]:
        """The job of each device that can train anything."""
        found = {device: self.job(device, memory_bytes.get(device)) for device in devices}
        return {device: job for device, job in found.items() if job is not None}

    def holders(self, part: str, jobs: Mapping[int, Job]) -> dict[int, Job]:
        """The devices whose own part is this one or a larger one, so that they can hold it."""
        order = list(self.methods)
        return {k: job for k, job in jobs.items() if order.index(job.part) <= order.index(part)}


def one_part(method: Method) -> Tiers:
    """Every device trains the whole model."""
    return Tiers({"": method}, lambda device, memory_bytes: Job())


def drawn(method: Method, weights: Mapping[str, np.ndarray], larger: Masks | None) -> list[Masks]:
    """A method's candidates, within the masks of the next larger part."""
    return [masks.intersect(each, larger) if larger is not None else each for each in method.candidates(weights)]


def joined(base: State, chosen: Mapping[str, State], method: Method) -> State:
    """Round 0: the dense ``base`` under the masks of its largest part, and every part beside it.

    Where parts are whole channels the server keeps every weight: a window that no device trains now may return.
    """
    parts = {name: Part(state.masks, statistics(state.params)) for name, state in chosen.items()}
    largest = next(iter(chosen.values()))
    kept: Masks = {} if method.structured else largest.masks
    params = masks.apply({**base.params, **statistics(largest.params)}, kept)
    return State(0, params, kept, largest.memory, parts)


def renested(before: State, state: State, tiers: Tiers, round: int) -> State:
    """The state with every part nested in the next larger one again, after the masks of the largest have changed.

    In the layers that changed, a smaller part keeps as many weights as before: the best of the larger part's, by the
    order that phase train left, else by magnitude. Parts of whole channels follow their method instead.
    """
    parts: dict[str, Part] = {}
    changed = [name for name, mask in state.masks.items() if not np.array_equal(mask, before.masks[name])]
    scores = {name: criteria.magnitude(state.params[name]) for name in changed}
    for name, part in state.parts.items():
        update = tiers.methods[name].update
        if tiers.methods[name].structured:
            new = part.masks if update is None else update.update(part.masks, {}, round)
        elif not parts:
            new = state.masks
        else:
            order = {layer: state.memory.get(f"{ORDER}{name}/{layer}", scores[layer]) for layer in changed}
            kept = counts({layer: part.masks[layer] for layer in changed})
            larger = next(reversed(parts.values())).masks
            new = {**part.masks, **nested(order, kept, larger)}
        parts[name] = part._replace(masks=new)
    return replace(state, parts=parts)
