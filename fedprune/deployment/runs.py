"""Runs over a fleet: submit one to its SuperLink, follow it, and say how it really ended."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from fedprune import experiment as _experiment
from fedprune.deployment import flower
from fedprune.deployment.devices import Device, enrolled
from fedprune.deployment.fleet_folder import LINK, Fleet, FleetError, alone
from fedprune.experiment import Experiment
from fedprune.files import write_atomically
from fedprune.runs.folder import RunFolder

_PROGRESS = "progress.jsonl"  # written by apps, whose imports a command line need not wait for
NUMBER = "run_id"
"""In a run's folder: Flower's id of the run that wrote it last."""
_ASK_S = 60.0  # each question to Flower costs seconds of a core
_ENDS_S = 60.0
_LISTENS_S, _GONE_S = 2.0, 10.0  # one that is only busy listens again sooner
_LEAST_FREE = 2**16  # bytes of a disk; one with less is full


class ServerGone(FleetError):
    """The server of a run that is followed was killed, or stopped."""


def folder(fleet: Fleet, experiment: Experiment) -> Path:
    """Where the results of an experiment land."""
    return fleet.runs / experiment.name


def submit(
    fleet: Fleet, experiment: Experiment, source: str, *, data_dir: Path | None, resume: bool, fresh: bool
) -> str:
    """Start a run of ``experiment`` on the fleet's devices; Flower's run id.

    FleetError where no server runs, where another run is under way, where the fleet is not the experiment's, or where
    a run's results would be lost. Nothing is written then.
    """
    serving(fleet)
    _fits(experiment, source, enrolled(fleet))
    out = folder(fleet, experiment)
    kept = RunFolder(out)
    with alone(fleet):  # two that ask at once would both find the fleet idle
        idle(fleet)
        return _submitted(fleet, experiment, kept, data_dir, resume=resume, fresh=fresh)


def _submitted(
    fleet: Fleet, experiment: Experiment, kept: RunFolder, data_dir: Path | None, *, resume: bool, fresh: bool
) -> str:
    out = kept.path
    if kept.result.exists() and not (resume or fresh):
        raise FleetError(
            f"{out}: holds a finished run; add --fresh to run it again in its place, or keep it and name this one "
            "otherwise, e.g. with --set name=OTHER"
        )
    if kept.begun and not (resume or fresh):
        raise FleetError(f"{out}: holds an unfinished run; add --resume to go on with it, or --fresh to start over")
    if kept.begun and resume:
        kept.holds(experiment)
    asked = out / "experiment.toml"
    with kept.held():  # until the server's app takes it over
        write_atomically(asked, _experiment.to_toml(experiment).encode())
    data = str(data_dir.absolute()) if data_dir else ""
    return start(fleet, out, {"experiment": str(asked), "data-dir": data, "resume": resume, "fresh": fresh})


def for_all(experiment: Experiment, fleet: Fleet) -> Experiment:
    """The experiment; where its data goes by people, and it does not say how many devices share them, all enrolled."""
    data = experiment.data
    if data.partition != "natural" or data.devices or experiment.fleet:
        return experiment
    return replace(experiment, data=replace(data, devices=len(enrolled(fleet))))


def serving(fleet: Fleet) -> None:
    """FleetError where no server runs."""
    if not fleet.listens():
        raise FleetError(f"{fleet.path}: no server runs here; start it with: fedprune server start {fleet.path}")


def idle(fleet: Fleet) -> None:
    """FleetError where a run is under way."""
    for other in list_runs(fleet):
        if not other["status"].startswith("finished"):
            home = fleet.path / "flwr"
            raise FleetError(
                f"{fleet.path}: run {other['run-id']} is under way; wait for it (fedprune status names its results, "
                "fedprune watch shows them), or stop it with: "
                f"FLWR_HOME={home} flwr stop {other['run-id']} {LINK}"
            )


def start(fleet: Fleet, out: Path, settings: Mapping[str, str | bool]) -> str:
    """Submit a run of the fleet's app with these settings, which reports in the folder ``out``; Flower's run id."""
    config = out / "run_config.toml"
    settings = {**settings, "out": str(out)}
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    (out / _PROGRESS).write_bytes(b"")
    number = str(flower.ask(fleet, flower.run(fleet, config))["run-id"])
    (out / NUMBER).write_text(number)
    return number


def _fits(experiment: Experiment, source: str, devices: list[Device]) -> None:
    """FleetError where the experiment has devices that are not enrolled, or that are of another tier."""
    if not devices:
        raise FleetError(f"{source}: no device is enrolled; enrol each with: fedprune server enrol FLEET NAME")
    if experiment.data.partition == "own":
        return  # whoever is there takes part
    wanted = experiment.data.devices or 0
    missing = sorted(set(range(wanted)) - {device.partition for device in devices})
    if missing:
        raise FleetError(
            f"{source}: data.devices: the experiment has {wanted} devices, but none is enrolled for partition "
            f"{missing[0]}; enrol it" + (f", or use --set data.devices={missing[0]}" if missing[0] else "")
        )
    tiers = [name for name, tier in experiment.fleet.items() if tier.trains for _ in range(tier.devices)]
    for device in devices:
        if device.tier and device.partition < len(tiers) and tiers[device.partition] != device.tier:
            raise FleetError(
                f"{source}: fleet: device {device.partition} is of tier {tiers[device.partition]}, but "
                f"{device.name} is enrolled as {device.tier}; enrol devices in the order of the tiers"
            )


def follow(
    fleet: Fleet, run: str, out: Path, show: Callable[[Mapping[str, Any]], None], proof: str = "result.json"
) -> tuple[int, str]:
    """Show each line of a run until it ends: (exit code, why).

    0 only where Flower and the app both say so, and ``proof``, the file that the run writes last, is there.
    ServerGone where nothing listens there any more.
    """
    position, ended = 0, None
    asked = heard = looked = time.monotonic()
    while ended is None:
        rows, position = _new_rows(out / _PROGRESS, position)
        for row in rows:
            if "ended" in row:
                ended = int(row["ended"]), str(row["why"])
            else:
                show(row)
        if not rows:
            time.sleep(0.3)
        if rows:
            heard = time.monotonic()
        elif time.monotonic() - looked > _LISTENS_S:
            looked = time.monotonic()
            if fleet.listens():
                heard = looked
            elif looked - heard > _GONE_S:
                raise _gone(fleet)
        if ended is None and time.monotonic() - asked > _ASK_S:
            asked = time.monotonic()
            status, details = _status(fleet, run)
            if status.startswith("finished") and not _new_rows(out / _PROGRESS, position)[0]:
                if shutil.disk_usage(out).free < _LEAST_FREE:  # then it could not write why
                    return 1, f"{out}: the disk is full; make room"
                return 1, f"run {run} is {status} by Flower's account, without a word of the app: {details}"
    until = time.monotonic() + _ENDS_S
    time.sleep(2)  # the app ends, then Flower takes note
    while not (status := _status(fleet, run)[0]).startswith("finished") and time.monotonic() < until:
        time.sleep(1)
    if ended[0] == 0 and (status != "finished:completed" or not (out / proof).exists()):
        return 1, f"run {run} is {status} by Flower's account"
    return ended


def list_runs(fleet: Fleet) -> list[dict[str, Any]]:
    """Flower's account of all runs, the newest first."""
    found: list[dict[str, Any]] = flower.ask(fleet, ["flwr", "ls", LINK])["runs"]
    return found


def _gone(fleet: Fleet) -> ServerGone:
    at = shlex.quote(str(fleet.path))
    return ServerGone(f"{fleet.path}: the server is gone; start it again with: fedprune server start {at}")


def _status(fleet: Fleet, run: str) -> tuple[str, str]:
    try:
        row = flower.ask(fleet, ["flwr", "ls", LINK, "--run-id", run])["runs"][0]
    except FleetError as error:
        raise error if fleet.listens() else _gone(fleet) from error
    return str(row["status"]), str(row.get("details") or row.get("status-details") or "")


def _new_rows(file: Path, position: int) -> tuple[list[dict[str, Any]], int]:
    """Whole lines from a byte position on, and where they end."""
    with file.open("rb") as lines:
        lines.seek(position)
        whole, _, _ = lines.read().rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()], position + len(whole) + bool(whole)
