"""Experiments of the made-up tasks, and their rounds without an export."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from fedprune.experiment import Experiment, parse
from fedprune.federated.link import engines
from fedprune.federated.rounds.asking import Asking
from fedprune.runs import over_flower
from fedprune.runs.drive import rounds
from fedprune.runs.folder import RunFolder
from fedprune.runs.setting import prepare

HERE = functools.partial(engines.local, workers=1)
"""In this process, which has loaded torch."""


def asked(of: str, net: str, task: str, **more: Any) -> Experiment:
    """An experiment on data and with a net of `task_world`, with ``more`` keys in the place of its own."""
    table = {
        "name": of,
        "model": f"task_world:{net}",
        "task": task,
        "rounds": 2,
        "data": {"name": f"task_world:{of}", "devices": 3, "partition": "iid", "public": 0.1},
        "training": {"batch": 16, "learning_rate": 0.1, "epochs": 2},
        "pretraining": {"epochs": 4},
        "method": {"name": "fedtiny", "density": 0.5, "pool": 2},
    }
    return parse({**table, **more}, "test")


def trained(experiment: Experiment, out: Path) -> list[dict[str, Any]]:
    """Lines of metrics of the rounds alone, over devices, before anything is exported."""
    setting, told = prepare(experiment, "test"), list[dict[str, Any]]()

    def serve(grid: Grid) -> None:
        link: Asking = over_flower.link(grid, experiment, told.append, None, setting.holds, setting.more())
        folder = RunFolder(out)
        with folder.held():
            folder.begin(experiment)
            rounds(link, setting, folder, None, told.append)

    HERE(len(setting.holds), None, serve)
    return told
