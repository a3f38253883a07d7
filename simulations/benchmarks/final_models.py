"""Final models of the shipped experiments, tensor by tensor: a change that should change none is held to them.

    python -m simulations.benchmarks.final_models --data-dir DATA            # against results/final_models.json
    python -m simulations.benchmarks.final_models --data-dir DATA --write    # after a change that was meant
    python -m simulations.benchmarks.final_models --quick                    # the digits of one seed

A model is the same bit for bit on one machine; another processor may round otherwise, so the file names its own.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from fedprune.experiment import load
from fedprune.federated.link.engines import local
from fedprune.runs.run import simulate
from simulations.benchmarks._report import machine

_ROOT = Path(__file__).resolve().parents[2]
_FILE = _ROOT / "results" / "final_models.json"
_SEEDS = (0, 1)
EXPERIMENTS: dict[str, list[str]] = {
    "digits": [], "fleet_digits": [], "ucihar": ["rounds=2"], "keywords": ["rounds=2"], "fleet_ucihar": ["rounds=2"],
}  # fmt: skip
"""Experiment -> settings by which it is short."""


def main() -> None:
    """Train what is asked for, and compare or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-dir", help="folder of the data sets")
    parser.add_argument("--quick", action="store_true", help="the digits of one seed; nothing is written")
    parser.add_argument("--write", action="store_true", help="keep what came out")
    options = parser.parse_args()
    names = ["digits"] if options.quick else list(EXPERIMENTS)
    kept = json.loads(_FILE.read_text()) if _FILE.exists() else {"machine": machine()["cpu"], "models": {}}
    if kept["machine"] != machine()["cpu"]:
        print(f"{_FILE.name} is of another machine ({kept['machine']}): what differs may be its rounding")
    differ = 0
    for name in names:
        for seed in _SEEDS[: 1 if options.quick else None]:
            key = f"{name}, seed {seed}"
            found = _tensors(name, seed, options.data_dir)
            known = kept["models"].get(key, {})
            changed = sorted(tensor for tensor in {*known, *found} if known.get(tensor) != found.get(tensor))
            differ += bool(changed)
            said = f"{len(changed)} of {len(found)} tensors differ, such as {changed[0]}" if changed else "the same"
            print(f"{key}: {said}", flush=True)
            if options.write:
                kept["models"][key] = found
    if options.write and not options.quick:
        _FILE.write_text(json.dumps({**kept, "machine": machine()["cpu"]}, indent=2) + "\n")
        print(f"written to {_FILE.relative_to(_ROOT)}")
    elif differ:
        sys.exit(1)


def _tensors(name: str, seed: int, data_dir: str | None) -> dict[str, str]:
    """Tensor or mask -> a hash of its bytes, of the model that the experiment ends in."""
    experiment = load(_ROOT / "simulations" / f"{name}.toml", EXPERIMENTS[name], seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / name
        simulate(experiment, out, source=name, data_dir=data_dir, engine=functools.partial(local, workers=2))
        with np.load(out / "model.npz") as model:
            return {key: hashlib.sha256(model[key].tobytes()).hexdigest()[:16] for key in sorted(model.files)}


if __name__ == "__main__":
    main()
