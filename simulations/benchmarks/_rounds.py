"""What benchmarks take of a run: all rounds over a grid, without the export that ends it, and devices' test parts."""

from __future__ import annotations

import numpy as np
from flwr.serverapp import Grid

from fedprune.data.loading import federation
from fedprune.federated.rounds.model import State
from fedprune.runs import over_flower
from fedprune.runs.drive import rounds
from fedprune.runs.folder import RunFolder
from fedprune.runs.setting import Setting
from fedprune.types import Tensor


def drive(grid: Grid, setting: Setting, folder: RunFolder, state: State | None) -> State:
    """The last state, which the folder holds too; ``state`` is what a run goes on from."""
    link = over_flower.link(grid, setting.experiment, lambda row: None, gives=setting.holds, more=setting.more())
    return rounds(link, setting, folder, state, lambda row: None)[0]


def test_parts(setting: Setting, data_dir: str | None) -> tuple[Tensor, Tensor]:
    """(normalised inputs, labels) of every device's test part, in the order of devices."""
    parts = [device.test for device in federation(setting.experiment, data_dir).devices]
    inputs = setting.schema.normalise(np.concatenate([part.inputs for part in parts]))
    return inputs, np.concatenate([part.labels for part in parts])
