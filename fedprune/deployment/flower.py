"""Flower's own commands: their environment, how each is written out, and what they answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedprune.deployment.fleet_folder import LINK, Fleet, FleetError, flower_home

_BIN = Path(sys.executable).parent
_PATIENCE_S = 60


def environment(home: Path) -> dict[str, str]:
    """What Flower's processes are given: this installation's programs first, FLWR_HOME, and no talk to the outside."""
    return {
        **os.environ,
        "PATH": f"{_BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }


def superlink(fleet: Fleet) -> list[str]:
    """The command that is this fleet's server."""
    return [
        "flower-superlink", "--host", fleet.listen, "--port", str(fleet.port),
        "--ssl-ca-certfile", str(fleet.path / "ca.crt"), "--ssl-certfile", str(fleet.path / "server.crt"),
        "--ssl-keyfile", str(fleet.path / "server.key"), "--enable-supernode-auth",
        "--database", str(fleet.path / fleet.database), "--disable-runtime-dependency-installation",
    ]  # fmt: skip


def register(public_key: Path, name: str) -> list[str]:
    """The command that lets a device in."""
    return ["flwr", "supernode", "register", str(public_key), LINK, "--name", name]


def run(fleet: Fleet, config: Path) -> list[str]:
    """The command that submits a run, whose run-config is a TOML file."""
    return ["flwr", "run", str(fleet.app), LINK, "--run-config", str(config)]


def supernode(address: str, folder: Path, node_config: str, port: int) -> list[str]:
    """The command that is a device, whose keys lie in ``folder``."""
    return [
        "flower-supernode", "--superlink", address, "--root-certificates", str(folder / "ca.crt"),
        "--auth-supernode-private-key", str(folder / "device.key"), "--port", str(port), "--node-config", node_config,
    ]  # fmt: skip


def ask(fleet: Fleet, command: Sequence[str]) -> dict[str, Any]:
    """The JSON that one of Flower's commands answers. FleetError with its last line where it fails."""
    home = flower_home(fleet)
    try:
        done = subprocess.run(
            [str(_BIN / command[0]), *command[1:], "--format", "json"],
            env=environment(home), cwd=home, capture_output=True, text=True, timeout=_PATIENCE_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise FleetError(f"{fleet.path}: the server does not answer: {' '.join(command[:3])}") from None
    start = done.stdout.find("{")  # whatever Flower says before it
    try:
        answer: dict[str, Any] = json.loads(done.stdout[start:]) if start >= 0 else {}
    except json.JSONDecodeError:
        answer = {}
    if not answer.get("success"):
        said = answer.get("error-message") or done.stderr or done.stdout
        lines = [line for line in str(said).splitlines() if line.strip(" │╭╮╰╯─")]
        why = lines[-1].strip(" │") if lines else f"exit code {done.returncode}"
        raise FleetError(f"{fleet.path}: {' '.join(command[:3])}: {why}")
    return answer
