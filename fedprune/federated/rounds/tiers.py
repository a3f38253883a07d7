"""Parts of the model for unequal devices: who trains which, how they are first drawn, and kept nested."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import ORDER, Part, State, statistics
from fedprune.federated.rounds.phases.grow import evidence_for
from fedprune.pruning import criteria, masks
from fedprune.pruning.nesting import counts, nested
from fedprune.types import Masks, Method, Tensor


@dataclass(frozen=True, eq=False)
class Tiers:
    """How a model is shared among devices."""

    methods: Mapping[str, Method]
    """Part -> the method at its size, the largest part first. One named ``""`` is the whole model, for all alike."""
    job: Callable[[int, int | None], Job | None]
    """(device, bytes that it may use, None where it has not said) -> what it trains; None where nothing fits."""
    test: Callable[[str, int, int | None], Job | None]
    """(part, device, bytes that it may use) -> how it tests the part; None where that does not fit."""

    def jobs(self, devices: Sequence[int], memory_bytes: Mapping[int, int]) -> dict[int, Job]:
        """The job of each device that can train anything."""
        found = {device: self.job(device, memory_bytes.get(device)) for device in devices}
        return {device: job for device, job in found.items() if job is not None}

    def tests(self, part: str, devices: Iterable[int], memory_bytes: Mapping[int, int]) -> dict[int, Job]:
        """How each device that can tests a part."""
        found = {device: self.test(part, device, memory_bytes.get(device)) for device in devices}
        return {device: job for device, job in found.items() if job is not None}

    def holders(self, part: str, jobs: Mapping[int, Job]) -> dict[int, Job]:
        """The devices whose own part is this one or a larger one, so that they can hold it."""
        order = list(self.methods)
        return {k: job for k, job in jobs.items() if order.index(job.part) <= order.index(part)}


def one_part(method: Method) -> Tiers:
    """Every device trains the whole model; or one part of it, where that is whole channels."""
    part = "narrow" if method.structured else ""
    job = Job(part, method.structured)
    return Tiers({part: method}, lambda device, memory_bytes: job, lambda part, device, memory_bytes: job)


def drawn(method: Method, weights: Mapping[str, np.ndarray], larger: Masks | None) -> list[Masks]:
    """A method's candidates, within the masks of the next larger part."""
    return [masks.intersect(each, larger) if larger is not None else each for each in method.candidates(weights)]


def joined(base: State, chosen: Mapping[str, State], method: Method) -> State:
    """Round 0: the dense ``base`` under the masks of its largest part, and every part beside it.

    Where parts are whole channels the server keeps every weight: a window that no device trains now may return.
    """
    parts = {
        name: Part(state.masks, statistics((base if method.structured else state).params))
        for name, state in chosen.items()
    }
    largest = next(iter(chosen.values()))
    kept: Masks = {} if method.structured else largest.masks
    params = masks.apply({**base.params, **statistics(largest.params)}, kept)
    return State(0, params, kept, largest.memory, parts)


def rolled(state: State, tiers: Tiers, round: int) -> State:
    """The state with parts of whole channels as their method has them in ``round``, which counts from 0 here."""
    parts = dict(state.parts)
    for name, part in state.parts.items():
        method = tiers.methods[name]
        if method.structured and method.update is not None:
            parts[name] = part._replace(masks=method.update.update(part.masks, {}, round))
    return replace(state, parts=parts)


def renested(before: State, state: State, tiers: Tiers, round: int, seed: int) -> State:
    """The state with every part nested in the next larger one again, after the masks of the largest have changed.

    How many weights a smaller part keeps in each layer its own method says; which ones, in layers whose count or larger
    mask has changed: the best of the larger part's, by the order that phase train left, else by magnitude. Parts of
    whole channels are left as they are.
    """
    parts: dict[str, Part] = {}
    changed = {name for name, mask in state.masks.items() if not np.array_equal(mask, before.masks[name])}
    for name, part in state.parts.items():
        method, new = tiers.methods[name], part.masks
        if parts and not method.structured:
            had = counts(part.masks)
            if method.update is not None:
                new = method.update.update(new, evidence_for(state, method.update, {}, round, seed), round)
            kept = {layer: count for layer, count in counts(new).items() if layer in changed or count != had[layer]}
            order = {layer: _order(state, name, layer) for layer in kept}
            new = {**part.masks, **nested(order, kept, next(reversed(parts.values())).masks)}
        elif not method.structured:
            new = state.masks
        parts[name] = part._replace(masks=new)
    memory = {key: value for key, value in state.memory.items() if not key.startswith(ORDER)}
    return replace(state, parts=parts, memory=memory)


def _order(state: State, part: str, layer: str) -> Tensor:
    found = state.memory.get(f"{ORDER}{part}/{layer}")
    return criteria.magnitude(state.params[layer]) if found is None else found
