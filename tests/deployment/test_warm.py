"""A process that forks for each message of a device: what it gives, and that it is done without where it is not had."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fedprune.deployment.device import superexec, warm
from fedprune.deployment.device.superexec import Launcher
from fedprune.deployment.device.warm import Warm

_PATIENCE_S = 90.0
_APP = """
import os, random, sys, threading
from pathlib import Path
import numpy as np
from fedprune.deployment.device import warm

def app():
    import torch
    (threads,) = threading.enumerate()
    inputs = torch.ones(500, 500)
    product = float((inputs @ inputs).sum())  # with torch's threads, which a fork would not have
    out = Path(sys.argv[1])
    (out / str(os.getpid())).write_text(f"{os.getppid()} {sys.argv[2]} {product} {np.random.rand()} {random.random()}")
    sys.exit(3)

imported = warm._imported
warm._imported = lambda: (app, imported()[1])
warm.main()
"""


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[Warm]:
    """A warm process whose app writes down what it is."""
    start = subprocess.Popen

    def other(words: list[str], **how: Any) -> "subprocess.Popen[bytes]":
        assert words == [sys.executable, "-m", "fedprune.deployment.device.warm"]
        return start([sys.executable, "-c", _APP], **how)

    with monkeypatch.context() as here:
        here.setattr(subprocess, "Popen", other)
        made = Warm()
    yield made
    made.close()


def _until(happened: Callable[[], object]) -> None:
    until = time.monotonic() + _PATIENCE_S
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.05)


def _process(kept: Warm) -> psutil.Process:
    assert kept._process is not None
    return psutil.Process(kept._process.pid)


def test_each_message_has_a_process_of_its_own_and_draws_of_its_own(kept: Warm, tmp_path: Path) -> None:
    words = [str(tmp_path), "a word with\ttabs, 'quotes' and ß"]
    _until(lambda: kept.launch(words))
    _until(lambda: kept.launch(words))
    _until(lambda: len([file for file in tmp_path.iterdir() if file.stat().st_size]) == 2)
    first, second = (file.read_text() for file in tmp_path.iterdir())
    parent = str(_process(kept).pid)
    for each in (first, second):
        assert each.startswith(f"{parent} {words[1]} {500.0**3} ")
    assert len({*first.split()[-2:], *second.split()[-2:]}) == 4
    _until(lambda: not _process(kept).children())  # nor does one stay as a zombie


def test_it_ends_with_whoever_started_it(kept: Warm, tmp_path: Path) -> None:
    _until(lambda: kept.launch([str(tmp_path), ""]))
    process = _process(kept)
    assert kept._process is not None
    assert kept._process.stdin is not None
    kept._process.stdin.close()  # as when the other end dies
    process.wait(_PATIENCE_S)


def test_without_it_apps_start_by_themselves(kept: Warm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    class Refusing(Warm):
        def launch(self, words: list[str]) -> bool:
            """As ``Warm``, noting what it does not take."""
            taken = super().launch(words)
            if not taken:
                started.append(words)
            return taken

    other = Refusing.__new__(Refusing)
    other._process = kept._process
    launcher, cold = Launcher(other), tmp_path / "cold"
    monkeypatch.setattr(superexec, "APP", [sys.executable, "-c", f"import sys; open({str(cold)!r}, 'x'); sys.exit(1)"])
    launcher.start(["flwr-clientapp", str(tmp_path), ""])  # it still imports
    assert len(started) == 1
    _until(cold.exists)
    cold.unlink()
    _process(kept).send_signal(signal.SIGKILL)
    launcher.start(["flwr-clientapp", str(tmp_path), ""])
    _until(cold.exists)
    _until(lambda: not other.launch([]) and other._process is None)  # for good


def test_a_device_of_little_memory_keeps_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "LEAST_BYTES", 2**62)
    monkeypatch.setattr(warm, "_imported", lambda: pytest.fail("it has imported"))
    warm.main()


@pytest.mark.parametrize(("least", "held"), [(0, True), (2**62, False)])
def test_torch_is_held_ready_where_there_is_memory_for_it(least: int, held: bool) -> None:
    """In a process of its own: nothing takes torch out of one that has imported it."""
    code = (
        "import sys; from fedprune.deployment.device import warm; "
        f"warm.TORCH_BYTES = {least}; warm._imported(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(held)]


def test_flowers_superexec_still_has_what_is_replaced_in_it() -> None:
    from flwr.supercore.superexec import run_superexec
    from flwr.supercore.superexec.executor import subprocess_executor
    from flwr.supernode import start_client_internal

    assert subprocess_executor.subprocess is subprocess  # type: ignore[attr-defined]
    assert run_superexec.time is time  # type: ignore[attr-defined]
    assert start_client_internal.subprocess is subprocess  # type: ignore[attr-defined]
    assert start_client_internal.time is time  # type: ignore[attr-defined]
