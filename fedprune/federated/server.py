"""The server's app: takes an experiment from its first model to its last round over whatever Grid it is given."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedprune.federated import finished
from fedprune.federated.folder import RunFolder
from fedprune.federated.link import Link
from fedprune.federated.setting import Setting, pretrain
from fedprune.federated.state import State
from fedprune.federated.strategy import run

Progress = Callable[[dict[str, Any]], None]
"""Called with each line of metrics, and with each epoch of pretraining."""


def drive(grid: Grid, setting: Setting, folder: RunFolder, state: State | None, progress: Progress) -> State:
    """Run to the last round, saving every complete one. ``state`` is what a resumed run goes on from."""
    if state is None:
        state = pretrain(setting, progress)
    link = Link(grid, setting.experiment)
    shipped = functools.partial(finished.shipped, setting) if setting.experiment.export.ranges == "devices" else None
    steps = run(link, setting.tiers(), list(setting.layers), len(setting.federation.devices), state, shipped)
    for step in steps:
        if step.row:
            folder.add(step.row)
            progress(step.row)
        if step.complete:
            folder.save(step.state)
        state = step.state
    return state


def server_app(main: Callable[[Grid, Context], None]) -> ServerApp:
    """A ServerApp around a function."""
    app = ServerApp()
    app.main()(main)
    return app
