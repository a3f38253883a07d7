"""Fifty devices and hundreds of rounds: the server's memory stays what it was."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil

from fedprune.deployment.devices import enrol
from fedprune.deployment.fleet_folder import open_fleet
from simulations.benchmarks.soak import pieces
from simulations.benchmarks.soak.outcome import FAILED, HELD, Failed, Hazard, Outcome, rows
from simulations.benchmarks.soak.stage import Actor, Stage, last_line, state_folder

ROUNDS = 200
_DEVICES = 50
_ASKED = 0.2
"""The part of them that trains in a round, as in most fleets; all connect, ask for work and beat their hearts."""
_LIMIT_S = 6000.0
_FLAT_MB = 5.0
"""Growth in 100 rounds that is none."""
_SAMPLES = "memory.jsonl"
_WATCHED = {"superlink": "fedprune.deployment.superlink", "serverapp": "flwr-serverapp"}


def crowd(folder: Path) -> Outcome:
    """Run the crowd; its fleet and its samples are kept, so that it goes on where it was stopped."""
    rounds = ROUNDS
    kept = state_folder() / f"crowd-{rounds}"
    settings = (
        f"rounds={rounds}", f"data.devices={_DEVICES}", "data.examples=0", "data.alpha=100", "training.epochs=1",
        f"training.participation={_ASKED}", 'method={name="fedavg"}', f"evaluate_every={rounds}", "least_replies=0.9",
        "deadline_s=120",
    )  # fmt: skip
    with Stage(folder, (), settings=settings, fleet=kept) as stage:
        fleet = open_fleet(kept)
        if not any(fleet.devices.glob("*.join")):
            for number in range(_DEVICES):
                enrol(fleet, f"node{number}")
        # every device that is new to the SuperLink costs a command of Flower's, some seconds of a core
        server = stage.serve(patience_s=900)
        joins = [str(file) for file in sorted(fleet.devices.glob("*.join"))]
        words = [sys.executable, "-m", "simulations.benchmarks.soak._identities", *joins]
        nodes = Actor(words, stage.environment("nodes"), folder / "nodes.log")
        run = stage.resume()[0] if (stage.out / "checkpoint.fedprune").exists() else stage.run()
        started, session = time.monotonic(), time.time_ns()
        with (kept / _SAMPLES).open("a") as samples:
            while run.process.poll() is None:
                if nodes.process.poll() is not None:
                    raise Failed(f"the nodes ended: {last_line(nodes.text())}")
                samples.write(json.dumps({"session": session, "round": _round(stage.out), **_memory(server)}) + "\n")
                samples.flush()
                time.sleep(2)
        stage.finish(run)
        seconds = time.monotonic() - started
        outcome = _judged(kept, stage.out, rounds, seconds)
    if outcome.verdict == HELD:
        shutil.rmtree(kept)
    return outcome


def _round(out: Path) -> int:
    """The last complete round; −1 before."""
    try:
        tail = subprocess.run(["tail", "-n", "1", str(out / "metrics.jsonl")], capture_output=True, text=True).stdout
        return int(json.loads(tail)["round"])
    except (json.JSONDecodeError, KeyError):
        return -1


def _memory(server: Actor) -> dict[str, float]:
    """Resident MB of the server's processes."""
    found = {}
    for name, word in _WATCHED.items():
        try:
            found[name] = sum(one.memory_info().rss for one in server.children(word)) / 1e6
        except psutil.Error:
            found[name] = 0.0
    return found


def _judged(kept: Path, out: Path, rounds: int, seconds: float) -> Outcome:
    """Means of the second and the last quarter of the rounds; of a run that was resumed, of its longest piece."""
    samples = [json.loads(line) for line in (kept / _SAMPLES).read_text().splitlines()]
    pieces: dict[int, list[dict[str, float]]] = {}
    for sample in samples:
        pieces.setdefault(sample["session"], []).append(sample)
    longest = max(pieces.values(), key=lambda piece: piece[-1]["round"] - piece[0]["round"])
    first, last = max(0, longest[0]["round"]), longest[-1]["round"]
    quarter = (last - first) / 4
    if quarter < 2:
        raise Failed(f"no piece of the run is long enough to judge: {len(pieces)} pieces")
    figures, told, grows = {}, [], False
    for name in _WATCHED:
        early, late = (
            statistics.mean(
                s[name] for s in longest if first + q * quarter <= s["round"] < first + (q + 1) * quarter and s[name]
            )
            for q in (1, 3)
        )
        growth = (late - early) / (2 * quarter) * 100
        figures[f"crowd_{name}_growth"] = (round(growth, 2), "MB/100 rounds")
        told.append(f"{name} {early:.0f} → {late:.0f} MB ({growth:+.1f} MB in 100 rounds)")
        grows |= growth > _FLAT_MB
    trained = [row for row in rows(out) if row["phase"] == "train"]
    faults = sum(len(row["faults"]) for row in trained)
    happened = (
        f"{len(trained)} rounds of {_DEVICES} identities (own keys and connections, one process: no whole SuperNodes),"
        f" {_ASKED:.0%} of them asked in each, in {seconds:.0f} s, {len(pieces)} pieces; {faults} faults"
    )
    lost = "nothing" if len(trained) == rounds and not grows else f"{rounds - len(trained)} rounds; memory"
    figures["crowd_round_seconds"] = (round(statistics.median(row["seconds"] for row in trained), 1), "s")
    return Outcome(happened, lost, "; ".join(told), FAILED if grows or len(trained) != rounds else HELD, figures)


HAZARDS = {"crowd": Hazard(f"{_DEVICES} devices for hundreds of rounds", crowd, _LIMIT_S, pieces.crowd)}
