"""The server's side of a run over Flower: a Link to the experiment's devices, over whatever Grid it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from flwr.serverapp import Grid

from fedprune.experiment import Experiment
from fedprune.federated.link.asking import Link
from fedprune.runs.drive import Progress
from fedprune.types import DeviceId

_RETURNS_S = 180.0  # a device that was cut off is let in again after about a minute, and has to start
_FIRST_LIMIT_S = 1800.0


class Real(NamedTuple):
    """That messages travel over a real link, where they cost seconds and can be lost; and what is known of it."""

    devices: int = 0
    """How many with their own data to wait for, where the experiment does not say."""
    name_of: Callable[[int], str | None] = lambda node: None
    """Node -> the name that its key belongs to."""


def link(
    grid: Grid,
    experiment: Experiment,
    progress: Progress,
    real: Real | None = None,
    gives: Mapping[DeviceId, Mapping[str, int]] = MappingProxyType({}),
    more: Mapping[str, str] = MappingProxyType({}),
) -> Link:
    """A Link over a grid, to devices that hold what ``gives`` says; every request carries ``more``.

    Over a real one there are deadlines, and fewer messages.
    """
    found = Link(grid, experiment, say=progress, gives=gives, more=more)
    if real is None:
        own = experiment.data.partition == "own"
        return found._replace(wanted=len(list(grid.get_node_ids()))) if own else found
    return found._replace(
        patience_s=_RETURNS_S, first_limit_s=_FIRST_LIMIT_S, together=True, wanted=real.devices, name_of=real.name_of
    )
