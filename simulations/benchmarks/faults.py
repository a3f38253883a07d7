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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedprune.data.loading import DATA_DIR
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
_NAME = "hazard_name"
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
    parser.add_argument("--one", nargs=2, metavar=("NAMES", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    crowd.ROUNDS = options.rounds
    if options.data_dir:
        os.environ[DATA_DIR] = str(Path(options.data_dir).absolute())
    if options.one:
        _one(options.one[0].split(","), Path(options.one[1]), quick=options.quick)
        return
    wanted = options.only or list(HAZARDS)
    if options.quick:
        wanted = [name for name in wanted if HAZARDS[name].quick is not None]
    kept = {} if options.quick else _kept()
    due = [name for name in wanted if options.again or kept.get(name, {}).get("verdict", FAILED) == FAILED]
    console = Console(width=170)

    def run(names: Sequence[str]) -> dict[str, dict[str, Any]]:
        found = _watched(names, options.rounds, quick=options.quick)
        for name, one in found.items():
            if not options.quick:
                _keep(name, one)
            console.print(f"{name}: {one['verdict']}, {one['seconds']} s", highlight=False)
        return found

    found = {name: kept[name] for name in wanted if name in kept and name not in due}
    # a process for each; pieces share theirs, which takes seconds to start
    groups = (
        [due[start :: options.jobs] for start in range(options.jobs)] if options.quick else [[name] for name in due]
    )
    with ThreadPoolExecutor(options.jobs) as pool:
        for each in pool.map(run, filter(None, groups)):
            found |= each
    console.print(_table({name: found[name] for name in wanted}))
    if not options.quick and (whole := _kept()).keys() >= HAZARDS.keys():
        console.print(f"written to {_write({name: whole[name] for name in HAZARDS}).relative_to(ROOT)}")


def _one(names: Sequence[str], folder: Path, *, quick: bool) -> None:
    """Run hazards, or their pieces, in this process; what came of each is a line, the last ones printed.

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
    for name in names:
        hazard, place, started = HAZARDS[name], folder / name, time.monotonic()
        place.mkdir()
        try:
            outcome = hazard.quick(place) if quick and hazard.quick is not None else hazard.run(place)
        except Failed as error:
            outcome = _failed(str(error))
        except Exception as error:
            outcome = _failed(f"{type(error).__name__}: {error}")
        found = {**outcome._asdict(), "figures": dict(outcome.figures), "seconds": round(time.monotonic() - started)}
        print(json.dumps({_NAME: name, **found}), flush=True)


def _watched(names: Sequence[str], rounds: int, *, quick: bool) -> dict[str, dict[str, Any]]:
    """Hazard -> its outcome, in a process of their own, which is ended with all that it started."""
    folder = Path(tempfile.mkdtemp(prefix="fedprune-faults-"))
    command = [sys.executable, "-m", "simulations.benchmarks.faults", "--one", ",".join(names), str(folder)]
    more = ["--rounds", str(rounds), *(["--quick"] * quick)]
    limit_s = sum(HAZARDS[name].limit_s for name in names)
    try:
        done = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, timeout=limit_s)
        said, why = done.stdout, last_line(done.stdout + done.stderr)
    except subprocess.TimeoutExpired as late:
        said, why = str(late.stdout or ""), f"not over after {limit_s:.0f} s"
    found = {name: {**_failed(why)._asdict(), "figures": {}, "seconds": 0} for name in names}
    for line in said.splitlines():
        if line.startswith(f'{{"{_NAME}"'):
            one = json.loads(line)
            found[one.pop(_NAME)] = one
    for name in names:
        if found[name]["verdict"] != FAILED and (left := [one.pid for one in marked(f"{folder / name}/")]):
            found[name] |= {"verdict": FAILED, "seen": f"{len(left)} processes stayed behind"}
    kill_marked(f"{folder}/")
    for name in names:
        if found[name]["verdict"] == FAILED:
            _keep_logs(folder / name, state_folder() / name)
    shutil.rmtree(folder, ignore_errors=True)
    return found


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
