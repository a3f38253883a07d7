"""One run of the fleet benchmark: the experiment itself, one density for all, a tier by itself, or widths instead."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
from flwr.serverapp import Grid

from fedprune.budgets import smallest
from fedprune.experiment import Experiment, load, training_devices
from fedprune.federated.link import engines
from fedprune.federated.link.asking import Link
from fedprune.federated.rounds.fleet import Fleet
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.rounds import run
from fedprune.graph import width
from fedprune.graph.coupling import coupled_channels
from fedprune.runs.folder import RunFolder
from fedprune.runs.pretraining import pretrain
from fedprune.runs.setting import Setting, prepare
from fedprune.types import DeviceId

WIDTHS = ("heterofl", "fjord", "fedrolex")


def variant(experiment: Experiment, kind: str, data_dir: str | None) -> tuple[Experiment, list[DeviceId] | None]:
    """(experiment, devices that train or None for all) of ``joint``, ``alone-TIER``, ``apart-TIER`` or a width method.

    Alone: every device trains the tier's density. Apart: so do the tier's own devices, and nobody else trains. A width
    method has for each tier the widest model that its int8 weights store in no more bytes than the tier's sparse ones.
    """
    if kind == "joint":
        return experiment, None
    replace = msgspec.structs.replace
    setting = prepare(experiment, "experiment", data_dir)
    assert setting.plan is not None
    if kind in WIDTHS:
        fleet = {
            name: replace(own, density=_width(setting, setting.plan.tiers[name].size))
            for name, own in experiment.fleet.items()
        }
        return replace(experiment, fleet=fleet, method={"name": kind, "width": 1.0}), None
    what, _, tier = kind.partition("-")
    members = [device for device, own in setting.plan.members.items() if own == tier]
    method = {**experiment.method, "density": setting.plan.tiers[tier].size}
    devices = 0 if experiment.data.partition == "natural" else training_devices(experiment.fleet)
    same = replace(experiment, fleet={}, method=method, data=replace(experiment.data, devices=devices))
    return same, members if what == "apart" else None


def _width(setting: Setting, density: float) -> float:
    """The widest model whose dense int8 weights take no more bytes than the sparse ones, in the smallest encoding."""
    import torch

    model = setting.model()
    sizes = {name: value.numel() for name, value in model.named_parameters() if value.ndim > 1}
    allowed = smallest(sizes, {name: max(1, int(density * sizes[name])) for name in setting.layers})[1]
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    groups = coupled_channels(model, torch.zeros(2, *setting.schema.input_shape))

    def taken(fraction: float) -> int:
        masks = width.width_masks(groups, shapes, width.first_channels(groups, fraction))
        return sum(int(masks[name].sum()) if name in masks else size for name, size in sizes.items())

    return max((step / 16 for step in range(1, 17) if taken(step / 16) <= allowed), default=1 / 16)


class _Only(Link):
    """A link over which some devices alone train."""

    def meet(self, devices: int, state: State) -> Fleet:
        fleet = super().meet(devices, state)
        return fleet._replace(trainers=tuple(ONLY)) if ONLY else fleet


ONLY: list[DeviceId] = []


def main() -> None:
    """Run one kind with one seed into a folder; result.json holds, by tier, accuracy and the worst device."""
    file, kind, seed, out, data_dir, *overrides = sys.argv[1:]
    asked = load(Path(file), overrides, seed=int(seed))
    experiment, only = variant(asked, kind, data_dir or None)
    setting = prepare(experiment, file, data_dir or None)
    folder = RunFolder(Path(out))
    state = folder.resume(experiment)
    if state is None:
        folder.begin(experiment)
    ONLY.extend(only or [])

    def serve(grid: Grid) -> None:
        now = state if state is not None else pretrain(setting)
        for step in run(_Only(grid, experiment), setting.tiers(), len(setting.holds), now):
            if step.row:
                folder.add(step.row)
            folder.save(step.state)

    engines.local(len(setting.holds), data_dir or None, serve, workers=1)
    folder.write_result(
        {"tiers": _by_tier(setting, kind, folder.rows()), "seconds": sum(r["seconds"] for r in folder.rows())}
    )


def _by_tier(setting: Setting, kind: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the last round's evaluation says of each tier's model."""
    last = {row.get("part", ""): row for row in rows if row["phase"] == "evaluate"}
    plans = setting.plan.tiers if setting.plan is not None else {}
    found = {name: (last[plan.part], plan.size) for name, plan in plans.items()}
    if not plans:
        found = {kind.partition("-")[2]: (last[""], setting.experiment.method["density"])}
    return {
        name: {"accuracy": row["accuracy"], "worst": row.get("worst", {}).get("accuracy"), "size": size}
        for name, (row, size) in found.items()
    }


if __name__ == "__main__":
    main()
