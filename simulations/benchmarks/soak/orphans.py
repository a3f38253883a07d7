"""Killed without a word: the main process of a simulation, a server, a device. What it had started ends with it."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedprune.federated.link.local_grid import LocalGrid
from simulations.benchmarks.soak.outcome import FAILED, HELD, Failed, Hazard, Outcome
from simulations.benchmarks.soak.stage import ACTOR, CLI, DIGITS, ROOT, Stage, kill_marked, marked, set_words

_ENDS_S = 60.0
_LONG = ("training.epochs=100000", "least_replies=1.0")


def sleepy() -> ClientApp:
    """An app whose devices say that they are at work, and are for ever."""
    app = ClientApp()

    @app.query()
    def answer(message: Message, context: Context) -> Message:
        Path(f"at-work-{os.getpid()}").touch()
        time.sleep(3600)
        return Message(RecordDict(), reply_to=message)

    return app


def grid() -> None:
    """Two workers at work for ever, in this folder."""
    with LocalGrid(sleepy, 2, 2) as two:
        list(two.send_and_receive([Message(RecordDict(), node, "query") for node in two.get_node_ids()]))


def workers(folder: Path) -> Outcome:
    """The main process of two workers is killed."""
    code = f"from {__name__} import grid\nif __name__ == '__main__': grid()"
    main = _start(folder, [sys.executable, "-c", code])
    _until(lambda: len(list(folder.glob("at-work-*"))) == 2, "the workers do not come to work", main)
    return _killed(folder, main, "main")


def simulation(words: Sequence[str], folder: Path) -> Outcome:
    """The main process of a simulation is killed while its devices train."""
    out = folder / "run"
    settings = set_words(["data.devices=2", "data.examples=200", "pretraining.epochs=1", "method.pool=1", *_LONG])
    main = _start(folder, [*CLI, "simulate", DIGITS, "--out", str(out), *settings, *words])
    rows = out / "metrics.jsonl"
    _until(lambda: rows.exists() and '"phase": "evaluate"' in rows.read_text(), "it does not come to train", main)
    time.sleep(1)
    return _killed(folder, main, "main")


def killed_in_a_run(who: str, folder: Path) -> Outcome:
    """``fedprune server start``, or ``fedprune join``, alone or with the process that it started, in mid-run."""
    with Stage(folder, settings=_LONG) as stage:
        actors = {"server": stage.serve(), "kitchen": stage.join("kitchen"), "attic": stage.join("attic")}
        run = stage.run()
        stage.training(actors["kitchen"])
        name = "server" if who.startswith("server") else "kitchen"
        actor, also = actors[name], []
        if who.endswith("both"):
            also = actor.children(
                "fedprune.deployment.superlink" if name == "server" else "fedprune.deployment.device.supernode"
            )
        for one in also:
            os.kill(one.pid, signal.SIGKILL)
        outcome = _killed(folder, actor.process, name)
        run.kill()
        return outcome


def _start(folder: Path, command: Sequence[str]) -> subprocess.Popen[bytes]:
    given = {**os.environ, ACTOR: f"{folder}/main", "PYTHONPATH": str(ROOT)}
    with (folder / "main.log").open("wb") as file:
        return subprocess.Popen(command, env=given, cwd=folder, stdout=file, stderr=file, start_new_session=True)


def _until(happened: Callable[[], bool], what: str, main: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 180
    while not happened():
        if main.poll() is not None or time.monotonic() > until:
            raise Failed(what)
        time.sleep(0.1)


def _killed(folder: Path, main: subprocess.Popen[bytes], name: str) -> Outcome:
    marker = f"{folder}/{name}"
    others = len(list(marked(marker))) - 1
    if others < 1:
        raise Failed("it has started nothing that could be left behind")
    main.kill()
    main.wait()
    started = time.monotonic()
    while (left := list(marked(marker))) and time.monotonic() - started < _ENDS_S:
        time.sleep(0.1)
    if left:
        kill_marked(marker)
        return Outcome("was killed", f"{len(left)} of {others} processes stay for ever", "nothing", FAILED)
    took = time.monotonic() - started
    return Outcome(f"was killed; its {others} processes ended within {took:.1f} s", "nothing", "nothing", HELD)


_PLACES = {
    "server": "a server is killed in a run",
    "server_both": "a server, and the SuperLink that it started, are killed in a run",
    "device": "a device is killed in a run",
    "device_both": "a device, and the SuperNode that it started, are killed in a run",
}
HAZARDS = {
    "orphans_workers": Hazard("the main process of two workers is killed", workers, 60, workers),
    "orphans_simulation": Hazard(
        "a simulation's main process is killed", functools.partial(simulation, ["--workers", "2"]), 300
    ),
    "orphans_ray": Hazard(
        "a simulation's main process is killed, over Ray", functools.partial(simulation, ["--engine", "ray"]), 400
    ),
    **{f"orphans_{who}": Hazard(title, functools.partial(killed_in_a_run, who), 600) for who, title in _PLACES.items()},
}
