"""Benchmark of a round over Flower's real processes on loopback: what of it is training, and what the link takes.

    python -m simulations.benchmarks.deployment [--quick]

A server with TLS and keys, two devices, digits. Devices say how long they worked on a message; the rest of a round is
Flower's: its polls, a new process for each message, and the library's import. A SuperNode asks for work every three
seconds and no sooner, which is most of it and the limit beside which the figure is written.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from simulations.benchmarks._report import RESULTS, Figure, write
from simulations.benchmarks.soak import outcome
from simulations.benchmarks.soak.stage import Stage

TARGET_S, _POLL_S = 6.5, 3.0
_COMMAND = "python -m simulations.benchmarks.deployment"


def rounds_of(folder: Path, rounds: int) -> list[dict[str, float]]:
    """Seconds of each round but the first, whole and the devices' own; its test of the round before comes with it."""
    settings = (f"rounds={rounds}", "evaluate_every=1", "training.epochs=2", "method.period=1000", "deadline_s=0")
    with Stage(folder, settings=settings) as stage:
        stage.serve()
        for name in ("kitchen", "attic"):
            stage.join(name)
        time.sleep(10)
        stage.finish(stage.run())
        rows = outcome.rows(stage.out)
    found = []
    for round in range(2, rounds + 1):
        mine = [row for row in rows if (row["round"], row["phase"]) in ((round, "train"), (round - 1, "evaluate"))]
        whole, devices = (sum(row[key] for row in mine) for key in ("seconds", "device_seconds"))
        found.append({"whole": whole, "devices": devices, "flower": whole - devices})
    return found


def main() -> None:
    """Print the rounds, and write results/deployment.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="three rounds, about a minute; nothing is written")
    quick = parser.parse_args().quick
    console = Console()
    with tempfile.TemporaryDirectory(prefix="fedprune-deployment-") as folder:
        found = rounds_of(Path(folder), 3 if quick else 12)
    table = Table("round", "whole, s", "devices, s", "Flower, s", title="A round of training and testing, two devices")
    for number, one in enumerate(found, 2):
        table.add_row(str(number), *(f"{one[key]:.2f}" for key in ("whole", "devices", "flower")))
    console.print(table)
    middle = {key: statistics.median(one[key] for one in found) for key in found[0]}
    figures = {
        "flower_s": Figure(middle["flower"], "s a round", "lower", TARGET_S, {"one poll of a SuperNode": _POLL_S}),
        "devices_s": Figure(middle["devices"], "s a round", "lower"),
        "round_s": Figure(middle["whole"], "s a round", "lower"),
    }
    console.print(f"Flower: {middle['flower']:.2f} s a round in the middle, target {TARGET_S:g}")
    if not quick:
        console.print(
            f"written to {write('deployment', figures, _COMMAND, ['flwr', 'torch']).relative_to(RESULTS.parent)}"
        )


if __name__ == "__main__":
    main()
