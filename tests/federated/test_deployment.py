"""The app over Flower's own deployment: a SuperLink, two SuperNodes, real messages on loopback."""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fedprune.experiment import load
from fedprune.federated.link.engines import local
from fedprune.runs.run import simulate

_ROOT = Path(__file__).parents[2]
_BIN = Path(sys.executable).parent
_SETTINGS = "rounds=1 data.devices=2 data.examples=400 pretraining.epochs=1"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def _process(command: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=environment, cwd=log.parent, stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _wait_for(port: int) -> None:
    for _ in range(300):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the SuperLink does not listen")


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder and an environment in which ``flwr run ... link`` reaches a SuperLink with two nodes."""
    path, port = tmp_path_factory.mktemp("link"), _free_port()
    environment = {
        **os.environ,
        "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(path / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }
    (path / "home").mkdir()
    config = f'[superlink]\ndefault = "link"\n[superlink.link]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (path / "home" / "config.toml").write_text(config)
    command = ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port)]
    node = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}"]

    def a_node(index: int) -> list[str]:
        return [*node, "--port", str(_free_port()), "--node-config", f"partition-id={index} num-partitions=2"]

    with _process([*command, "--disable-runtime-dependency-installation"], environment, path / "link.log"):
        _wait_for(port)
        with (
            _process(a_node(0), environment, path / "node0.log"),
            _process(a_node(1), environment, path / "node1.log"),
        ):
            yield path, environment


def test_a_run_over_real_nodes_gives_the_model_of_the_local_engine(
    link: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    """Of a method with a mask for each device, and what it reports: tests/deployment has votes and FedTiny's evidence.

    A node takes seconds for each message, in a process of its own; those of a fleet are warm.
    """
    folder, environment = link
    settings = [*_SETTINGS.split(), 'method={name="lottery_fl",density=0.3,goal=0.0}']
    run_config = f"set='{' '.join(settings)}' out='{tmp_path / 'runs'}'"
    flwr = ["flwr", "run", str(_ROOT), "link", "--stream", "--run-config", run_config]
    done = subprocess.run(flwr, env=environment, cwd=folder, capture_output=True, text=True, timeout=400)
    # exit code 0 says nothing: flwr ends so on a failed run too
    result = tmp_path / "runs" / "digits" / "result.json"
    assert result.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    assert json.loads(result.read_text())["devices"] == 2

    asked = load(_ROOT / "simulations" / "digits.toml", settings)
    simulate(asked, tmp_path / "local", engine=functools.partial(local, workers=1))
    with np.load(tmp_path / "runs/digits/model.npz") as there, np.load(tmp_path / "local/model.npz") as here:
        assert there.files == here.files
        assert all(np.array_equal(there[name], here[name]) for name in here.files)
