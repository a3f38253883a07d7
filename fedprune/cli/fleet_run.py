"""A fleet's run as ``fedprune watch`` shows it: devices by name, what its server said last, and before it has begun."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedprune.cli.device_names import Names, of_fleet
from fedprune.experiment import Experiment, ExperimentError, load

_WAITING = "Submitted: the server's app starts, and waits for devices."


class FleetRun(NamedTuple):
    """The folder of a run, FLEET/runs/NAME, and what the fleet's devices are called."""

    path: Path
    names: Names

    def told(self, picture: Mapping[str, Any], experiment: Experiment | None) -> dict[str, Any]:
        """The picture of the run with devices' names in it, and with what was said since its last line."""
        found = dict(picture)
        if experiment is None and (asked := self._asked()) is not None:
            found |= {"name": asked.name, "rounds_asked": asked.rounds, "said": _WAITING}
        if found["state"] != "finished" and (notice := self._notice()):
            found["said"] = f"{found['said']} Last: {notice}"
        nodes = self.names.nodes
        why = {nodes[node]: said for node, said in found["strangers"].items() if node in nodes}
        found["devices"] = [self._named(line, why) for line in found["devices"]]
        found["strangers"] = {
            f"{node} ({nodes[node]})" if node in nodes else node: said for node, said in found["strangers"].items()
        }
        return found

    def _named(self, line: Mapping[str, Any], why: Mapping[str, str]) -> dict[str, Any]:
        called = self.names.devices.get(line["device"], line["device"])
        failing = line["away"] == "absent" and str(called) in why  # it is there, and cannot say who it is
        return {**line, "device": called, **({"away_why": why[str(called)]} if failing else {})}

    def _asked(self) -> Experiment | None:
        try:
            return load(self.path / "experiment.toml")
        except ExperimentError:
            return None

    def _notice(self) -> str:
        """The last line of what the server's app tells, where it is a notice; a phase that is done makes it old."""
        try:
            lines = (self.path / "progress.jsonl").read_bytes().splitlines()
            last = json.loads(lines[-1]) if lines else {}
        except (OSError, ValueError, RecursionError):
            return ""
        said = last.get("notice") if isinstance(last, dict) else None
        return said if isinstance(said, str) else ""


def opened(run: Path) -> FleetRun | None:
    """The run of a fleet that a folder is; None where it is another."""
    from fedprune.cli.fleet import of_fleet as belongs
    from fedprune.deployment.fleet_folder import FleetError, open_fleet

    if not belongs(run):
        return None
    try:
        return FleetRun(run, of_fleet(open_fleet(run.absolute().parents[1])))
    except FleetError:
        return FleetRun(run, Names())
