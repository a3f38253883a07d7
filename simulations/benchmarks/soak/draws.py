"""Nets that draw: the same model bit for bit by one worker, by two, stopped and gone on with, and by a fleet."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from fedprune.experiment import load
from fedprune.federated.link.engines import local
from fedprune.models.digits import digits_cnn
from fedprune.runs.folder import RunFolder
from fedprune.runs.setting import prepare
from simulations.benchmarks._rounds import drive
from simulations.benchmarks.soak.outcome import FAILED, HELD, Failed, Hazard, Outcome, difference
from simulations.benchmarks.soak.stage import ACTOR, CLI, DIGITS, ROOT, Stage, last_line, set_words, with_settings

_MODEL = "model=simulations.benchmarks.soak.draws:net"
_QUICK = (
    "rounds=2",
    "data.devices=2",
    "data.examples=200",
    "pretraining.epochs=1",
    "method.pool=2",
    "evaluate_every=2",
)


def net(input_shape: tuple[int, ...], classes: int) -> Any:
    """The digits' net behind dropout, and scales drawn once by each of torch, numpy and Python and at every step."""
    import torch
    from torch import nn

    class Drawn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.once = nn.Dropout(0.2), torch.rand(input_shape) + np.random.rand() + random.random()  # noqa: NPY002

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            if not self.training:
                return inputs
            return self.drop(inputs) * self.once * (np.random.rand() + random.random())  # noqa: NPY002

    return nn.Sequential(Drawn(), digits_cnn(input_shape, classes))


def here(folder: Path) -> Outcome:
    """Two runs in one process, whose own generators go on between them."""
    experiment = load(Path(DIGITS), [*_QUICK, _MODEL])
    setting, kept = prepare(experiment, "digits"), []
    for number in range(2):
        run = RunFolder(folder / str(number))
        run.begin(experiment)

        def serve(grid: Any, run: RunFolder = run) -> None:
            drive(grid, setting, run, None)

        local(2, None, serve, workers=1)
        kept.append(run.checkpoint.read_bytes())
    happened = "ended twice, in one process"
    if kept[0] != kept[1]:
        return Outcome(happened, "two models of one seed", "nothing", FAILED)
    return Outcome(happened, "nothing: the same checkpoint, byte for byte", "nothing", HELD)


def processes(folder: Path) -> Outcome:
    """One worker; two, stopped by SIGINT in training; and what goes on from there."""
    settings = set_words(with_settings([_MODEL, "training.epochs=20"]))
    _simulate(folder, "one", *settings, "--workers", "1")
    stopped = _start(folder, "two", *settings, "--workers", "2")
    rows, until = folder / "two" / "metrics.jsonl", time.monotonic() + 120
    while not rows.exists() or '"round": 1, "phase": "train"' not in rows.read_text():
        if stopped.poll() is not None or time.monotonic() > until:
            raise Failed(f"the run cannot be stopped after round 1: {last_line(stopped.communicate()[0])}")
        time.sleep(0.02)
    stopped.send_signal(signal.SIGINT)
    stopped.communicate(timeout=60)
    _simulate(folder, "two", *settings, "--workers", "1", "--resume")
    happened = f"stopped with {stopped.returncode} where two workers were at it, and ended with one"
    if differs := difference(folder / "one", folder / "two"):
        return Outcome(happened, f"not the model of one worker: {differs}", "nothing", FAILED)
    return Outcome(happened, "nothing: the model is that of one worker, undisturbed", "nothing", HELD)


def fleet(folder: Path) -> Outcome:
    """Two devices over a real link."""
    with Stage(folder, settings=("training.epochs=20", _MODEL)) as stage:
        stage.serve()
        for name in ("kitchen", "attic"):
            stage.join(name)
        stage.finish(stage.run())
        return stage.same("went on to its end")


def _start(folder: Path, out: str, *words: str) -> subprocess.Popen[str]:
    given = {**os.environ, ACTOR: f"{folder}/{out}", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*CLI, "simulate", DIGITS, "--out", str(folder / out), *words], env=given, cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def _simulate(folder: Path, out: str, *words: str) -> None:
    process = _start(folder, out, *words)
    said, _ = process.communicate()
    if process.returncode:
        raise Failed(f"fedprune simulate ends with {process.returncode}: {last_line(said)}")


HAZARDS = {
    "draws": Hazard("a net draws from torch, numpy and Python, and its run is made twice", here, 60, here),
    "draws_processes": Hazard("a net draws, and its run is stopped and goes on in other processes", processes, 600),
    "draws_fleet": Hazard("a net draws, over a fleet", fleet, 900),
}
