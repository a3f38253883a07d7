"""Commands of fedprune in processes of their own, and what they write down."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedprune.deployment import flower
from fedprune.deployment.fleet_folder import Fleet

CLI = [sys.executable, "-m", "fedprune.cli"]
_PATIENCE_S = 90


def free_port() -> int:
    """One of this machine's that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def entries(file: Path) -> list[dict[str, Any]]:
    """The lines of a log."""
    return [json.loads(line) for line in file.read_text().splitlines()]


@contextmanager
def greeted(fleet: Fleet, name: str, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    """A client's side of a connection to who has the fleet's certificate, asked for by ``name``."""
    inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inside.load_cert_chain(fleet.path / "server.crt", fleet.path / "server.key")
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            inside.wrap_socket(ours, server_side=True).close()
        except OSError:
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with context.wrap_socket(theirs, server_hostname=name) as client:
            yield client
    finally:
        theirs.close()
        thread.join()


@contextmanager
def running(words: list[str], home: Path, log: Path, said: str, python: str = sys.executable) -> Iterator[None]:
    """A command of fedprune, from the time that it has ``said`` something; told to end, it ends well."""
    environment = {**flower.environment(home / "flwr"), "HOME": str(home)}
    with log.open("w") as file:
        process = subprocess.Popen(
            [python, *CLI[1:], *words],
            env=environment,
            cwd=log.parent,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + _PATIENCE_S
        while said not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
