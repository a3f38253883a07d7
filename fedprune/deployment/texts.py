"""Texts of a fleet's files: settings, the app's page for Flower, systemd units, a readme."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from fedprune import __version__


def config(hosts: Sequence[str], port: int, listen: str, database: str) -> str:
    """config.toml of a fleet."""
    return f"""\
# What devices call this server; new join files carry the first. The certificate holds for these names alone.
hosts = {json.dumps(list(hosts))}
port = {port}
# 0.0.0.0: every address of this machine.
listen = {json.dumps(listen)}
database = {json.dumps(database)}
"""


def flower_config(link: str, address: str, ca: Path) -> str:
    """config.toml of a FLWR_HOME with one SuperLink."""
    return f"""\
[superlink]
default = "{link}"

[superlink.{link}]
address = "{address}"
root-certificates = {json.dumps(str(ca))}
"""


def app() -> str:
    """pyproject.toml of the app that is submitted: the code itself is the installed package, on both sides."""
    return f"""\
[project]
name = "fedprune-fleet"
version = "{__version__}"
dependencies = []

[tool.flwr.app]
publisher = "fedprune"

[tool.flwr.app.components]
serverapp = "fedprune.deployment.apps:server"
clientapp = "fedprune.deployment.device.app:client"

[tool.flwr.app.config]
experiment = ""
out = ""
data-dir = ""
resume = false
fresh = false
deploy = ""
"""


def unit(description: str, command: Sequence[str], folder: Path, *, pause_s: int = 10) -> str:
    """A systemd user unit that keeps ``command`` running in ``folder``, with the PYTHONPATH that there is now."""
    return f"""\
[Unit]
Description={_plain(description)}
After=network-online.target
Wants=network-online.target

[Service]
ExecStart={" ".join(_word(word) for word in command)}
WorkingDirectory={_plain(str(folder))}
{_python_path()}Restart=always
RestartSec={pause_s}
TimeoutStopSec=40

[Install]
WantedBy=default.target
"""


def _python_path() -> str:
    """What finds loaders and nets of one's own; a service runs elsewhere, where relative paths mean something else."""
    if not (given := os.environ.get("PYTHONPATH")):
        return ""
    path = os.pathsep.join(os.path.abspath(part) for part in given.split(os.pathsep))
    escaped = _plain(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'Environment="PYTHONPATH={escaped}"\n'


def readme(path: Path) -> str:
    """README.md of a fleet."""
    at = shlex.quote(str(path))
    service = shlex.quote(str(path / "fedprune-server.service"))
    lines = (
        "A fleet of fedprune: `*.key` and `devices/*.join` are secret, `state.db` is what the server remembers.",
        f"Start it with `fedprune server start {at}`, or for good: `systemctl --user enable --now {service}`.",
        f"Add a device with `fedprune server enrol {at} NAME`, run with `fedprune run FILE --fleet {at}`.",
        f"Bring a run's model to its devices with `fedprune deploy RUN --fleet {at}`; look at it all with "
        f"`fedprune status {at}`. Results are in `runs/`, logs in `logs/`.",
        f"The same in Flower's own commands: `fedprune server start {at} --print`.",
    )
    return "\n\n".join(lines) + "\n"


def _plain(text: str) -> str:
    return text.replace("%", "%%").replace("\n", " ")


def _word(word: str) -> str:
    escaped = _plain(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"' if set(word) & set(" \t'\"\\;") else escaped
