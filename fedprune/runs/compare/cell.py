"""One run of a comparison, to its last round, and what it came to."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedprune import __version__
from fedprune import experiment as _experiment
from fedprune.data import DeviceData, Schema
from fedprune.data.loading import device_parts
from fedprune.experiment import ExperimentError
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases.local_steps import ROUTE
from fedprune.files import write_atomically
from fedprune.runs import accounts
from fedprune.runs.accounts import Accounts
from fedprune.runs.drive import rounds
from fedprune.runs.folder import RunFolder
from fedprune.runs.outcome import finish
from fedprune.runs.setting import Setting, prepare
from fedprune.tasks import metric_in, value_in

if TYPE_CHECKING:
    from flwr.serverapp import Grid

_FILES = ("bytes", "arena_bytes", "c99_flash_bytes_predicted", "c99_arena_bytes")
LAST = 10
"""Tests that a run's end is averaged over."""
_DIGITS = 6  # that count, of a metric: more tell nothing, and a table of a thousand cells is a file that one sends
_ENDED = "cell.json"
ACCOUNTED = ("flops", "training_bytes", "link_bytes")


class Work(NamedTuple):
    """What a process is given to do: plain values, so that any process, on any machine, can take it."""

    experiment: str
    """As `fedprune.experiment.to_json` writes it."""
    folder: str
    source: str
    """The file to name in errors."""
    data_dir: str | None
    whole: bool = False
    """Whether the model is exported too, and what a device and a chip take is measured."""


def late(told: Mapping[str, Any]) -> float:
    """The mean of a cell's last ten tests, which hangs less on luck than its last one."""
    return float(statistics.mean(value for _, value in told["curve"][-LAST:]))


def asked(work: Work) -> str:
    """A digest of what a cell was asked for in words: its experiment with seed and method, as its file writes them.

    What lies elsewhere is not in it: the data, code of one's own, this library's version.
    """
    return hashlib.sha256(work.experiment.encode()).hexdigest()[:16]


def answers(told: Any, work: Work) -> bool:
    """Whether what was kept of some cell is all that is asked of this one."""
    same = isinstance(told, dict) and told.get("asked") == asked(work) and isinstance(told.get("curve"), list)
    return same and (not work.whole or "device" in told)


def run(work: Work) -> dict[str, Any]:
    """Run a cell, or go on with it: what it came to. ExperimentError, RunStopped as for a simulation.

    It is kept in the cell's folder as well, since whoever asked may be gone when it ends.
    """
    if (kept := _kept(work)) is not None:
        return kept
    from fedprune.federated.link import engines

    experiment = _experiment.from_json(work.experiment, work.source)
    setting = prepare(experiment, work.source, work.data_dir)
    folder, found = RunFolder(Path(work.folder)), dict[str, Any]()

    def serve(grid: Grid) -> None:
        found.update(_served(grid, setting, folder, work))

    with folder.held():
        engines.local(len(setting.holds), work.data_dir, serve, workers=1)
        found = {"asked": asked(work), "version": __version__, **found}
        write_atomically(folder.path / _ENDED, json.dumps(found).encode())
        if not work.whole:  # so that hundreds of cells take no room
            for path in (folder.checkpoint, folder.before):
                path.unlink(missing_ok=True)
    return found


def _kept(work: Work) -> dict[str, Any] | None:
    """What a cell came to that has ended in its folder; None where it is to be run."""
    try:
        found: dict[str, Any] = json.loads((Path(work.folder) / _ENDED).read_bytes())
    except (OSError, ValueError):
        return None
    return found if answers(found, work) else None


def _served(grid: Grid, setting: Setting, folder: RunFolder, work: Work) -> dict[str, Any]:
    from fedprune.federated.link.local_grid import LocalGrid
    from fedprune.runs import over_flower
    from fedprune.runs.compare import replay

    assert isinstance(grid, LocalGrid)
    experiment = setting.experiment
    sizes = [parts["train"] for parts in setting.holds.values()]
    index = sizes.index(max(sizes))
    kept = replay.Kept(grid.get_node_ids()[index])
    grid.heard = kept if work.whole else grid.heard
    link = over_flower.link(grid, experiment, lambda row: None, gives=setting.holds, more=setting.more())
    try:
        state = folder.resume(experiment)
    except ExperimentError:  # of another experiment, or damaged: a cell is cheap to run again
        state = None
    if state is None or (work.whole and state.round == experiment.rounds):  # what devices got last is to be heard
        state = None
        folder.begin(experiment)
    last, _ = rounds(link, setting, folder, state, lambda row: None)
    found = outcome(setting, folder.rows(), last)
    if not work.whole:
        return found
    messages, parts = dict(kept.messages), device_parts(experiment, index, work.data_dir)
    # no device is asked how the files do: a table has torch's accuracy, and on many examples they take long
    result = finish(setting, folder, folder.state(), lambda which, last: [{} for _ in which])
    return {
        **found,
        "device": _device(messages, setting.schema, parts),
        "files": {key: result.get(key) for key in _FILES},
        "chip": _chip(folder.path),
    }


def outcome(setting: Setting, rows: Sequence[Mapping[str, Any]], state: State) -> dict[str, Any]:
    """What a run's lines come to: its metric by round, its worst device, bytes, seconds, and accounted costs.

    Where tiers have models of their own, the metric is the mean of all of them.
    """
    tests: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["phase"] == "evaluate" and _values([row]):
            tests.setdefault(row["round"], []).append(row)
    trained = [row for row in rows if row["phase"] == ROUTE]
    last = list(tests.values())[-1] if tests else []
    worst = _values(row["worst"] for row in last if row.get("worst"))
    devices = [row["mean_device"] for row in last if row.get("mean_device") is not None]
    costs = Accounts(setting)
    accounted = [costs.of(row["kept"]) for row in trained if row.get("kept")]
    return {
        **({"metric": last[0]["metric"]} if last and last[0].get("metric") else {}),
        **({"unmet": list(setting.unmet)} if setting.unmet else {}),
        **({"tiers": {row["part"]: _rounded(*_values([row])) for row in last}} if len(last) > 1 else {}),
        "curve": [[round, _rounded(statistics.mean(_values(each)))] for round, each in tests.items()],
        "worst": (min if not last or metric_in(last[0]).higher else max)(worst, default=None),
        "mean_device": statistics.mean(devices) if devices else None,
        "density": _density(state, setting),
        "bytes_up": sum(row.get("bytes_up") or 0 for row in rows),
        "bytes_down": sum(row.get("bytes_down") or 0 for row in rows),
        "rounds": len({row["round"] for row in trained}),
        "seconds": sum(row.get("seconds") or 0 for row in rows),
        **{key: max(found) for key in ACCOUNTED if (found := [each[key] for each in accounted if key in each])},
    }


def _values(rows: Iterable[Mapping[str, Any]]) -> list[float]:
    return [value for row in rows if (value := value_in(row)) is not None]


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _density(state: State, setting: Setting) -> float:
    kept = accounts.kept(state, setting)
    return sum(kept.values()) / sum(int(np.prod(setting.layers[name])) for name in kept)


def _device(messages: Mapping[str, Any], schema: Schema, parts: DeviceData) -> dict[str, Any]:
    """What a device's process takes; why that is not known, where it fails."""
    from fedprune.runs.compare import replay

    try:
        return dict(replay.replayed(messages, schema, parts))
    except RuntimeError as error:
        return {"why": str(error)}


def _chip(folder: Path) -> dict[str, Any]:
    """Flash, RAM and instructions of the model's C sources on an emulated Cortex-M4; why not, where that cannot be."""
    from fedprune.export.chip import benching

    file = folder / "model.tflite"
    if not file.exists():
        return {"why": "no file"}
    try:
        costs = benching.on_chip(file.read_bytes(), "cortex-m4")
    except (RuntimeError, ValueError) as error:
        return {"why": str(error)}
    return {
        way: {"flash_bytes": each.flash_bytes, "ram_bytes": each.ram_bytes, "instructions": each.instructions}
        for way, each in costs.items()
    }
