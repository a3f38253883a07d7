"""A fleet's server, in the foreground: the guarded SuperLink, with every enrolled device registered."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from fedprune.deployment import flower
from fedprune.deployment.devices import expel, known, register
from fedprune.deployment.fleet_folder import LINK, Fleet, FleetError, flower_home
from fedprune.deployment.logs import Log
from fedprune.deployment.processes import child, show, stoppable
from fedprune.deployment.runs import list_runs

_STARTS_S = 90.0


def start(fleet: Fleet, say: Callable[[str], None]) -> int:
    """Serve until SIGINT or SIGTERM; the exit code. ``say`` gets every line of the log.

    FleetError where the port is taken, or where the SuperLink does not come up.
    """
    if fleet.listens():
        raise FleetError(f"{fleet.path}/config.toml: port {fleet.port} is in use; is the server running already?")
    command = [sys.executable, "-m", "fedprune.deployment.superlink", *flower.superlink(fleet)[1:]]
    log, since = Log(fleet.path / "logs" / "server.jsonl", say), datetime.now(UTC)
    log.said("start", f"starting the server of the fleet {fleet.path.name}")
    try:
        with stoppable(), child(command, flower.environment(flower_home(fleet)), fleet.path) as process:
            shown = show(process, log.flower)
            _wait(fleet, process)
            with _going_on(log):
                _keys(fleet, log)
            with _going_on(log):
                _cut_off(fleet, log, since)
            log.said("ready", f"the fleet {fleet.path.name} is ready at {fleet.address}")
            code = process.wait()
            shown.join(1)
            raise FleetError(f"{fleet.path}: the SuperLink ended by itself (exit code {code}); see logs/server.jsonl")
    except KeyboardInterrupt:
        log.said("stop", "stopped")
        return 0
    except FleetError as error:
        log.write("ERROR", "exit", str(error))
        raise


@contextmanager
def _going_on(log: Log) -> Iterator[None]:
    """A FleetError is said, and no more: what else there is to do can do without."""
    try:
        yield
    except FleetError as error:
        log.said("register", str(error), "ERROR")


def _keys(fleet: Fleet, log: Log) -> None:
    """Let in the devices that are enrolled, and nobody else."""
    nodes = known(fleet)  # a command of Flower's, seconds of a core
    with _going_on(log):
        for node in expel(fleet, nodes):
            log.said("expel", f"node {node} is taken out: its device is not enrolled any more")
    done, wrong = register(fleet, nodes)
    for name in done:
        log.said("register", f"device {name} is registered", device=name)
    for name, why in wrong.items():  # the other devices can do without this one
        log.said("register", f"device {name} is not let in: {why}; revoke it and enrol it again", "ERROR", device=name)


def _cut_off(fleet: Fleet, log: Log, since: datetime) -> None:
    """End runs of a server that is gone, which Flower would hold for running for minutes."""
    for run in list_runs(fleet):
        # one that was submitted to this server since it listens is not cut off
        if not run["status"].startswith("finished") and _utc(str(run.get("pending-at", ""))) < since:
            flower.ask(fleet, ["flwr", "stop", run["run-id"], LINK])
            log.said("cut off", f"run {run['run-id']} was cut off; go on with: fedprune resume, and its folder")


def _utc(text: str) -> datetime:
    """A time as Flower writes it, to the second; one that is none is long ago."""
    try:
        return datetime.strptime(text, "%Y-%m-%d %H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)


def _wait(fleet: Fleet, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + _STARTS_S
    while not fleet.listens():
        if process.poll() is not None or time.monotonic() > until:
            raise FleetError(f"{fleet.path}: the SuperLink does not start; see its last lines above")
        time.sleep(0.2)
