"""A fleet's server, in the foreground: the guarded SuperLink, with every enrolled device registered."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

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
    log = Log(fleet.path / "logs" / "server.jsonl", say)
    log.said("start", f"starting the server of the fleet {fleet.path.name}")
    try:
        with stoppable(), child(command, flower.environment(flower_home(fleet)), fleet.path) as process:
            shown = show(process, log.flower)
            _wait(fleet, process)
            try:
                nodes = known(fleet)
                for node in expel(fleet, nodes):
                    log.said("expel", f"node {node} is taken out: its device is not enrolled any more")
                for name in register(fleet, nodes):
                    log.said("register", f"device {name} is registered", device=name)
                for run in _cut_off(fleet):
                    log.said("cut off", f"run {run} was cut off; go on with it with: fedprune run ... --resume")
            except FleetError as error:  # the other devices can do without this one
                log.said("register", str(error), "ERROR")
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


def _cut_off(fleet: Fleet) -> list[str]:
    """End runs of a server that is gone, which Flower would hold for running for minutes; their numbers."""
    found = [run["run-id"] for run in list_runs(fleet) if not run["status"].startswith("finished")]
    for run in found:
        flower.ask(fleet, ["flwr", "stop", run, LINK])
    return found


def _wait(fleet: Fleet, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + _STARTS_S
    while not fleet.listens():
        if process.poll() is not None or time.monotonic() > until:
            raise FleetError(f"{fleet.path}: the SuperLink does not start; see its last lines above")
        time.sleep(0.2)
