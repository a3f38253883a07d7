"""A fleet's server, in the foreground: the guarded SuperLink, with every enrolled device registered."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from fedprune.deployment import flower
from fedprune.deployment.devices import register
from fedprune.deployment.fleet_folder import Fleet, FleetError, flower_home
from fedprune.deployment.processes import child, show, stoppable

_STARTS_S = 90.0


def start(fleet: Fleet, say: Callable[[str], None]) -> int:
    """Serve until SIGINT or SIGTERM; the exit code. ``say`` gets every line of the log.

    FleetError where the port is taken, or where the SuperLink does not come up.
    """
    if fleet.listens():
        raise FleetError(f"{fleet.path}/config.toml: port {fleet.port} is in use; is the server running already?")
    command = [sys.executable, "-m", "fedprune.deployment.superlink", *flower.superlink(fleet)[1:]]
    try:
        with stoppable(), child(command, flower.environment(flower_home(fleet)), fleet.path) as process:
            shown = show(process, say)
            _wait(fleet, process)
            try:
                for name in register(fleet):
                    say(f"device {name} is registered")
            except FleetError as error:  # the other devices can do without this one
                say(str(error))
            say(f"the fleet {fleet.path.name} is ready at {fleet.address}")
            code = process.wait()
            shown.join(1)
            raise FleetError(f"{fleet.path}: the SuperLink ended by itself (exit code {code}); see logs/superlink.log")
    except KeyboardInterrupt:
        say("stopped")
        return 0


def _wait(fleet: Fleet, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + _STARTS_S
    while not fleet.listens():
        if process.poll() is not None or time.monotonic() > until:
            raise FleetError(f"{fleet.path}: the SuperLink does not start; see its last lines above")
        time.sleep(0.2)
