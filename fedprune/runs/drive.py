"""The server's side of a run: takes an experiment from its first model to its last files, whoever holds the data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedprune.federated.rounds.asking import Asking
from fedprune.federated.rounds.fleet import Fleet
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases.check import Told
from fedprune.federated.rounds.phases.local_steps import ROUTE
from fedprune.federated.rounds.rounds import run
from fedprune.runs import accounts, shipping
from fedprune.runs import forms as _forms
from fedprune.runs.folder import RunFolder
from fedprune.runs.forms import Forms
from fedprune.runs.outcome import finish
from fedprune.runs.pretraining import pretrain, unfinished
from fedprune.runs.setting import Setting
from fedprune.types import DeviceId

Progress = Callable[[dict[str, Any]], None]
"""Called with each line of metrics, and with each epoch of pretraining."""


def rounds(
    asking: Asking, setting: Setting, folder: RunFolder, state: State | None, progress: Progress
) -> tuple[State, Fleet]:
    """Run to the last round: (the last state, the fleet as it is then).

    The state is saved after every epoch of pretraining and every phase; ``state`` is what a resumed run goes on from.
    """
    if state is None or unfinished(state):
        state = pretrain(setting, progress, state, folder.save)
        folder.save(state)
    ended: list[Fleet] = []
    keeps = functools.partial(accounts.kept, setting=setting)
    from_devices = setting.experiment.export.ranges == "devices" and shipping.traceable(setting)
    shipped = functools.partial(shipping.shipped, setting) if from_devices else None
    for step in run(asking, setting.tiers(), len(setting.holds), state, shipped, ended.append):
        # those of the state that was trained, before what the phase led to
        row = {**step.row, "kept": keeps(state)} if step.row and step.row["phase"] == ROUTE else step.row
        if row:
            folder.add(row)
        folder.save(step.state)
        if row:
            progress(row)
        state = step.state
    return state, ended[0]


def drive(
    asking: Asking, setting: Setting, folder: RunFolder, state: State | None, progress: Progress
) -> dict[str, Any]:
    """Run to the last round, export what came of it, and let devices check it: the result."""
    _, fleet = rounds(asking, setting, folder, state, progress)
    progress({"phase": "export"})

    def ask_all(which: Sequence[tuple[str, Forms]], last: State) -> list[Mapping[DeviceId, Told]]:
        told: list[Mapping[DeviceId, Told]] = []
        for part, forms in which:  # one after the other, so that a device need not hold all of them at once
            jobs = setting.tiers().tests(part, fleet.active(last.round).nodes, fleet.usable(last.round))
            tests = {device: job._replace(part="", structured=False) for device, job in jobs.items()}
            question = _forms.question(forms, setting.task)
            step = asking.ask(question, last.view(part), fleet, tests, last.round, least=0.0)
            row = {**step.row, **({"part": part} if part else {})}
            folder.add(row)
            progress(row)
            told.append(step.answer or {})
        return told

    # from the file, so that a resumed run ends in what an undisturbed one does
    return finish(setting, folder, folder.state(), ask_all)
