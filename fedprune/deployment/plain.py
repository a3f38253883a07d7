"""A fleet in Flower's own commands, for who would rather run those."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from fedprune.deployment import flower
from fedprune.deployment.devices import enrolled
from fedprune.deployment.fleet_folder import Fleet, flower_home


def commands(fleet: Fleet) -> str:
    """A shell script's text: server, registration, a run, a device.

    The plain flower-superlink serves runs and administration to whoever reaches its port: the text says so.
    """
    home = flower_home(fleet)
    lines = [
        "# flower-superlink lets whoever reaches its port submit code to the fleet: fedprune server start guards that.",
        f"export FLWR_HOME={shlex.quote(str(home))} FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1",
        "export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1",
        _line(flower.superlink(fleet)),
        *(_line(flower.register(fleet.devices / f"{one.name}.pub", one.name)) for one in enrolled(fleet)),
        _line(flower.run(fleet, fleet.runs / "NAME" / "run_config.toml")),
        "# on a device, in ~/.fedprune/NAME, with FLWR_HOME=~/.fedprune/NAME/flwr:",
        _line(flower.supernode(fleet.address, Path(), 'partition-id=0 name="NAME" data-dir="DIR"', 9094)),
    ]
    return "\n".join(lines)


def _line(words: Sequence[str]) -> str:
    return shlex.join(words)
