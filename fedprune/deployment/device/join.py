"""On a device: unpack a join file, keep a SuperNode running, or hand that to systemd."""

from __future__ import annotations

import itertools
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fedprune.deployment import flower, texts
from fedprune.deployment.device import hints
from fedprune.deployment.devices import Join
from fedprune.deployment.fleet_folder import FleetError, write_private
from fedprune.deployment.logs import Log, Work
from fedprune.deployment.processes import child, show, stoppable

_PAUSE_S = 10.0
_UNSPEAKABLE = set("\"'\\\n")
_KNOWN_PAUSE_S = 15.0  # Flower holds a node that was killed for alive for a minute, and refuses its key so long
_FEW, _OFTEN = 3, 10  # failures to connect after which the reason is looked for, the first time and again


def unpack(join: Join, source: Path) -> Path:
    """~/.fedprune/NAME with the device's key, its fleet's certificate and its join file; what was there is replaced."""
    folder = Path.home() / ".fedprune" / join.name
    content = source.read_bytes()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "flwr").mkdir(mode=0o700, exist_ok=True)
    write_private(folder / "device.key", join.key.encode())
    write_private(folder / "ca.crt", join.ca.encode())
    write_private(folder / f"{join.name}.join", content)
    return folder


def node_config(join: Join, data: Path | None) -> str:
    """What the device's app reads about its device, as Flower wants it written."""
    words = [f"partition-id={join.partition}", f'name="{join.name}"']
    if join.tier is not None:
        words.append(f'tier="{join.tier}"')
    if data is not None:
        path = str(data.absolute())
        if not data.is_dir():
            raise FleetError(f"--data {data}: no folder; give the one that holds this device's recordings or data sets")
        if set(path) & _UNSPEAKABLE:
            raise FleetError(f"--data {data}: quotes and backslashes do not travel in Flower's settings; rename it")
        words.append(f'data-dir="{path}"')
    if join.memory_mb is not None:
        words.append(f"memory-mb={float(join.memory_mb)}")
    return " ".join(words)


def serve(join: Join, folder: Path, config: str, say: Callable[[str], None]) -> int:
    """Take part until SIGINT or SIGTERM; the exit code. A SuperNode that ends is started again after a pause.

    Models that are deployed to the device land in ``folder``/models.
    """
    models = str(folder / "models")
    if set(models) & _UNSPEAKABLE:
        raise FleetError(f"{folder}: quotes and backslashes do not travel in Flower's settings; set another HOME")
    config = f'{config} models-dir="{models}"'
    log = Log(folder / "log.jsonl", say, join.name)
    with stoppable():
        try:
            while True:
                log.said("start", f"joining {join.address}")
                refused = _once(join, folder, config, log)
                reason = hints.why(join.address, folder / "ca.crt")
                if refused and not reason:
                    reason = (
                        f"{join.address} refuses this device: it holds it for online still, or does not know its key"
                    )
                if reason:
                    log.hint(reason)
                pause = _KNOWN_PAUSE_S if refused else _PAUSE_S
                log.said("pause", f"the SuperNode ended; once more in {pause:.0f} s")
                time.sleep(pause)
        except KeyboardInterrupt:
            log.said("stop", "stopped")
            return 0


def _once(join: Join, folder: Path, config: str, log: Log) -> bool:
    """Whether the SuperNode, which ended, could not connect at all."""
    refused, failures, work = threading.Event(), itertools.count(1), Work(join.address, log)

    def read(line: str) -> None:
        log.flower(line)
        work.read(line)
        if "Exit Code: 305" in line:
            refused.set()
        # it tries again without end, and never says what fails
        failed = "Connection attempt failed" in line and next(failures) % _OFTEN == _FEW
        if failed and (reason := hints.why(join.address, folder / "ca.crt")):
            log.hint(reason)

    plain = flower.supernode(join.address, folder, config, _free_port())
    command = [sys.executable, "-m", "fedprune.deployment.device.supernode", *plain[1:]]
    with child(command, flower.environment(folder / "flwr"), folder) as process:
        shown = show(process, read)
        process.wait()
        shown.join(1)
    return refused.is_set()


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
