"""One run of a comparison, to its last round, and what is kept of it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedprune import experiment as _experiment
from fedprune import tasks
from fedprune.budgets import accounted
from fedprune.data import DeviceData, Schema
from fedprune.data.loading import federation
from fedprune.experiment import ExperimentError
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases.local_steps import ROUTE
from fedprune.files import write_atomically
from fedprune.graph import Graph, UnsupportedOperation
from fedprune.methods import owning
from fedprune.methods.asking import rehearsed
from fedprune.runs.drive import drive, rounds
from fedprune.runs.folder import RunFolder
from fedprune.runs.setting import Setting, prepare
from fedprune.tasks import value_in

if TYPE_CHECKING:
    from flwr.serverapp import Grid

_SWAPPED = 0.3  # of the kept weights, at most, in one adjustment: α of RigL, FedTiny and others
_FILES = ("bytes", "arena_bytes", "c99_flash_bytes_predicted", "c99_arena_bytes")
_LAST = 10  # tests that a run's end is averaged over
_SEEN = 30  # rounds in which a method shows whether it grows
CELL, CHECK = "cell.json", "check"


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


def done(work: Work) -> dict[str, Any] | None:
    """What was kept of a cell that is complete and was asked for in the same words; else None."""
    try:
        kept = json.loads((Path(work.folder) / CELL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(kept, dict) and kept.get("experiment") == json.loads(work.experiment)
    return kept if same and (not work.whole or "device" in kept) else None


def late(told: Mapping[str, Any]) -> float:
    """The mean of a cell's last ten tests, which hangs less on luck than its last one."""
    return float(statistics.mean(value for _, value in told["curve"][-_LAST:]))


def keep(folder: Path, told: Mapping[str, Any]) -> None:
    """Write what is kept of a cell."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / CELL, (json.dumps(told, indent=1) + "\n").encode())


def run(work: Work) -> dict[str, Any]:
    """Run a cell, or go on with it, and keep what it came to. ExperimentError, RunStopped as for a simulation."""
    if (kept := done(work)) is not None:
        return kept
    from fedprune.federated.link import engines

    experiment = _experiment.from_json(work.experiment, work.source)
    setting = prepare(experiment, work.source, work.data_dir)
    folder, found = _Watched(Path(work.folder), setting), dict[str, Any]()

    def serve(grid: Grid) -> None:
        found.update(_served(grid, setting, folder, work))

    with folder.held():
        engines.local(len(setting.holds), work.data_dir, serve, workers=1)
        found = {"experiment": json.loads(work.experiment), **found}
        keep(folder.path, found)
        if not work.whole:  # so that hundreds of cells take no room
            for path in (folder.checkpoint, folder.before):
                path.unlink(missing_ok=True)
    return found


class _Watched(RunFolder):
    """A run's folder that remembers what training would cost by the conventions of papers."""

    def __init__(self, path: Path, setting: Setting) -> None:
        super().__init__(path)
        self.last: State | None = None
        self.costs = _Costs(setting)

    def save(self, state: State) -> None:
        super().save(state)
        self.last = state

    def add(self, row: Mapping[str, Any]) -> None:
        # before the state that the phase led to is saved: the last is the one that was trained, or measured
        accounts = self.costs.of(self.last) if self.last is not None and row["phase"] == ROUTE else {}
        super().add({**row, **accounts})


def _served(grid: Grid, setting: Setting, folder: _Watched, work: Work) -> dict[str, Any]:
    from fedprune.federated.link.local_grid import LocalGrid
    from fedprune.runs import over_flower
    from fedprune.runs.compare import replay

    assert isinstance(grid, LocalGrid)
    experiment = setting.experiment
    index = max(range(len(setting.holds)), key=lambda each: setting.holds[each]["train"])
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
    folder.last = state
    last, _ = rounds(link, setting, folder, state, lambda row: None)
    found = outcome(setting, folder.rows(), last)
    if not work.whole:
        return found
    messages, dealt = dict(kept.messages), federation(experiment, work.data_dir).devices[index]
    result = drive(link, setting, folder, folder.state(), lambda row: None)
    return {
        **found,
        "device": _device(messages, setting.schema, dealt),
        "files": {key: result.get(key) for key in _FILES},
        "chip": _chip(folder.path),
    }


def outcome(setting: Setting, rows: Sequence[Mapping[str, Any]], state: State) -> dict[str, Any]:
    """What a run's lines come to: its metric by round, its worst device, bytes, seconds, and accounted costs."""
    tested = [row for row in rows if row["phase"] == "evaluate" and value_in(row) is not None]
    trained = [row for row in rows if row["phase"] == ROUTE]
    last = tested[-1] if tested else {}
    rows = [row for row in rows if row["phase"] != CHECK]
    return {
        "curve": [[row["round"], value_in(row)] for row in tested],
        "worst": value_in(last["worst"]) if last.get("worst") else None,
        "mean_device": last.get("mean_device"),
        "density": _density(state, setting),
        "bytes_up": sum(row.get("bytes_up") or 0 for row in rows),
        "bytes_down": sum(row.get("bytes_down") or 0 for row in rows),
        "rounds": len({row["round"] for row in trained}),
        "seconds": sum(row.get("seconds") or 0 for row in rows),
        **{
            key: max(found)
            for key in ("flops", "training_bytes", "link_bytes")
            if (found := [row[key] for row in rows if key in row])
        },
    }


def _density(state: State, setting: Setting) -> float:
    kept = _kept(state, setting)
    return sum(kept.values()) / sum(int(np.prod(setting.layers[name])) for name in kept)


def _kept(state: State, setting: Setting) -> dict[str, float]:
    """Kept weights of each prunable layer; of devices with masks of their own, their mean."""
    sizes = {name: float(np.prod(shape)) for name, shape in setting.layers.items()}
    masks = state.view(next(iter(state.parts), "")).masks
    kept = {name: float(np.count_nonzero(masks[name])) if name in masks else size for name, size in sizes.items()}
    own = [owning.mask_of(state.model(), device) for device in owning.devices(state.model())]
    return kept | {
        name: float(np.mean([np.count_nonzero(mask[name]) for mask in own if name in mask]))
        for name in kept
        if any(name in mask for mask in own)
    }


class _Costs:
    """Costs of a round by the conventions of papers, of the device with the most examples."""

    def __init__(self, setting: Setting) -> None:
        from fedprune.graph import trace

        self._setting, training = setting, setting.experiment.training
        example = tasks.example(setting.task, setting.schema.input_shape)
        self._graph: Graph | None = None
        with suppress(UnsupportedOperation):
            self._graph = trace(setting.model(), example)
        self._examples = training.epochs * max(parts["train"] for parts in setting.holds.values())
        acts = rehearsed(setting.method, setting.zeros(), min(setting.experiment.rounds, _SEEN))
        kinds = {ask.kind for ask in setting.method.local.reports.values()}
        kinds |= {ask.kind for each in acts if each.round for ask in each.asks.values()}
        self._grows = "top_gradients" in kinds
        self._dense = "gradients" in kinds  # along with training, as papers count it, also where it is asked apart
        self._growing = self._examples if self._dense else (training.grow_batch or training.batch) * self._grows

    def of(self, state: State) -> dict[str, float]:
        """FLOPs and bytes of training under the masks of ``state``; nothing of a model that cannot be traced."""
        if self._graph is None:
            return {}
        kept = {name: round(count) for name, count in _kept(state, self._setting).items()}
        grown = round(_SWAPPED * sum(kept.values())) if self._grows else 0
        return {
            "flops": accounted.training_flops(self._graph, kept, self._examples, dense=self._growing),
            "training_bytes": accounted.training_bytes(state.params, kept, dense=self._dense, grown=grown),
            "link_bytes": accounted.link_bytes(state.params, kept),
        }


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
