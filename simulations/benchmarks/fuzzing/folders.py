"""Files of a run's folder, which may be another's: checkpoints, metrics, the result."""

from __future__ import annotations

import io
import json
import math
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from fedprune import experiment as _experiment
from fedprune.cli.ended import summary
from fedprune.data.agreement import Agreed
from fedprune.experiment import ExperimentError
from fedprune.federated.rounds.model import State, read, save
from fedprune.runs.folder import RunFolder, _saved
from fedprune.runs.folder_files import FORMS, SHIPPED, Checked, Result, TierResult, Worst
from fedprune.runs.setting import prepare
from simulations.benchmarks.fuzzing import honest
from simulations.benchmarks.fuzzing.target import Target
from simulations.benchmarks.fuzzing.texts import in_a_file

_MOST_INPUTS = 2**22
"""Numbers that a model of any size may have; who writes a larger one into a run's folder may have it made."""


def _checkpoint_seeds() -> Sequence[bytes]:
    state = honest.trained()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, each in enumerate((state, State(-1, state.params), state.view(next(iter(state.parts))))):
            save(each, Path(folder) / str(number))
            found.append((Path(folder) / str(number)).read_bytes())
    return found


def _read(path: Path) -> None:
    found = read(path)
    assert isinstance(found.standing, str)
    assert all(isinstance(each, str) for each in found.done)
    honest.setting().fits(found, str(path))
    assert 0 <= found.density() <= 1


def _mended(data: bytes) -> None:
    in_a_file("checkpoint", _read)(data + zlib.crc32(data).to_bytes(4, "little"))


def _row_seeds() -> Sequence[bytes]:
    rows = [
        {"round": 0, "phase": "losses", "devices": 4, "seconds": 1.5, "faults": {}, "density": 0.3},
        {"round": 1, "phase": "train", "loss": 2.25, "accuracy": 0.5, "faults": {"2": "no reply"}, "bytes_up": 1000},
        {"round": 1, "phase": "evaluate", "accuracy": 0.25, "part": "small", "bytes_down": 900},
    ]
    return ["".join(json.dumps(row) + "\n" for row in rows).encode()]


def _rows(path: Path) -> None:
    folder = RunFolder(path.parent)
    for row in folder.rows():
        _saved(row, State(1, {}))


def _result_seeds() -> Sequence[bytes]:
    worst, accuracies = Worst(2, 0.5), {"0": 0.9, "1": None, "2": 0.5}
    tiers = {
        name: TierResult(
            name, "", 2, 0.1, 0.9, 0.89, worst, accuracies, 9000, 10_000, 4000, 0, 0, 0, fits=True, bytes={"a": 1}
        )
        for name in honest.setting().experiment.fleet
    }
    result = Result(
        "digits", "fedtiny", "digits_cnn", "digits", devices=4, rounds=2, seed=0, accuracy_float=0.9,
        accuracy_int8=0.89, density=0.1, density_all=0.2, parameters=1000, parameters_kept=200, arena_bytes=4000,
        bytes=dict.fromkeys(SHIPPED, 9000), bytes_up=10**6, bytes_down=10**7,
        checks=dict.fromkeys(FORMS, Checked(100, 0.9, 1.0)), versions={"fedprune": "0.1.0"}, c99_arena_bytes=2000,
        c99_constants_bytes=5000, c99_flash_bytes_predicted=8000, tiers=tiers,
    )  # fmt: skip
    return [json.dumps(msgspec.to_builtins(result), indent=2).encode()]


def _result(path: Path) -> None:
    (path.parent / "experiment.json").write_text(_experiment.to_json(honest.setting().experiment))
    summary(Console(file=io.StringIO()), RunFolder(path.parent).read_result(), path.parent)


def _agreed_seeds() -> Sequence[bytes]:
    data = msgspec.structs.replace(
        honest.own().data, classes=("a", "b", "c"), shape=(1, 8, 8), mean=(0.25,), std=(1.5,)
    )
    holds = {name: {"train": 30, "development": 4, "test": 6} for name in ("attic", "kitchen")}
    with tempfile.TemporaryDirectory() as folder:
        RunFolder(Path(folder)).agree(Agreed(data, holds))
        return [(Path(folder) / "agreed.json").read_bytes()]


def _agreed(path: Path) -> None:
    (path.parent / "experiment.json").write_text(_experiment.to_json(honest.own()))
    kept = RunFolder(path.parent).agreed()
    if kept is not None and math.prod(kept.settings.shape) * len(kept.settings.classes) < _MOST_INPUTS:
        prepare(honest.own(), str(path), None, kept)


TARGETS = {
    "checkpoints": Target(_checkpoint_seeds, in_a_file("checkpoint", _read), (ValueError,)),
    "checkpoints_mended": Target(lambda: [each[:-4] for each in _checkpoint_seeds()], _mended, (ValueError,)),
    "metrics": Target(_row_seeds, in_a_file("metrics.jsonl", _rows), (ExperimentError,)),
    "agreed": Target(_agreed_seeds, in_a_file("agreed.json", _agreed), (ExperimentError,)),
    "result": Target(_result_seeds, in_a_file("result.json", _result), (ExperimentError,)),
}
