"""Foreign bytes at every door: thousands of spoilt inputs each, and whether each was refused cleanly.

    python -m simulations.benchmarks.fuzz [--only NAME ...]
    python -m simulations.benchmarks.fuzz --quick
    python -m simulations.benchmarks.fuzz --only NAME --case NUMBER

Every input follows from (seed, target, number), so that the last form repeats one finding with its traceback. What a
full run has tried is kept under runs/fuzz/, so that it can be stopped and go on; --again starts over.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from simulations.benchmarks._report import Figure, write
from simulations.benchmarks.fuzzing import trying
from simulations.benchmarks.fuzzing.trying import ACCEPTED, HANG, REFUSED, SIGNAL, UNDOCUMENTED, Piece, Tried
from simulations.benchmarks.soak.stage import ROOT

INPUTS, QUICK_INPUTS = 10_000, 150
COMMAND = "python -m simulations.benchmarks.fuzz"
_STATE = ROOT / "runs" / "fuzz"
_PIECE = 500
_FINDINGS = 50
"""Of a target, that are kept with their errors; all are counted."""


def main() -> None:
    """Try what is missing, then print the table, and write it where every target is whole."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="within a minute; nothing is kept")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these targets alone")
    parser.add_argument("--seed", type=int, default=0, help="of all mutations")
    parser.add_argument("--case", type=int, metavar="NUMBER", help="this input of --only NAME, with its traceback")
    parser.add_argument("--again", action="store_true", help="also what is finished")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--pieces", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        trying.child([Piece(*piece) for piece in options.pieces], options.seed, options.child)
        return
    every = list(trying.targets())
    wanted = options.only or every
    if unknown := sorted(set(wanted) - set(every)):
        parser.error(f"unknown target {unknown[0]}; there are: {', '.join(every)}")
    if options.case is not None:
        _repeat(wanted[0], options.seed, options.case)
        return
    console = Console(width=150)
    kept = {name: _begun(name, options.seed, options.quick or options.again) for name in wanted}
    inputs = QUICK_INPUTS if options.quick else INPUTS
    pieces = [Piece(name, kept[name]["next"], inputs) for name in wanted if kept[name]["next"] < inputs]
    started, said = time.monotonic(), set()
    for one in trying.tried(pieces, options.seed):
        counts = kept[one.target]
        _count(counts, one)
        if one.verdict not in (ACCEPTED, REFUSED) and (kind := (one.target, _kind(one.why))) not in said:
            said.add(kind)
            console.print(f"{one.target} {one.number}: {one.verdict}: {one.why}", markup=False, highlight=False)
        if not options.quick and (counts["next"] % _PIECE == 0 or counts["next"] == inputs):
            _keep(one.target, counts)
            if counts["next"] == inputs:
                console.print(f"{one.target}: done, {time.monotonic() - started:.0f} s", highlight=False)
    console.print(_table(kept))
    if not options.quick and all(_kept(name, options.seed).get("next") == INPUTS for name in every):
        path = _write({name: _kept(name, options.seed) for name in every}, options.seed)
        console.print(f"written to {path.relative_to(ROOT)}")


def _kind(why: str) -> str:
    """An error without what it quotes: the type, and where it was raised."""
    return why.partition(":")[0] + why.rpartition(" at ")[2]


def _repeat(name: str, seed: int, number: int) -> None:
    target = trying.targets()[name]
    data = trying.case(name, seed, number, target.seeds())
    print(f"{len(data)} bytes: {data[:2000]!r}", flush=True)
    target.run(data)
    print("accepted")


def _begun(name: str, seed: int, afresh: bool) -> dict[str, Any]:
    found = {} if afresh else _kept(name, seed)
    verdicts = dict.fromkeys((REFUSED, ACCEPTED, UNDOCUMENTED, SIGNAL, HANG), 0)
    return found or {"seed": seed, "next": 0, **verdicts, "most_mib": 0.0, "most_s": 0.0, "findings": []}


def _kept(name: str, seed: int) -> dict[str, Any]:
    file = _STATE / f"{name}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found if found.get("seed") == seed else {}


def _keep(name: str, counts: dict[str, Any]) -> None:
    _STATE.mkdir(parents=True, exist_ok=True)
    half = _STATE / f"{name}.half"
    half.write_text(json.dumps(counts, indent=2) + "\n")
    half.replace(_STATE / f"{name}.json")


def _count(counts: dict[str, Any], one: Tried) -> None:
    counts["next"] = one.number + 1
    counts[one.verdict] += 1
    for key, value in (("most_mib", round(one.kib / 1024, 1)), ("most_s", one.seconds)):
        if value > counts[key]:
            counts |= {key: value, f"{key}_at": one.number}
    if one.verdict not in (ACCEPTED, REFUSED) and len(counts["findings"]) < _FINDINGS:
        counts["findings"].append({"number": one.number, "verdict": one.verdict, "error": one.why})


def _table(found: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="Spoilt inputs, and what became of them")
    names = ("target", "inputs", "refused", "accepted", "undocumented", "signals", "hangs", "most MiB", "most s")
    for name in names:
        table.add_column(name, justify="left" if name == "target" else "right")
    for name, one in found.items():
        cells: Iterable[Any] = (one[key] for key in ("next", REFUSED, ACCEPTED, UNDOCUMENTED, SIGNAL, HANG))
        table.add_row(name, *(f"{cell:,}" for cell in cells), f"{one['most_mib']:,.1f}", f"{one['most_s']:.2f}")
    return table


def _write(found: dict[str, dict[str, Any]], seed: int) -> Path:
    """results/fuzz.json: the figures, and what became of every target's inputs."""
    every: Sequence[dict[str, Any]] = list(found.values())
    figures = {
        "fuzzed_inputs": Figure(sum(one["next"] for one in every), "inputs", "higher", INPUTS * len(every)),
        "undocumented_errors": Figure(sum(one[UNDOCUMENTED] for one in every), "inputs", "lower", 0),
        "killed_by_an_input": Figure(sum(one[SIGNAL] for one in every), "inputs", "lower", 0),
        "hung_by_an_input": Figure(sum(one[HANG] for one in every), "inputs", "lower", 0),
        "most_memory_of_an_input": Figure(max(one["most_mib"] for one in every), "MiB", "lower", 256),
        "most_seconds_of_an_input": Figure(max(one["most_s"] for one in every), "s", "lower", trying.LIMIT_S),
    }
    path = write("fuzz", figures, COMMAND + (f" --seed {seed}" if seed else ""), ["flwr", "msgspec", "torch"])
    content = json.loads(path.read_text()) | {"targets": found}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path


if __name__ == "__main__":
    main()
