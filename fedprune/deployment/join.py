"""On a device: unpack a join file, keep a SuperNode running, or hand that to systemd."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fedprune.deployment import flower, texts
from fedprune.deployment.devices import Join
from fedprune.deployment.fleet_folder import FleetError, write_private
from fedprune.deployment.processes import child, show, stoppable

_PAUSE_S = 10.0
_KNOWN_PAUSE_S = 60.0  # so long Flower holds a node that was killed for alive, and refuses its key


def unpack(join: Join, source: Path) -> Path:
    """~/.fedprune/NAME with the device's key, its fleet's certificate and its join file; what was there is replaced."""
    folder = Path.home() / ".fedprune" / join.name
    content = source.read_bytes()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "flwr").mkdir(mode=0o700, exist_ok=True)
    write_private(folder / "device.key", join.key.encode())
    (folder / "ca.crt").write_text(join.ca)
    write_private(folder / f"{join.name}.join", content)
    return folder


def node_config(join: Join, data: Path | None) -> str:
    """What the device's app reads about its device, as Flower wants it written."""
    words = [f"partition-id={join.partition}"]
    if data is not None:
        path = str(data.absolute())
        if not data.is_dir():
            raise FleetError(f"--data {data}: no folder; give the one that holds this device's data sets")
        if set(path) & set("\"'\\\n"):
            raise FleetError(f"--data {data}: quotes and backslashes do not travel in Flower's settings; rename it")
        words.append(f'data-dir="{path}"')
    if join.memory_mb is not None:
        words.append(f"memory-mb={float(join.memory_mb)}")
    return " ".join(words)


def serve(join: Join, folder: Path, config: str, say: Callable[[str], None]) -> int:
    """Take part until SIGINT or SIGTERM; the exit code. A SuperNode that ends is started again after a pause."""
    with stoppable():
        try:
            while True:
                reason = _once(join, folder, config, say)
                pause = _KNOWN_PAUSE_S if reason else _PAUSE_S
                say(f"{reason or 'the SuperNode ended'}; once more in {pause:.0f} s")
                time.sleep(pause)
        except KeyboardInterrupt:
            say("stopped")
            return 0


def _once(join: Join, folder: Path, config: str, say: Callable[[str], None]) -> str:
    """Why the SuperNode could not connect, "" where it ended otherwise."""
    reason: list[str] = []

    def read(line: str) -> None:
        say(line)
        if "Exit Code: 305" in line:
            reason.append(f"{join.address} refuses this device: it holds it for online still, or does not know its key")

    command = flower.supernode(join.address, folder, config, _free_port())
    with child(command, flower.environment(folder / "flwr"), folder) as process:
        shown = show(process, read)
        process.wait()
        shown.join(1)
    return "".join(reason[:1])


def install_service(join: Join, folder: Path, data: Path | None) -> tuple[Path, list[str]]:
    """Write a systemd user unit that joins at every start of the device: (unit, commands that enable it)."""
    command = [str(Path(sys.executable).with_name("fedprune")), "join", str(folder / f"{join.name}.join")]
    if data is not None:
        command += ["--data", str(data.absolute())]
    unit = Path.home() / ".config" / "systemd" / "user" / f"fedprune-{join.name}.service"
    unit.parent.mkdir(parents=True, exist_ok=True)
    unit.write_text(texts.unit(f"fedprune device {join.name}", command, folder, pause_s=60))
    return unit, [
        "loginctl enable-linger",
        f"systemctl --user daemon-reload && systemctl --user enable --now {unit.stem}",
    ]


def _free_port() -> int:
    # Two devices of one machine, as in a test of a fleet, must not meet on Flower's default port.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
