"""What a device is asked to compute on: which part of the model, and how it keeps within its memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from fedprune.federated.rounds.model import State
from fedprune.graph import width
from fedprune.training.lean import Lean
from fedprune.types import Masks, Params


class Room(NamedTuple):
    """What a device's process may use, as it says itself."""

    memory_bytes: int
    compiled: bool = True
    """Whether it has the compiled trainer; without it torch trains, in more memory."""


class Job(NamedTuple):
    """A device's share of a phase; the default is the whole model, as one that no budget binds trains it."""

    part: str = ""
    """A part of the server's state; empty for the whole model."""
    structured: bool = False
    """Whether the part is whole channels, so that the device holds a physically narrower model."""
    inner: tuple[str, ...] = ()
    """Smaller parts that the device trains as well, the largest first."""
    inner_steps: int = 0
    """How many of them, after each step on its own part; 0 trains any of all of them, its own too, at each step."""
    lean: Lean = Lean()
    batch: int = 0
    """Most examples at a time where nothing is trained; 0 leaves it to the phase."""
    grow_batch: int = 0
    """Examples behind the gradients of pruned weights; 0 leaves them to the experiment."""
    needs_bytes: int = 0
    """Predicted peak of the device's process; 0 where no budget is known."""
    size: float = 0.0
    """Density or width at which the device builds its half of the method; 0 is what the experiment says."""
    share: float = 1.0
    """Of its examples, that a device trains on in a round; a slow one is given less."""

    def words(self) -> str:
        """The job in a few words, for people."""
        said = [self.part or "the whole model"]
        if self.lean.micro_batch:
            said.append(f"micro-batches of {self.lean.micro_batch}")
        if self.share < 1:
            said.append(f"1/{round(1 / self.share)} of its examples")
        said += ["blocks recomputed"] * self.lean.recompute + ["pruned weights not stored"] * self.lean.sparse
        return ", ".join(said)

    def to_values(self) -> dict[str, Any]:
        """For a message: what is not the default, so that a run without tiers pays nothing."""
        own = _others(self) | ({"lean": _others(self.lean)} if self.lean != Lean() else {})
        return {"job": own} if own else {}

    @staticmethod
    def of(values: Mapping[str, Any]) -> Job:
        """The job of ``to_values``. ValueError where it is none."""
        given = values.get("job", {})
        try:
            row = _row(Job, given)
            row[Job._fields.index("lean")] = _row(Lean, given.get("lean", {}))
            job = msgspec.convert(row, Job)
        except (msgspec.ValidationError, TypeError) as error:
            raise ValueError(f"not a job: {error}") from error
        sizes = (job.inner_steps, job.lean.micro_batch, job.batch, job.grow_batch, job.needs_bytes)
        if min(sizes) < 0 or max(sizes) >= 2**63 or not 0 < job.share <= 1 or not 0 <= job.size <= 1:
            raise ValueError("not a job: a number of it is out of bounds")
        return job


def _others(values: Job | Lean) -> dict[str, Any]:
    """Fields that are not the default."""
    return {key: value for key, value in values._asdict().items() if value != values._field_defaults[key]}


def _row(kind: type[Job] | type[Lean], table: Any) -> list[Any]:
    """A table's values in the order of the fields of ``kind``. TypeError where it is no such table."""
    if not isinstance(table, dict) or table.keys() - set(kind._fields):
        raise TypeError(f"expected a table of {', '.join(kind._fields)}")
    return [table.get(key, default) for key, default in kind._field_defaults.items()]


def held(state: State, job: Job) -> tuple[Params, Masks]:
    """(tensors, masks) as the job's device holds them: narrow and dense for whole channels, else sparse."""
    view = state.view(job.part)
    return (width.narrow(view.params, view.masks), {}) if job.structured else (view.params, view.masks)


def restored(state: State, job: Job, params: Params) -> Params:
    """What a device sent back for ``held``, in the server's shapes; positions that it does not own are 0."""
    if not job.structured:
        return params
    like = {name: state.params[name] for name in params}
    return width.embed(params, like, state.parts[job.part].masks)
