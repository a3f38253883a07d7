"""A fleet on this machine: one server and three devices, each with a folder of its own pictures and nothing else.

    python -m simulations.fleet_demo [--out DIR]        # or: make fleet-demo

Every command is printed before it runs, as somebody with three boards would give it. Server and devices are processes
of their own over TLS; each device's home is a folder here, so that nothing is left elsewhere.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_DEVICES = ("garden", "hall", "kitchen")
_EXPERIMENT = Path(__file__).resolve().with_name("own_digits.toml")
_READY_S = 120.0


def main() -> int:
    """Run it; the exit code of the run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/fleet_demo"))
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    people, fleet, began = out / "people", out / "fleet", time.monotonic()

    _note("Three devices take pictures of digits, each of other digits more often:")
    _do("data", "split", "digits", "--devices", "3", "--partition", "dirichlet", "--as", "pictures", "--out", people)
    for number, name in enumerate(_DEVICES):
        (people / str(number)).rename(people / name)
    _do("data", "check", people / "kitchen", "--like", _EXPERIMENT)

    _note("On the server, which has no data at all:")
    _do("server", "init", fleet, "--host", "127.0.0.1", "--port", str(_free_port()))
    for name in _DEVICES:
        _do("server", "enrol", fleet, name, quiet=True)
    with _running(out / "server.log", "server", "start", fleet, until="is ready at"):
        _note("On each device, with the file that enrol wrote and a folder of its own:")
        with _joined(out, fleet, people):
            _note("Again on the server; whoever is enrolled and there takes part:")
            code = _do("run", _EXPERIMENT, "--fleet", fleet, check=False)
            _do("status", fleet)
    took = time.monotonic() - began
    _note(f"{took:.0f} s in all. Results: {fleet / 'runs' / 'own_digits'}; logs: {out / '*.log'}")
    return code


@contextmanager
def _joined(out: Path, fleet: Path, people: Path) -> Iterator[None]:
    kitchen, garden, hall = (
        _running(
            out / f"{name}.log", "join", fleet / "devices" / f"{name}.join", "--data", people / name,
            until="connected to", home=out / "homes" / name,
        )
        for name in _DEVICES
    )  # fmt: skip
    with kitchen, garden, hall:
        yield


def _note(text: str) -> None:
    print(f"\n# {text}", flush=True)


def _command(words: tuple[str | Path, ...]) -> list[str]:
    shown = " ".join(shlex.quote(str(word)) for word in words)
    print(f"$ fedprune {shown}", flush=True)
    return [sys.executable, "-m", "fedprune.cli", *map(str, words)]


def _do(*words: str | Path, quiet: bool = False, check: bool = True) -> int:
    done = subprocess.run(_command(words), stdout=subprocess.DEVNULL if quiet else None)
    if check and done.returncode:
        raise SystemExit(done.returncode)
    return done.returncode


@contextmanager
def _running(log: Path, *words: str | Path, until: str, home: Path | None = None) -> Iterator[None]:
    """A command in the background, once its log says ``until``; ended with the block."""
    environment: Mapping[str, str] = os.environ
    if home is not None:
        home.mkdir(parents=True)
        environment = {**os.environ, "HOME": str(home.resolve())}
    with log.open("w") as said:
        process = subprocess.Popen(_command(words), stdout=said, stderr=subprocess.STDOUT, env=environment)
    try:
        limit = time.monotonic() + _READY_S
        while until not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > limit:
                raise SystemExit(f"{log}: does not say {until!r}")
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
