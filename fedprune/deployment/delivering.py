"""Bringing a run's models to a fleet's devices, from the side of the server's app: ask them, and keep what they say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from flwr.serverapp import Grid
from msgspec.structs import replace

from fedprune.deployment.deploying import DEPLOYED, PLAN, ROWS, Target, file
from fedprune.deployment.device.deploy import deploy
from fedprune.deployment.device.models import name
from fedprune.deployment.fleet_files import delivered
from fedprune.federated.link.asking import Link
from fedprune.federated.rounds.fleet import Fleet
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.files import write_atomically
from fedprune.runs.folder import RunFolder
from fedprune.tasks import named
from fedprune.types import DeviceId

_LIMIT_S = 1800.0  # where the experiment says none: over a real link a message can be lost
_UNKNOWN = {
    "used": False, "accuracy": None, "accuracy_before": None, "latency_ms": None, "memory_bytes": None, "in_use": None,
}  # fmt: skip


def deliver(grid: Grid, run: Path, out: Path, tell: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """Bring every device of ``out``'s plan that is connected its model; a row for each device, also those that are not.

    The rows go to ``out``, to the run's folder, and to the one of the fleet, of which ``out`` is a part.
    """
    with (folder := RunFolder(run)).held():
        return _delivered(grid, folder, out, tell)


def _delivered(
    grid: Grid, folder: RunFolder, out: Path, tell: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    run, experiment = folder.path, folder.experiment()
    own = experiment.data.partition == "own"
    if own and (agreed := folder.agreed()) is not None:
        experiment = replace(experiment, data=agreed.settings)
    targets = msgspec.json.decode((out / PLAN).read_bytes(), type=list[Target])
    models = {tier: file(run, tier).read_bytes() for tier in dict.fromkeys(target.tier for target in targets)}
    # The SuperLink let each node in by its key: so who is who need not be asked, and those not meant are left alone.
    there = set(grid.get_node_ids())
    asked: dict[DeviceId, Target] = {
        t.name if own else t.partition: t for t in targets if t.node is not None and int(t.node) in there
    }
    answers: dict[DeviceId, dict[str, Any]] = {}
    faults = {}
    if asked:
        fleet = Fleet({index: int(target.node or 0) for index, target in asked.items()}, ())
        jobs: dict[DeviceId, Job] = {index: Job(part=target.tier) for index, target in asked.items()}
        link = Link(grid, experiment, first_limit_s=_LIMIT_S)
        step = link.ask(
            deploy(models, experiment.name, named(experiment.task)), State(0, {}), fleet, jobs, 0, least=0.0
        )
        tell(step.row)
        answers, faults = step.answer or {}, step.row["faults"]
    when = datetime.now(UTC).isoformat(timespec="seconds")
    made = []
    for target in targets:
        device = target.name if own else target.partition
        said, model = answers.get(device), models[target.tier]
        why = "not connected" if device not in asked else faults.get(str(device), "no reply")
        made.append(
            {
                "name": target.name,
                "partition": target.partition,
                "node": target.node,
                "tier": target.tier,
                "sha256": name(model),
                "bytes": len(model),
                "answered": said is not None,
                **(said or {**_UNKNOWN, "reason": why}),
                "run": experiment.name,
                "time": when,
            }
        )
    _write(run / DEPLOYED, _newest(delivered(run / DEPLOYED), made))
    _write(out.parent / DEPLOYED, _newest(delivered(out.parent / DEPLOYED), [row for row in made if row["answered"]]))
    _write(out / ROWS, made)
    return made


def _newest(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A row a device: the new one, unless it did not answer now and did before."""
    found = {row["name"]: row for row in before}
    for row in now:
        if row["answered"] or not found.get(row["name"], {}).get("answered"):
            found[row["name"]] = row
    return sorted(found.values(), key=lambda row: (row["partition"], row["name"]))


def _write(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    write_atomically(path, (json.dumps(table, indent=2) + "\n").encode())
