"""The server's side of a run: takes an experiment from its first model to its last round, whoever holds the data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from fedprune.federated.rounds.asking import Asking
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.rounds import run
from fedprune.runs import shipping
from fedprune.runs.folder import RunFolder
from fedprune.runs.setting import Setting, pretrain

Progress = Callable[[dict[str, Any]], None]
"""Called with each line of metrics, and with each epoch of pretraining."""


def drive(asking: Asking, setting: Setting, folder: RunFolder, state: State | None, progress: Progress) -> State:
    """Run to the last round, saving the state after every phase. ``state`` is what a resumed run goes on from."""
    if state is None:
        state = pretrain(setting, progress)
        folder.save(state)
    shipped = functools.partial(shipping.shipped, setting) if setting.experiment.export.ranges == "devices" else None
    for step in run(asking, setting.tiers(), len(setting.federation.devices), state, shipped):
        if step.row:
            folder.add(step.row)
        folder.save(step.state)
        if step.row:
            progress(step.row)
        state = step.state
    return state
