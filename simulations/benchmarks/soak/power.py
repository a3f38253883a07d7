"""Power that goes: of a device, of one process, of the server, of both; and a disk that is full."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from simulations.benchmarks.soak import pieces
from simulations.benchmarks.soak.disk import small_disk
from simulations.benchmarks.soak.outcome import Failed, Hazard, Outcome, rows, skipped
from simulations.benchmarks.soak.stage import Actor, Stage, last_line

_OFF_S = 5.0
"""How long power is away."""
_DISK = "1500k"


def device(folder: Path) -> Outcome:
    """A device goes off while it trains, and is started again."""
    with Stage(folder) as stage:
        stage.serve()
        one, _ = _devices(stage)
        run = stage.run()
        stage.training(one)
        one.kill()
        time.sleep(_OFF_S)
        started = time.monotonic()
        again = stage.join("kitchen")
        stage.finish(run)
        back = _back(again)
        return stage.same(f"went on with the device, {back}, and ended {time.monotonic() - started:.0f} s after")


def process(folder: Path) -> Outcome:
    """The system kills the process that trains, for its memory; the SuperNode lives."""
    with Stage(folder) as stage:
        stage.serve()
        one, _ = _devices(stage)
        run = stage.run()
        os.kill(stage.training(one).pid, signal.SIGKILL)
        started = time.monotonic()
        stage.finish(run)
        return stage.same(f"went on, and ended {time.monotonic() - started:.0f} s after")


def server_in_a_phase(folder: Path) -> Outcome:
    """The server goes off while devices train."""
    with Stage(folder) as stage:
        server = stage.serve()
        one, _ = _devices(stage)
        run = stage.run()
        stage.training(one)
        return _server_again(stage, server, run)


def server_between_phases(folder: Path) -> Outcome:
    """The server goes off as soon as round 1 is done."""
    with Stage(folder) as stage:
        server = stage.serve()
        _devices(stage)
        run = stage.run()
        stage.until(stage.reached(1, "train"), 240, "round 1 is never done", run)
        return _server_again(stage, server, run)


def both(folder: Path) -> Outcome:
    """The server and a device go off while they train in round 2, and come back."""
    with Stage(folder) as stage:
        server = stage.serve()
        one, _ = _devices(stage)
        run = stage.run()
        stage.until(stage.reached(1, "train"), 240, "round 1 is never done", run)
        stage.training(one, 2)
        one.kill()
        return _server_again(stage, server, run, lost="kitchen")


def disk(folder: Path) -> Outcome:
    """The disk of the server's runs is full after round 1; room is made, and the run resumed."""
    runs = folder / "fleet" / "runs"
    with Stage(folder) as stage:
        runs.mkdir(exist_ok=True)
        if why := small_disk(runs, _DISK):
            return skipped(why)
        stage.serve()
        _devices(stage)
        run = stage.run()
        stage.until(stage.reached(1, "train"), 240, "round 1 is never done", run)
        filler = runs / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(b"\0" * 4096):
                    pass
            except OSError:
                pass
        try:
            code = run.process.wait(180)
        except subprocess.TimeoutExpired:
            raise Failed(f"the run goes on with a full disk, at {stage.progress()}") from None
        told = last_line(run.text()) if code else "nothing"
        said = next((line for line in run.text().splitlines() if "run failed" in line), told)
        complete = [row for row in rows(stage.out) if row["phase"] == "train"]
        at = stage.progress()
        filler.unlink()
        if not code or not complete:
            raise Failed(f"fedprune run ends with {code} on a full disk; rows {len(complete)}; {told}")
        again, waited = stage.resume()
        stage.finish(again)
        result = stage.same(f"stopped after {at}; {waited}went on to its end with --resume")
        return result._replace(seen=said.strip().replace(str(folder / "fleet"), "FLEET"))


def _server_again(stage: Stage, server: Actor, run: Actor, lost: str = "") -> Outcome:
    at = stage.progress()
    server.kill()
    run.kill()  # a server's power is its operator's too
    time.sleep(_OFF_S)
    stage.serve()
    if lost:
        stage.join(lost)
    started = time.monotonic()
    again, waited = stage.resume()
    stage.finish(again)
    for row in rows(stage.out):
        if row["round"] > 2:
            raise Failed(f"a row of round {row['round']}")
    seconds = time.monotonic() - started
    return stage.same(f"stopped after {at}; {waited}--resume went on to its end, {seconds:.0f} s after the restart")


def _devices(stage: Stage) -> tuple[Actor, Actor]:
    return stage.join("kitchen"), stage.join("attic")


def _back(device: Actor) -> str:
    return f"which was refused {device.text().count('Exit Code: 305')} times before it was taken back"


HAZARDS = {
    "device_power": Hazard("a device loses power while it trains", device, 1200, pieces.power),
    "process_killed": Hazard("the system kills a device's training process", process, 1200),
    "server_power_in_phase": Hazard("the server loses power while devices train", server_in_a_phase, 1200),
    "server_power_between": Hazard("the server loses power between two phases", server_between_phases, 1200),
    "both_power": Hazard("server and device lose power at once", both, 1200),
    "full_disk": Hazard("the server's disk is full", disk, 1200),
}
