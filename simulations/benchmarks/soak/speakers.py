"""Four unequal devices, each with other people's recordings, over TLS and keys: cut off in the middle, and resumed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from fedprune.data.loading import DATA_DIR
from simulations.benchmarks.soak import outcome, pieces
from simulations.benchmarks.soak.outcome import FAILED, HELD, Failed, Hazard, Outcome
from simulations.benchmarks.soak.stage import CLI, ROOT, Actor, Stage, last_line, set_words

FILE = ROOT / "simulations" / "fleet_keywords.toml"
SMALL = ("rounds=3", "data.examples=1200", "pretraining.epochs=2", "method.period=1", "method.stop=2")
DEVICES = {"phone": ("phone", 800), "pi-kitchen": ("pi", 500), "pi-attic": ("pi", 450), "zero": ("zero", 400)}
"""Name -> (tier, most MiB that its process may use)."""


class _Speakers(Stage):
    def __init__(self, folder: Path, data: str) -> None:
        super().__init__(folder, ())
        self.data, self.out = data, self.fleet / "runs" / FILE.stem
        for name, (tier, memory_mb) in DEVICES.items():
            more = ("--tier", tier, "--memory-mb", str(memory_mb))
            self.command("server", "enrol", str(self.fleet), name, *more)

    def join(self, name: str, *, before: Sequence[str] = (), environment: dict[str, str] | None = None) -> Actor:
        return super().join(name, before=before, environment={**(environment or {}), DATA_DIR: self.data})

    def run(self, *options: str) -> Actor:
        self._number += 1
        words = [
            *CLI,
            "run",
            str(FILE),
            "--fleet",
            str(self.fleet),
            "--data-dir",
            self.data,
            *set_words(SMALL),
            *options,
        ]
        return Actor(words, self.environment("run"), self.folder / f"run-{self._number}.log")


def run(folder: Path) -> Outcome:
    """The server and a device lose power while round 2 is trained."""
    data = os.environ.get(DATA_DIR)
    if not data:
        return outcome.skipped("wants recordings: give --data-dir")
    undisturbed = folder / "undisturbed"
    command = [*CLI, "simulate", str(FILE), "--out", str(undisturbed), "--data-dir", data, "--workers", "1"]
    done = subprocess.run([*command, *set_words(SMALL)], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise Failed(f"fedprune simulate: {last_line(done.stdout + done.stderr)}")
    with _Speakers(folder, data) as stage:
        server = stage.serve()
        devices = {name: stage.join(name) for name in DEVICES}
        first = stage.run()
        stage.until(stage.reached(1, "top_gradients"), 600, "round 1 is not done", first)
        stage.training(devices["zero"], 2)
        server.kill()
        devices["zero"].kill()
        stage.serve()
        stage.join("zero")
        again, before = stage.resume()
        stage.finish(again)
        happened = f"server and a device killed in round 2, started again; {before}--resume went on to the end"
        return _judged(stage, undisturbed, happened)


def _judged(stage: Stage, undisturbed: Path, happened: str) -> Outcome:
    files = sorted(path.relative_to(undisturbed) for path in undisturbed.rglob("model*.tflite"))
    differ = [str(file) for file in files if not _same(stage.out / file, undisturbed / file)]
    differs = outcome.difference(stage.out, undisturbed) or ", ".join(differ)
    if differs or len(files) < 2 * len({tier for tier, _ in DEVICES.values()}):
        return Outcome(happened, f"not the undisturbed run: {differs or 'files are missing'}", "-", FAILED)
    lost = f"nothing: {len(files)} exported files of all tiers are those of the undisturbed run, bit for bit"
    return Outcome(happened, lost, stage.operator_sees(), HELD)


def _same(one: Path, other: Path) -> bool:
    return one.exists() and one.read_bytes() == other.read_bytes()


HAZARDS = {
    "speakers": Hazard(
        "keywords by speaker on four unequal devices, server and a device lose power", run, 1500, pieces.unequal
    )
}
