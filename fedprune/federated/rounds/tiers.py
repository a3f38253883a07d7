"""Parts of the model for unequal devices: who trains which, and what of it is a device's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fedprune.federated.rounds.jobs import Job, Room
from fedprune.federated.rounds.model import OWN_PART, State
from fedprune.types import DeviceId, Holder, Local, Method, Params, Part

_NOBODY = -1


@dataclass(frozen=True, eq=False)
class Tiers:
    """How a model is shared among devices."""

    method: Method
    """Of all of them; where they are unequal, `fedprune.methods.nested.nested` of one at each size."""
    parts: Sequence[str]
    """The largest first. One named ``""`` is the whole model, for all alike."""
    job: Callable[[DeviceId, Room | None], Job | None]
    """(device, what it may use, None where it has not said) -> what it trains; None where nothing fits."""
    test: Callable[[str, DeviceId, Room | None], Job | None]
    """(part, device, what it may use) -> how it tests the part; None where that does not fit."""
    locals: Mapping[str, Local] = field(default_factory=dict)
    """Device halves by part, where they are not the method's."""

    def jobs(self, devices: Sequence[DeviceId], rooms: Mapping[DeviceId, Room]) -> dict[DeviceId, Job]:
        """The job of each device that can train anything."""
        found = {device: self.job(device, rooms.get(device)) for device in devices}
        return {device: job for device, job in found.items() if job is not None}

    def tests(self, part: str, devices: Iterable[DeviceId], rooms: Mapping[DeviceId, Room]) -> dict[DeviceId, Job]:
        """How each device that can tests a part."""
        found = {device: self.test(part, device, rooms.get(device)) for device in devices}
        return {device: job for device, job in found.items() if job is not None}

    def holders(self, part: str, jobs: Mapping[DeviceId, Job]) -> dict[DeviceId, Job]:
        """The devices whose own part is this one or a larger one, so that they can hold it."""
        return {k: job for k, job in jobs.items() if self.parts.index(job.part) <= self.parts.index(part)}

    def moved(self, state: State, round: int) -> State:
        """The state with its parts as the method has them in ``round``, such as windows of channels that roll on."""
        parts = {name: self.method.part(state.model(), Holder(_NOBODY, name, round)) for name in state.parts}
        return replace(state, parts=parts) if parts else state

    def owned(self, state: State, jobs: Mapping[DeviceId, Job], round: int) -> tuple[State, dict[DeviceId, Job]]:
        """(the state with parts that are a single device's, its jobs on them); both as they were where none is.

        A device's own part is of one phase alone: it begins with the tensors that the part has of its own and else with
        the model's, its weights are joined like all others, and it is not kept.
        """
        own: dict[str, Part] = {}
        mine: dict[DeviceId, Job] = dict(jobs)
        for device, job in jobs.items():
            shared = state.parts[job.part] if job.part else Part({}, state.masks)
            part = self.method.part(state.model(), Holder(device, job.part, round))
            if not (_same(part.masks, shared.masks) and _same(part.params, shared.params)):
                name = f"{OWN_PART}{device}"
                own[name], mine[device] = part, job._replace(part=name)
        return (replace(state, parts={**state.parts, **own}), mine) if own else (state, mine)


def one_part(method: Method, part: str) -> Tiers:
    """Every device trains the whole model; or ``part`` of it, where that is whole channels."""
    job = Job(part, bool(part))
    return Tiers(method, (part,), lambda device, room: job, lambda part, device, room: job)


def _same(one: Params, other: Params) -> bool:
    return one is other or (
        one.keys() == other.keys()
        and all(one[name] is other[name] or np.array_equal(one[name], other[name]) for name in one)
    )
