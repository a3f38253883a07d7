"""A device whose clock is wrong: it works or is turned away, and is told why; the others go on."""

from __future__ import annotations

import functools
import os
import shutil
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from fedprune.deployment import certificates
from simulations.benchmarks.soak.outcome import FAILED, HELD, Hazard, Outcome, rows, skipped
from simulations.benchmarks.soak.stage import ROOT, Stage, last_line

_SETTINGS = ("data.devices=3", "least_replies=0.6", "rounds=1", "evaluate_every=1")
_OFFSETS_S = {"ahead": 3600, "behind": -3600}


def library(folder: Path) -> Path | Outcome:
    """A library in ``folder`` that shifts a program's clock, or the outcome where there can be none."""
    if (compiler := shutil.which("cc")) is None:
        return skipped("no C compiler for the library that shifts a program's clock (Debian: apt install gcc)")
    file = folder / "clock.so"
    source = Path(__file__).with_name("_clock.c")
    made = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(file), str(source), "-ldl"], capture_output=True, text=True
    )
    if made.returncode:
        return skipped(f"no library that shifts a program's clock: {last_line(made.stderr)}")
    return file


def shifted(library: Path, way: str) -> dict[str, str]:
    """The environment of a program whose clock is an hour ahead, or behind."""
    return {"LD_PRELOAD": str(library), "CLOCK_OFFSET_S": str(_OFFSETS_S[way])}


def wrong(way: str, folder: Path) -> Outcome:
    """One of three devices is an hour ahead, or behind, throughout a run that can do with two."""
    if isinstance(made := library(folder), Outcome):
        return made
    with Stage(folder, ("kitchen", "attic", "cellar"), settings=_SETTINGS) as stage:
        stage.serve()
        for name in ("kitchen", "attic"):
            stage.join(name)
        odd = stage.join("cellar", environment=shifted(made, way))
        stage.finish(stage.run())
        lines = [line for line in odd.text().splitlines() if "clock" in line]
        devices = [row["devices"] for row in rows(stage.out) if "devices" in row]
        happened = f"went on to its end with {min(devices)} to {max(devices)} of 3 devices"
        if "Sent successfully" in odd.text():
            return Outcome(happened, "nothing: the device takes part", stage.operator_sees(), HELD)
        if not lines:
            why = f"on the device, not that it is the clock, but: {last_line(odd.text())}"
            return Outcome(happened, "that device's part", f"{why}; {stage.operator_sees()}", FAILED)
        return Outcome(
            happened, "that device's part", f"on the device: {lines[-1]}; on the server: {stage.operator_sees()}", HELD
        )


def asked_why(way: str, folder: Path) -> Outcome:
    """A device whose clock is wrong asks a server's TLS port why it is not let in."""
    if isinstance(made := library(folder), Outcome):
        return made
    authority = certificates.authority("fleet")
    pair = certificates.server(authority, ("localhost", "127.0.0.1"))
    for name, content in (("ca.crt", authority.public), ("server.crt", pair.public), ("server.key", pair.private)):
        (folder / name).write_bytes(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        asks = f"from fedprune.deployment.device import hints; print(hints.why({address!r}, 'ca.crt'))"
        given = {**os.environ, "PYTHONPATH": str(ROOT), **shifted(made, way)}
        told = subprocess.run([sys.executable, "-c", asks], env=given, cwd=folder, capture_output=True, text=True)
        server.shutdown()
    said = last_line(told.stdout + told.stderr)
    return Outcome("not run", "that device's part", said, HELD if "clock" in said else FAILED)


HAZARDS = {
    f"clock_{way}": Hazard(
        f"a device's clock is an hour {way}", functools.partial(wrong, way), 1200, functools.partial(asked_why, way)
    )
    for way in _OFFSETS_S
}
