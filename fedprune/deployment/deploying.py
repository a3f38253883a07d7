"""Bringing a run's models to a fleet's devices, from the side of the command line: who gets which, what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fedprune.deployment import runs
from fedprune.deployment.devices import Device, enrolled
from fedprune.deployment.fleet_folder import Fleet, FleetError
from fedprune.experiment import Experiment
from fedprune.federated.rounds.naming import ordered
from fedprune.runs.folder import RunFolder
from fedprune.runs.planning import members_of
from fedprune.tasks import metric_in, value_in
from fedprune.types import DeviceId

PLAN, ROWS = "plan.json", "rows.json"
"""In the folder of a deployment: who gets what, and a row a device of how it went, written last."""
DEPLOYED = "deployed.json"
"""In a run's folder: the last row of each device. In a fleet's: that of the last model that reached it."""
_MODEL = "model.tflite"


class Target(msgspec.Struct, frozen=True):
    """A device that is to get a model."""

    name: str
    partition: int
    tier: str
    """Whose model it gets; empty for that of the whole run."""
    node: str | None
    """Flower's node id; None where the server has not registered it yet."""


def folder(fleet: Fleet) -> Path:
    """Where a deployment reports; there is one at a time."""
    return fleet.path / "deploy"


def file(run: Path, tier: str) -> Path:
    """The model of a tier of a run."""
    return run / "tiers" / tier / _MODEL if tier else run / _MODEL


def targets(fleet: Fleet, run: Path, names: Sequence[str] = ()) -> list[Target]:
    """The enrolled devices that are part of a run which has ended, or those of them with these ``names``.

    ExperimentError where the run has not ended, where a name is unknown, or where a device has no model there.
    """
    found = RunFolder(run)
    result, experiment = found.read_result(), found.experiment()
    devices = enrolled(fleet)
    if unknown := [name for name in names if name not in {device.name for device in devices}]:
        raise FleetError(f"--device {unknown[0]}: not enrolled in {fleet.path}; see fedprune status {fleet.path}")
    own, count = experiment.data.partition == "own", int(result["devices"])
    chosen = [each for each in devices if (each.name in names if names else own or each.partition < count)]
    if not chosen:
        raise FleetError(f"{fleet.path}: no device is enrolled for the {count} of {run}; enrol one")
    for device in chosen:
        if device.partition >= count and not own:
            raise FleetError(
                f"--device {device.name}: has partition {device.partition}, but the devices of {run} count from 0 to "
                f"{count - 1}: none of its data is this device's"
            )
    agreed = found.agreed() if own else None
    said = members_of(experiment.fleet, ordered(agreed.holds), agreed.tiers) if agreed and experiment.fleet else {}
    made = [Target(each.name, each.partition, _tier(each, experiment, run, said), each.node) for each in chosen]
    for target in made:
        if not (path := file(run, target.tier)).is_file():
            raise FleetError(f"{path}: missing; write it again with: fedprune export {run} --to litert")
    return made


def _tier(device: Device, experiment: Experiment, run: Path, said: Mapping[DeviceId, str]) -> str:
    """Tier of a run that a device belongs in: the one that its owner says, else the one that its place gives."""
    if not experiment.fleet:
        return ""
    if experiment.data.partition == "own":
        last = [name for name, tier in experiment.fleet.items() if tier.trains][-1]
        return said.get(device.name, device.tier if device.tier in experiment.fleet else last)
    if device.tier is None:
        places = [name for name, tier in experiment.fleet.items() if tier.trains for _ in range(tier.devices)]
        return places[device.partition]
    if device.tier not in experiment.fleet:
        raise FleetError(
            f"{run}: has the tiers {', '.join(experiment.fleet)}, but {device.name} is enrolled as {device.tier}; "
            "name the other devices with --device"
        )
    return device.tier


def submit(fleet: Fleet, run: Path, to: Sequence[Target]) -> str:
    """Start bringing them their models; Flower's run id.

    ExperimentError without a server, while a run is under way, or while the run's folder is in use.
    """
    runs.serving(fleet)
    runs.idle(fleet)
    out = folder(fleet)
    out.mkdir(mode=0o700, exist_ok=True)
    (out / ROWS).unlink(missing_ok=True)
    with RunFolder(run).held():  # until the server's app takes it over
        (out / PLAN).write_bytes(msgspec.json.encode(to))
    return runs.start(fleet, out, {"deploy": str(run.absolute())})


def model_in_use(row: Mapping[str, Any] | None) -> str:
    """Run, first letters of the SHA-256, and how it does on the device's own test part; empty where that is unknown."""
    found = (row or {}).get("in_use")
    if not found:
        return ""
    return f"{found['run'] or '?'} {found['sha256'][:8]} {judged(found)}"


def judged(table: Mapping[str, Any], end: str = "") -> str:
    """An accuracy or what else a model is judged by, for people; a dash where there is none."""
    value = value_in(table, end)
    return "-" if value is None else metric_in(table).text(value, 1)
