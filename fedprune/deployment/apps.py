"""The apps that a fleet's runs consist of: what the server runs for a run, and what a device runs for a message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid

from fedprune.deployment.watching import Watched
from fedprune.experiment import ExperimentError, load
from fedprune.federated.client import client_app
from fedprune.federated.link import RunStopped
from fedprune.federated.server import server_app
from fedprune.federated.simulate import simulate

PROGRESS, SEEN = "progress.jsonl", "devices.json"
"""In a run's folder: every line as it comes, the last says how it ended; and what each device did."""


def _main(grid: Grid, context: Context) -> None:
    config = context.run_config
    file, out = Path(str(config["experiment"])), Path(str(config["out"]))
    with (out / PROGRESS).open("a") as progress:

        def tell(row: dict[str, Any]) -> None:
            progress.write(json.dumps(row) + "\n")
            progress.flush()

        try:
            experiment = load(file)
            simulate(
                experiment, out, source=str(file), data_dir=str(config["data-dir"]) or None,
                engine=lambda devices, data_dir, drive: drive(Watched(grid, out / SEEN)),
                resume=bool(config["resume"]), fresh=bool(config["fresh"]), progress=tell,
            )  # fmt: skip
        except BaseException as error:
            # Flower's own record says that a run failed, but not why
            code = 2 if isinstance(error, ExperimentError) else 1
            why = str(error) if isinstance(error, ExperimentError | RunStopped) else f"{type(error).__name__}: {error}"
            tell({"ended": code, "why": why})
            raise
        tell({"ended": 0, "why": ""})


server = server_app(_main)
client = client_app()
