"""A fleet's server and devices that are killed in mid-run leave none of Flower's processes behind."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from fleet_commands import CLI, free_port
from process_tools import MARK, left, marked

from fedprune.deployment import devices, flower
from fedprune.deployment.fleet_folder import create

_DIGITS = str(Path(__file__).parents[2] / "simulations" / "digits.toml")
_SETTINGS = "rounds=1 data.devices=2 data.examples=400 pretraining.epochs=1 method.pool=1 training.epochs=100000"
_SET = [word for setting in _SETTINGS.split() for word in ("--set", setting)]
_PATIENCE_S = 120
_NAMES = ("kitchen", "attic")
_APP = "fedprune.deployment.device.clientapp"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a command of fedprune in a session of its own, marked by its name; none is left in the end."""
    (tmp_path / "home").mkdir()
    names = []

    def go(name: str, *words: str) -> subprocess.Popen[bytes]:
        names.append(name)
        given = {**flower.environment(tmp_path / "nowhere"), "HOME": str(tmp_path / "home"), MARK: f"{tmp_path}/{name}"}
        with (tmp_path / f"{name}.log").open("w") as file:
            return subprocess.Popen(
                [*CLI, *words], env=given, cwd=tmp_path, stdout=file, stderr=file, start_new_session=True
            )

    yield go
    for name in names:
        left(f"{tmp_path}/{name}", 0)


def _until(happened: Callable[[], object], log: Path) -> None:
    until = time.monotonic() + _PATIENCE_S
    while not happened():
        assert time.monotonic() < until, log.read_text()[-3000:]
        time.sleep(0.3)


def test_whoever_is_killed_takes_flowers_processes_along(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    fleet = create(tmp_path / "fleet", ["127.0.0.1"], port=free_port(), listen="127.0.0.1")
    for name in _NAMES:
        devices.enrol(fleet, name)
    log = tmp_path / "server.log"
    server = start("server", "server", "start", str(fleet.path))
    _until(lambda: "is ready at" in log.read_text(), log)
    joined = {name: start(name, "join", str(fleet.devices / f"{name}.join")) for name in _NAMES}

    def has(name: str, *words: str) -> list[psutil.Process]:
        found = [p for p in marked(f"{tmp_path}/{name}") if all(word in " ".join(p.cmdline()) for word in words)]
        return found

    def works(name: str) -> bool:
        """Whether a device has a process at work on a message: one of its own, or a fork of the one that is warm."""
        return len(has(name, "fedprune.deployment.device.warm")) > 1 or bool(has(name, _APP))

    watching = start("run", "run", _DIGITS, "--fleet", str(fleet.path), *_SET)
    for name in _NAMES:
        said = tmp_path / f"{name}.log"
        _until(lambda said=said: "connected to 127.0.0.1" in said.read_text(), said)  # type: ignore[misc]
        _until(lambda name=name: works(name), said)  # type: ignore[misc]
    assert has("server", "flwr-serverapp")
    assert has("server", "flower-superexec")

    joined["kitchen"].kill()  # the wrapper lives, and sees that its parent is gone
    joined["kitchen"].wait()
    assert left(f"{tmp_path}/kitchen", 30) == []

    (wrapper,) = has("attic", "fedprune.deployment.device.supernode")
    joined["attic"].kill()  # both at once: what Flower started sees that its parent is gone
    os.kill(wrapper.pid, signal.SIGKILL)
    joined["attic"].wait()
    assert left(f"{tmp_path}/attic", 30) == []

    server.kill()
    server.wait()
    assert left(f"{tmp_path}/server", 40) == []
    assert watching.wait(60) == 1  # it says so itself, and what to do: Flower's own words would be of a connection
    out = fleet.runs / "digits"
    assert (tmp_path / "run.log").read_text().splitlines()[-1] == (
        f"{fleet.path}: the server is gone; start it again with: fedprune server start {fleet.path}, "
        f"and go on with: fedprune resume {out}"
    )
