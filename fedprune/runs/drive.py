"""The server's app: takes an experiment from its first model to its last round over whatever Grid it is given."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from flwr.serverapp import Grid

from fedprune.federated.link.asking import Link
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases.profile import sizes
from fedprune.federated.rounds.rounds import run
from fedprune.runs import shipping
from fedprune.runs.folder import RunFolder
from fedprune.runs.setting import Setting, pretrain

_RETURNS_S = 180.0  # a device that was cut off is let in again after about a minute, and has to start
_FIRST_LIMIT_S = 1800.0

Progress = Callable[[dict[str, Any]], None]
"""Called with each line of metrics, and with each epoch of pretraining."""


def drive(
    grid: Grid, setting: Setting, folder: RunFolder, state: State | None, progress: Progress, *, real: bool = False
) -> State:
    """Run to the last round, saving the state after every phase. ``state`` is what a resumed run goes on from.

    Over a ``real`` link messages cost seconds and can be lost: then there are deadlines, and fewer messages.
    """
    if state is None:
        state = pretrain(setting, progress)
        folder.save(state)
    link = Link(grid, setting.experiment, say=progress, gives=dict(enumerate(map(sizes, setting.federation.devices))))
    if real:
        link = link._replace(patience_s=_RETURNS_S, first_limit_s=_FIRST_LIMIT_S, together=True)
    shipped = functools.partial(shipping.shipped, setting) if setting.experiment.export.ranges == "devices" else None
    steps = run(link, setting.tiers(), len(setting.federation.devices), state, shipped)
    for step in steps:
        if step.row:
            folder.add(step.row)
        folder.save(step.state)
        if step.row:
            progress(step.row)
        state = step.state
    return state
