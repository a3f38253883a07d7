"""One process of benchmark `training`: rounds of a simulated ResNet-18, dense or at a density; prints one's seconds.

Run as ``python -m simulations.benchmarks._training_round ENGINE DENSITY``; density 1 is dense.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from fedprune.experiment import parse
from fedprune.federated.link import engines
from fedprune.runs.folder import RunFolder
from fedprune.runs.setting import prepare
from simulations.benchmarks import _memory_device
from simulations.benchmarks._rounds import drive

DEVICES, ROUNDS, EPOCHS = 2, 2, 8  # of 58 training examples a device: as many steps as one epoch over 464


def main() -> None:
    engine, density = sys.argv[1], float(sys.argv[2])
    table: dict[str, Any] = {
        "name": "round",
        "data": {"name": f"{_memory_device.__name__}:images", "partition": "iid", "devices": DEVICES, "public": 0},
        "model": "resnet18",
        "method": {"name": "fedavg"} if density == 1 else {"name": "magnitude", "density": density},
        "rounds": ROUNDS,
        "evaluate_every": ROUNDS,
        "training": {"epochs": EPOCHS, "batch": 32, "engine": engine, "augment": False},
        "pretraining": {"epochs": 0},
    }
    experiment = parse(table, "benchmark")
    setting = prepare(experiment, "benchmark")
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name))
        folder.begin(experiment)
        engines.local(DEVICES, None, lambda grid: drive(grid, setting, folder, None), workers=1)
        seconds = [row["seconds"] for row in folder.rows() if row["phase"] == "train"]
    print(json.dumps({"seconds": min(seconds)}))


if __name__ == "__main__":
    main()
