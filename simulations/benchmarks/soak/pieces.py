"""Pieces of what befalls a fleet, within seconds: on this machine's own grid, and processes where it is about these."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from flwr.app import Message

from fedprune.experiment import load
from fedprune.federated.link.engines import local
from fedprune.runs.run import simulate
from simulations.benchmarks.soak import replies
from simulations.benchmarks.soak.outcome import FAILED, HELD, Failed, Outcome, difference, phases
from simulations.benchmarks.soak.stage import ACTOR, CLI, DIGITS, ROOT, kill_marked, last_line, set_words

SMALL = (
    "rounds=2", "data.devices=2", "data.examples=200", "pretraining.epochs=1", "method.pool=1", "evaluate_every=2",
)  # fmt: skip
_CROWD, _ROUNDS, _FLAT_MB = 50, 5, 20.0
_PARTS = ("fleet.large={devices=1, density=0.3}", "fleet.small={devices=1, density=0.1}", "method.density=0.3")


def whole(
    out: Path, *more: str, resume: bool = False, progress: Callable[[dict[str, Any]], None] = lambda row: None
) -> Path:
    """The folder of a small run of the digits in this process, with these settings as well, once it is over."""
    keys = {word.partition("=")[0] for word in more}
    settings = [word for word in SMALL if word.partition("=")[0] not in keys]
    experiment, engine = load(Path(DIGITS), [*settings, *more]), functools.partial(local, workers=1)
    simulate(experiment, out, source=DIGITS, engine=engine, resume=resume, progress=progress)
    return out


def power(folder: Path) -> Outcome:
    """A machine goes off while its devices train; the run is gone on with."""
    out, undisturbed = folder / "run", folder / "undisturbed"
    words = [*CLI, "simulate", DIGITS, "--out", str(out), "--workers", "1", *set_words(SMALL)]
    given = {**os.environ, ACTOR: f"{folder}/machine", "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(words, env=given, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert run.stdout is not None
    while not _trained(out):
        if run.poll() is not None:
            raise Failed(f"the run was over before anything could befall it: {last_line(run.stdout.read())}")
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    kill_marked(f"{folder}/machine")
    whole(out, resume=True)
    whole(undisturbed)
    return _same(out, undisturbed, "was killed in round 1, and gone on with")


def link(folder: Path) -> Outcome:
    """A device's answer is lost once, and it is asked again."""
    lost: list[Message] = []

    def change(asked: Message, reply: Message) -> Message | None:
        lost.append(reply)
        return reply if len(lost) > 1 else None

    state, rows = replies.run(folder / "lost", change, retries=1)
    honest, _ = replies.run(folder / "honest", lambda asked, reply: reply, retries=1)
    seen = f"retried: {[row['retried'] for row in rows if row.get('retried')]}"
    if not replies.same(state, honest) or len(lost) != 2:
        return Outcome("went on", "another model", seen, FAILED)
    return Outcome("asked again, and went on", "nothing: the model is that of a run where nothing was lost", seen, HELD)


def version(folder: Path) -> Outcome:
    """A device answers as another version does."""
    state, rows = replies.run(folder / "old", replies.LIES["another version"][0])
    silent, _ = replies.run(folder / "silent", lambda asked, reply: None)
    said = [why for row in rows for why in row.get("faults", {}).values()]
    if not replies.same(state, silent) or "runs fedprune 0.0.0" not in str(said):
        return Outcome("went on", "another model, or not a word", str(said), FAILED)
    return Outcome("went on without that device's part", "that device's part", said[0], HELD)


def crowd(folder: Path) -> Outcome:
    """Fifty devices for some rounds, in this process."""
    taken: list[float] = []

    def note(row: dict[str, Any]) -> None:
        if row.get("phase") == "train":
            taken.append(psutil.Process().memory_info().rss / 1e6)

    settings = (
        f"data.devices={_CROWD}",
        f"rounds={_ROUNDS}",
        'method={name="fedavg"}',
        "data.alpha=100",
        "data.examples=0",
    )
    rows = phases(whole(folder / "run", *settings, "training.epochs=1", f"evaluate_every={_ROUNDS}", progress=note))
    grown = taken[-1] - taken[_ROUNDS // 2]
    seen = f"{taken[0]:.0f} MB after the first round, {grown:+.1f} MB in the second half"
    held = grown < _FLAT_MB and len(taken) == _ROUNDS == sum(phase == "train" for _, phase in rows)
    return Outcome(
        f"{_ROUNDS} rounds of {_CROWD} devices", "nothing" if held else "memory", seen, HELD if held else FAILED
    )


def unequal(folder: Path) -> Outcome:
    """A run of two tiers is stopped in round 1, and gone on with."""
    out, undisturbed = folder / "run", whole(folder / "undisturbed", *_PARTS)

    def stop(row: dict[str, Any]) -> None:
        if row.get("phase") == "train":
            raise KeyboardInterrupt

    try:
        whole(out, *_PARTS, progress=stop)
    except KeyboardInterrupt:
        whole(out, *_PARTS, resume=True)
    files = [path.relative_to(undisturbed) for path in undisturbed.rglob("model*.tflite")]
    differ = [str(file) for file in files if (out / file).read_bytes() != (undisturbed / file).read_bytes()]
    outcome = _same(out, undisturbed, "was stopped in round 1, and gone on with")
    return outcome._replace(verdict=FAILED, lost=f"{differ[0]} differs") if differ else outcome


def _trained(out: Path) -> bool:
    rows = out / "metrics.jsonl"
    return rows.exists() and '"phase": "train"' in rows.read_text()


def _same(out: Path, undisturbed: Path, happened: str) -> Outcome:
    differs = difference(out, undisturbed) or ("" if phases(out) == phases(undisturbed) else "other phases")
    lost = f"not the undisturbed run: {differs}" if differs else "nothing: the model is that of the undisturbed run"
    return Outcome(happened, lost, "nothing: no fault in the metrics", FAILED if differs else HELD)
