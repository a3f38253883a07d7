"""A fleet over real processes: TLS, keys, a run of a net that draws, the local engine's model, who is turned away."""

import hashlib
import io
import json
import os
import re
import signal
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPSConnection
from pathlib import Path

import numpy as np
import pytest
from fleet_commands import CLI, free_port
from process_tools import default_interrupt, python_path
from rich.console import Console

from fedprune.deployment import certificates, devices, flower, state, tables
from fedprune.deployment.fleet_folder import Fleet, create

_ROOT = Path(__file__).parents[2]
_DIGITS = str(_ROOT / "simulations" / "digits.toml")
_JACKPOTS = 'method={name="lottery_jackpots",density=0.2}'  # votes on frozen weights; other methods elsewhere
_SETTINGS = f"rounds=1 data.devices=2 data.examples=400 pretraining.epochs=1 model=drawing:net {_JACKPOTS}"
_SET = [word for setting in _SETTINGS.split() for word in ("--set", setting)]
_PATIENCE_S = 90
_NET = """
import random
import numpy as np
from torch import nn
from fedprune.models.digits import digits_cnn

class Drawn(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop, self.scale = nn.Dropout(0.2), np.random.rand()

    def forward(self, inputs):
        return self.drop(inputs) * (self.scale + np.random.rand() + random.random()) if self.training else inputs

def net(input_shape, classes):
    return nn.Sequential(Drawn(), digits_cnn(input_shape, classes))
"""


@contextmanager
def _process(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=environment, cwd=log.parent, stdout=file, stderr=file, start_new_session=True,
            preexec_fn=default_interrupt,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            _kill_session(process.pid)


def _kill_session(number: int) -> None:
    try:
        os.killpg(number, signal.SIGKILL)
    except ProcessLookupError:
        return


def _until(happened: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + _PATIENCE_S
    while not happened():
        assert time.monotonic() < until, what
        time.sleep(0.3)


def _command(environment: dict[str, str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, *words], env=environment, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE_S * 3
    )


def _intruders(fleet: Fleet, folder: Path) -> dict[str, list[str]]:
    """Nodes that may not take part, each wrong in one thing."""
    for name in ("stranger", "misled"):
        (folder / name).mkdir()
        (folder / name / "device.key").write_bytes(certificates.device().private)
        (folder / name / "ca.crt").write_bytes((fleet.path / "ca.crt").read_bytes())
    (folder / "misled" / "ca.crt").write_bytes(certificates.authority("another").public)
    enrolled = devices.read_join(fleet.devices / "attic.join").key
    (folder / "misled" / "device.key").write_text(enrolled)
    link = f"127.0.0.1:{fleet.port}"

    def node(name: str) -> list[str]:
        return flower.supernode(link, folder / name, "partition-id=0", free_port())

    keyless = node("stranger")
    at = keyless.index("--auth-supernode-private-key")
    plain = ["flower-supernode", "--insecure", "--superlink", link, "--port", str(free_port())]
    return {
        "unregistered": node("stranger"),
        "wrong_ca": node("misled"),
        "no_key": keyless[:at] + keyless[at + 2 :],
        "plain_http": [*plain, "--node-config", "partition-id=0"],
    }


def _text(path: Path) -> str:
    return path.read_text(errors="replace")


def _asks(fleet: Fleet, source: str, path: str) -> int:
    """The status that a client at address ``source`` of this machine gets for an empty question."""
    context = ssl.create_default_context(cafile=str(fleet.path / "ca.crt"))
    client = HTTPSConnection("127.0.0.1", fleet.port, context=context, source_address=(source, 0), timeout=20)
    try:
        client.request("POST", path, b"", {"content-type": "application/protobuf"})
        return client.getresponse().status
    finally:
        client.close()


def _deploys(environment: dict[str, str], folder: Path, fleet: Fleet) -> None:
    """A finished run's model is brought to both devices, into the folders that they joined with."""
    run = fleet.runs / "digits"
    words = ("deploy", str(run), "--fleet", str(fleet.path))
    refused = _command(environment, folder, *words, "--device", "nobody")
    assert (refused.returncode, "--device nobody: not enrolled" in refused.stderr) == (2, True), refused.stderr
    done = _command(environment, folder, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    model = (run / "model.tflite").read_bytes()
    rows = json.loads((run / "deployed.json").read_text())
    assert [(row["name"], row["partition"], row["used"], row["reason"], row["bytes"]) for row in rows] == [
        ("kitchen", 0, True, "", len(model)),
        ("attic", 1, True, "", len(model)),
    ]
    of_all = json.loads((run / "result.json").read_text())["checks"]["litert_int8"]["accuracy"]
    accuracies = [row["accuracy"] for row in rows]
    assert min(accuracies) <= of_all <= max(accuracies)
    for row in rows:
        assert row["memory_bytes"] > 0
        assert row["latency_ms"]["p90"] > 0
        models = Path(environment["HOME"]) / ".fedprune" / row["name"] / "models"
        assert (models / "current.tflite").read_bytes() == model
        assert json.loads((models / "current.json").read_text())["accuracy"] == row["accuracy"]
    assert json.loads((fleet.path / "deployed.json").read_text()) == rows


def _keeps_results(environment: dict[str, str], folder: Path, fleet: Fleet) -> None:
    """What a run left is neither lost nor mixed with another by a second one."""
    words = ("run", _DIGITS, "--fleet", str(fleet.path), *_SET)
    asked = (fleet.runs / "digits" / "experiment.toml").read_text()
    refused = _command(environment, folder, *words)
    assert (refused.returncode, "holds a finished run; add --fresh" in refused.stderr) == (2, True), refused.stderr
    refused = _command(environment, folder, *words, "--resume", "--seed", "7")
    assert (refused.returncode, "holds another experiment" in refused.stderr) == (2, True), refused.stderr
    assert (fleet.runs / "digits" / "experiment.toml").read_text() == asked
    assert (fleet.runs / "digits" / "model.tflite").exists()


def _is_taken_out(environment: dict[str, str], folder: Path, fleet: Fleet, name: str) -> None:
    """A device that is online is let in no longer, and says so to who looks there."""
    done = _command(environment, folder, "server", "revoke", str(fleet.path), name)
    assert done.stdout == f"{name}: taken out\n", done.stdout + done.stderr
    log = folder / f"{name}.log"
    _until(lambda: "refuses this device" in _text(log), _text(log))
    logged = Path(environment["HOME"]) / ".fedprune" / name / "log.jsonl"
    assert "hint" in [json.loads(line)["event"] for line in logged.read_text().splitlines()]
    found = {one.name for one in state.look(fleet).devices}
    assert name not in found, found


def test_a_fleet_trains_the_model_of_the_local_engine_and_turns_others_away(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "drawing.py").write_text(_NET)
    environment = {**flower.environment(tmp_path / "nowhere"), "HOME": str(home), "PYTHONPATH": python_path(tmp_path)}
    fleet = create(tmp_path / "fleet", ["127.0.0.1"], port=free_port(), listen="127.0.0.1")
    devices.enrol(fleet, "kitchen")
    server_log = tmp_path / "server.log"
    with ExitStack() as stack:
        server = stack.enter_context(_process([*CLI, "server", "start", str(fleet.path)], environment, server_log))
        _until(lambda: "is ready at" in _text(server_log), _text(server_log))
        late = _command(environment, tmp_path, "server", "enrol", str(fleet.path), "attic")
        assert "device 1, registered\n" in late.stdout, late.stdout + late.stderr
        for name in ("kitchen", "attic"):
            words = [*CLI, "join", str(fleet.devices / f"{name}.join")]
            stack.enter_context(_process(words, environment, tmp_path / f"{name}.log"))
        intruders = _intruders(fleet, tmp_path)
        for name, words in intruders.items():
            stack.enter_context(_process(words, environment, tmp_path / f"{name}.log"))

        # Flower itself would let whoever reaches the port submit code to all devices.
        for path in ("/v1/control/list-runs", "/v1/control/start-run", "/v1/runtime/get-nodes", "/docs"):
            assert _asks(fleet, "127.0.0.2", path) == 403, path
        assert _asks(fleet, "127.0.0.1", "/v1/control/list-runs") == 200
        assert _asks(fleet, "127.0.0.2", "/v1/fleet/pull-messages") not in (200, 403, 404)  # a device, without a key

        done = _command(environment, tmp_path, "run", _DIGITS, "--fleet", str(fleet.path), *_SET)
        assert done.returncode == 0, done.stdout + done.stderr + _text(server_log)[-2000:]
        assert "model.tflite" in done.stdout

        assert re.search(r"Receiving: (train|query\.several)", _text(tmp_path / "kitchen.log"))
        for name in intruders:
            assert "Receiving" not in _text(tmp_path / f"{name}.log"), name

        again = ("run", _DIGITS, "--fleet", str(fleet.path), *_SET, "--set")
        refused = _command(environment, tmp_path, *again, "data.devices=3")
        assert refused.returncode == 2
        assert "none is enrolled for partition 2" in refused.stderr
        _keeps_results(environment, tmp_path, fleet)
        _deploys(environment, tmp_path, fleet)
        # What only the server's app can find out: Flower's own command would end with 0.
        failed = _command(environment, tmp_path, *again, "model=nowhere.nets:tiny", "--set", "name=broken")
        assert failed.returncode == 2, failed.stdout + failed.stderr
        assert "nowhere" in failed.stderr
        found = state.look(fleet)
        assert [(run["status"], run["results"]) for run in found.runs] == [
            ("finished:failed", "broken"),
            ("finished:completed", "deploy"),
            ("finished:completed", "digits"),
        ]
        assert [(one.name, one.registered, one.online, one.rounds, one.error) for one in found.devices] == [
            ("kitchen", True, True, 2, ""),
            ("attic", True, True, 2, ""),
        ]
        assert all(one.memory_bytes > 2**27 for one in found.devices)
        page = Console(width=80, record=True, file=io.StringIO())
        page.print(tables.devices(found, str), tables.runs(found))
        shown = page.export_text()
        assert all(word in shown for word in ("kitchen", "attic", "online", "completed", "failed", "digits", "broken"))
        sha256 = hashlib.sha256((fleet.runs / "digits" / "model.tflite").read_bytes()).hexdigest()
        assert all(re.fullmatch(rf"digits {sha256[:8]} \d+\.\d %", one.model) for one in found.devices)
        assert sha256[:8] in shown
        _is_taken_out(environment, tmp_path, fleet, "attic")
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
    assert "Traceback" not in _text(tmp_path / "kitchen.log")

    local = _command(environment, tmp_path, "simulate", _DIGITS, "--out", "local", "--workers", "1", *_SET)
    assert local.returncode == 0, local.stderr
    run = fleet.runs / "digits"
    assert json.loads((run / "result.json").read_text())["devices"] == 2
    with np.load(run / "model.npz") as there, np.load(tmp_path / "local" / "model.npz") as here:
        assert there.files == here.files
        assert all(np.array_equal(there[name], here[name]) for name in here.files)


@pytest.fixture(autouse=True)
def _no_process_stays(tmp_path: Path) -> Iterator[None]:
    yield
    import psutil

    def mine(process: psutil.Process) -> bool:
        try:
            return any(str(tmp_path) in word for word in process.cmdline())
        except psutil.Error:
            return False

    _until(lambda: not any(mine(process) for process in psutil.process_iter()), "a process stays behind")
