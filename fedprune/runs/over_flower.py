"""The server's side of a run over Flower: a Link to the experiment's devices, over whatever Grid it is given."""

from __future__ import annotations

from flwr.serverapp import Grid

from fedprune.federated.link.asking import Link
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases.profile import sizes
from fedprune.runs import drive as driving
from fedprune.runs.drive import Progress
from fedprune.runs.folder import RunFolder
from fedprune.runs.setting import Setting

_RETURNS_S = 180.0  # a device that was cut off is let in again after about a minute, and has to start
_FIRST_LIMIT_S = 1800.0


def drive(
    grid: Grid, setting: Setting, folder: RunFolder, state: State | None, progress: Progress, *, real: bool = False
) -> State:
    """`fedprune.runs.drive.drive` over a grid.

    Over a ``real`` link messages cost seconds and can be lost: then there are deadlines, and fewer messages.
    """
    link = Link(grid, setting.experiment, say=progress, gives=dict(enumerate(map(sizes, setting.federation.devices))))
    if real:
        link = link._replace(patience_s=_RETURNS_S, first_limit_s=_FIRST_LIMIT_S, together=True)
    return driving.drive(link, setting, folder, state, progress)
