"""Hazards of a real fleet: what became of the run under each, over real processes.

    python -m simulations.benchmarks.faults --data-dir DATA
    python -m simulations.benchmarks.faults --quick

Power that goes, links that lose packets, wrong clocks, false replies, strangers, a crowd, old software. What a full run
has finished is kept under runs/faults/, so that it can be stopped and go on; a hazard that failed is tried again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedprune.federated.device import DATA_DIR
from simulations.benchmarks._report import Figure, write
from simulations.benchmarks.soak import (
    bounds,
    clock,
    crowd,
    draws,
    folders,
    foreign,
    link,
    orphans,
    power,
    replies,
    speakers,
    strangers,
    versions,
)
from simulations.benchmarks.soak.outcome import FAILED, SKIPPED, Failed, Hazard, Outcome
from simulations.benchmarks.soak.stage import ROOT, kill_marked, last_line, marked, state_folder

_KINDS = (
    replies, power, link, clock, strangers, versions, speakers, crowd, folders, draws, orphans, bounds, foreign,
)  # fmt: skip
HAZARDS: dict[str, Hazard] = {name: hazard for kind in _KINDS for name, hazard in kind.HAZARDS.items()}
COMMAND = "python -m simulations.benchmarks.faults --data-dir DATA"


def main() -> None:
    """Run what is missing, then print the table, and write it where it is whole."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a piece of every kind, within a minute; nothing is kept")
    parser.add_argument("--only", nargs="+", choices=list(HAZARDS), help="these alone")
    parser.add_argument("--again", action="store_true", help="also those that are finished")
    parser.add_argument("--jobs", type=int, default=2, help="hazards at a time; most of them wait for most of it")
    parser.add_argument("--rounds", type=int, default=200, help="of the crowd")
    parser.add_argument("--data-dir", help="folder of the data sets, for the one that wants recordings")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    crowd.ROUNDS = options.rounds
    if options.data_dir:
        os.environ[DATA_DIR] = str(Path(options.data_dir).absolute())
    if options.one:
        _one(HAZARDS[options.one[0]], Path(options.one[1]), quick=options.quick)
        return
    wanted = options.only or list(HAZARDS)
    if options.quick:
        wanted = [name for name in wanted if HAZARDS[name].quick is not None]
    kept = {} if options.quick else _kept()
    due = [name for name in wanted if options.again or kept.get(name, {}).get("verdict", FAILED) == FAILED]
    console = Console(width=170)

    def run(name: str) -> tuple[str, dict[str, Any]]:
        started = time.monotonic()
        found = _watched(name, options.rounds, quick=options.quick)._asdict() | {
            "seconds": round(time.monotonic() - started)
        }
        found["figures"] = dict(found["figures"])
        if not options.quick:
            _keep(name, found)
        console.print(f"{name}: {found['verdict']}, {found['seconds']} s", highlight=False)
        return name, found

    found = {name: kept[name] for name in wanted if name in kept and name not in due}
    with ThreadPoolExecutor(options.jobs) as pool:
        found |= dict(pool.map(run, due))
    console.print(_table({name: found[name] for name in wanted}))
    if not options.quick and (whole := _kept()).keys() >= HAZARDS.keys():
        console.print(f"written to {_write({name: whole[name] for name in HAZARDS}).relative_to(ROOT)}")


def _one(hazard: Hazard, folder: Path, *, quick: bool) -> None:
    """Run one hazard, or its piece, in this process; its outcome is the last line printed.

    It ends with the process that waits.
    """
    waits = os.getppid()

    def watch() -> None:
        while os.getppid() == waits:
            time.sleep(1)
        kill_marked(f"{folder}/")
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        outcome = hazard.quick(folder) if quick and hazard.quick is not None else hazard.run(folder)
    except Failed as error:
        outcome = _failed(str(error))
    print(json.dumps({**outcome._asdict(), "figures": dict(outcome.figures)}))


def _watched(name: str, rounds: int, *, quick: bool) -> Outcome:
    """The outcome of a hazard in a process of its own, which is ended with all that it started."""
    folder = Path(tempfile.mkdtemp(prefix="fedprune-faults-"))
    command = [sys.executable, "-m", "simulations.benchmarks.faults", "--one", name, str(folder)]
    more = ["--rounds", str(rounds), *(["--quick"] * quick)]
    try:
        done = subprocess.run(
            [*command, *more], cwd=ROOT, capture_output=True, text=True,
            timeout=HAZARDS[name].limit_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        outcome = _failed(f"not over after {HAZARDS[name].limit_s:.0f} s")
    else:
        try:
            outcome = Outcome(**json.loads(last_line(done.stdout, whole=True)))
        except (json.JSONDecodeError, TypeError):
            outcome = _failed(last_line(done.stdout + done.stderr))
    left = [one.pid for one in marked(f"{folder}/")]
    kill_marked(f"{folder}/")
    if left and outcome.verdict != FAILED:
        outcome = _failed(f"{len(left)} processes stayed behind")
    if outcome.verdict == FAILED:
        _keep_logs(folder, state_folder() / name)
    shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _failed(why: str) -> Outcome:
    return Outcome("-", "-", why, FAILED)


def _keep_logs(folder: Path, to: Path) -> None:
    """Logs and metrics of a hazard that failed, for who looks into it."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    for file in (*folder.glob("*.log"), *folder.glob("fleet/runs/*/*.jsonl"), *folder.glob("fleet/logs/*")):
        shutil.copy(file, to / file.name)


def _kept() -> dict[str, dict[str, Any]]:
    """Finished hazards, by name."""
    return {file.stem: json.loads(file.read_text()) for file in state_folder().glob("*.json") if file.stem in HAZARDS}


def _keep(name: str, outcome: dict[str, Any]) -> None:
    state_folder().mkdir(parents=True, exist_ok=True)
    (state_folder() / f"{name}.json").write_text(json.dumps(outcome, indent=2) + "\n")


def _table(found: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="Hazards of a fleet", show_lines=True)
    for column in ("hazard", "what happened to the run", "what was lost", "what the operator saw", "verdict"):
        table.add_column(column, overflow="fold")
    for name, one in found.items():
        cells = (HAZARDS[name].title, one["happened"], one["lost"], one["seen"], one["verdict"])
        table.add_row(*(escape(cell) for cell in cells))
    return table


def _write(found: dict[str, dict[str, Any]]) -> Path:
    """results/faults.json: the figures, and the table."""
    verdicts = [one["verdict"] for one in found.values()]
    figures = {
        "failed_faults": Figure(verdicts.count(FAILED), "hazards", "lower", 0),
        "faults_run": Figure(len(verdicts) - verdicts.count(SKIPPED), "hazards", "higher", len(HAZARDS)),
    }
    for one in found.values():
        figures |= {key: Figure(value, unit, "lower") for key, (value, unit) in one["figures"].items()}
    path = write("faults", figures, COMMAND, ["flwr", "torch"])
    table = [{"hazard": HAZARDS[name].title, **one} for name, one in found.items()]
    content = json.loads(path.read_text()) | {"hazards": table}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path


if __name__ == "__main__":
    main()
