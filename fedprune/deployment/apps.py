"""The app of a fleet's server: what it runs for a run; what a device runs for a message is in device/app."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid

from fedprune.deployment.delivering import deliver
from fedprune.deployment.devices import enrolled
from fedprune.deployment.fleet_folder import open_fleet
from fedprune.deployment.watching import Watched
from fedprune.experiment import ExperimentError, load
from fedprune.federated.link.engines import server_app
from fedprune.federated.rounds.asking import RunStopped
from fedprune.runs.folder import why_not_written
from fedprune.runs.over_flower import Real
from fedprune.runs.run import simulate

PROGRESS, SEEN = "progress.jsonl", "devices.json"
"""In a run's folder: every line as it comes, the last says how it ended; and what each device did."""


def _main(grid: Grid, context: Context) -> None:
    config = context.run_config
    file, out, brought = Path(str(config["experiment"])), Path(str(config["out"])), str(config["deploy"])
    with (out / PROGRESS).open("a") as progress:

        def tell(row: dict[str, Any]) -> None:
            progress.write(json.dumps(row) + "\n")
            progress.flush()

        try:
            if brought:
                deliver(grid, Path(brought), out, tell)
            else:
                simulate(
                    load(file), out, source=str(file), data_dir=str(config["data-dir"]) or None,
                    engine=lambda devices, data_dir, drive: drive(Watched(grid, out / SEEN)),
                    resume=bool(config["resume"]), fresh=bool(config["fresh"]), progress=tell, real=_real(out),
                )  # fmt: skip
        except BaseException as error:
            # Flower's own record says that a run failed, but not why
            with suppress(OSError):  # the disk that is full may be this one
                tell({"ended": 2 if isinstance(error, ExperimentError) else 1, "why": _why(error, out)})
            raise
        tell({"ended": 0, "why": ""})


def _real(out: Path) -> Real:
    """What the fleet's folder, in which ``out`` lies, says of its devices' nodes, and of those that come later."""
    fleet = open_fleet(out.parents[1])

    def name_of(node: int) -> str | None:
        return next((device.name for device in enrolled(fleet) if device.node == str(node)), None)

    return Real(len(enrolled(fleet)), name_of)


def _why(error: BaseException, out: Path) -> str:
    if isinstance(error, OSError):
        return why_not_written(error, out)
    return str(error) if isinstance(error, ExperimentError | RunStopped) else f"{type(error).__name__}: {error}"


server = server_app(_main)
