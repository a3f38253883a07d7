"""Whether pruning was worth it: a run's smaller net again, from fresh weights (Liu et al., ICLR 2019, §3).

Scratch-E trains it for as many rounds, Scratch-B for as much compute of the devices as the run's training took, counted
by `budgets.accounted`, without what was asked before it: a method that starts dense pays for more rounds of a small
net. Each on the same devices, data and draws, three times, from other initial weights, which are pretrained on the
server's public examples as the run's were.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace

from fedprune import training
from fedprune.experiment import Experiment, ExperimentError
from fedprune.federated.rounds.phases.local_steps import ROUTE
from fedprune.methods import catalogue
from fedprune.methods.describing import described
from fedprune.runs import outcome
from fedprune.runs.accounts import Accounts
from fedprune.runs.compare.summary import difference
from fedprune.runs.folder import RunFolder, inside
from fedprune.runs.setting import Setting, prepare
from fedprune.tasks import value_in

SEEDS = 3
FOLDER = "scratch"
Run = Callable[[Experiment, Path], Mapping[str, Any]]
"""(experiment, its folder) -> its result; goes on with what lies there."""


class Arm(NamedTuple):
    """What came of one of the two."""

    rounds: int
    compute: float
    """Of the devices, where the run's is 1."""
    values: list[float]
    """The task's metric over all test parts, of each of the initial weights."""
    gain: float
    """The run's own, less their mean."""
    half: float
    """Of the 95 % interval of that, over the initial weights."""


def possible(experiment: Experiment, source: str) -> None:
    """ExperimentError, in one line beginning with ``source``, where a run does not end in one smaller net."""
    if experiment.fleet:
        raise ExperimentError(f"{source}: fleet: its tiers end in a net each; for --scratch leave [fleet] out")
    name = experiment.method["name"]
    if name in catalogue() and name != "as_pruned" and described(name).axes.prunes == "nothing":
        raise ExperimentError(f"{source}: method.name: {name} prunes nothing, so --scratch has no smaller net to train")
    if not experiment.rounds:
        raise ExperimentError(f"{source}: rounds: with 0 no device trains, and --scratch compares training")


def scratch(path: Path, source: str, data_dir: str | None, run: Run) -> dict[str, Arm]:
    """Run what is missing of both arms of the ended run in ``path``; its result.json and report.html say what came.

    Returns the arms E and B. ExperimentError where it has pruned nothing, or its multiply-adds cannot be counted.
    """
    folder = RunFolder(path)
    result, rows, experiment = folder.read_result(), folder.rows(), folder.experiment()
    prepared = functools.partial(prepare, source=source, data_dir=data_dir, agreed=folder.agreed())
    setting, arms = prepared(experiment), [again(experiment, path, seed) for seed in range(1, SEEDS + 1)]
    state = folder.state()
    kept = state.view(next(iter(state.parts), "")).masks
    if all(mask.all() for mask in kept.values()):
        raise ExperimentError(f"{source}: the run in {path} pruned nothing, so --scratch has no smaller net to train")
    fresh = prepared(arms[0])
    fresh.given_masks(source)
    own, its = Accounts(setting), Accounts(fresh)
    trained = [row for row in rows if row["phase"] == ROUTE]
    if not all(row.get("kept") for row in trained):
        raise ExperimentError(f"{path}/metrics.jsonl: does not say what devices kept; run it again with --fresh")
    asked = {row["round"]: {other["phase"] for other in rows if other["round"] == row["round"]} for row in trained}
    spent = [own.of(row["kept"], asked[row["round"]]).get("flops", 0) for row in trained]
    # what arms train: of devices with masks of their own all that any has kept
    left = {n: float(np.count_nonzero(kept[n]) if n in kept else prod(s)) for n, s in setting.layers.items()}
    each = its.of(left).get("flops", 0)
    if not each:
        raise ExperimentError(f"{source}: model: {experiment.model} cannot be traced, so its compute is not known")
    if (value := value_in(result, "float")) is None:
        raise ExperimentError(f"{source}: data: no device has a test example, by which --scratch could compare")
    found = dict[str, Arm]()
    for name, rounds in (("E", experiment.rounds), ("B", max(1, round(sum(spent) / each)))):
        values = [_value(_longer(arm, rounds), path, run) for arm in arms]
        apart = difference(dict.fromkeys(range(SEEDS), value), dict(enumerate(values)))
        assert apart is not None
        found[name] = Arm(rounds, rounds * each / sum(spent), values, apart.mean, apart.half)
    alike = max(_correlation(setting, prepared(arm)) for arm in arms)
    given = bool(experiment.pretraining.weights)
    told = {"correlation": alike, "given_weights": given, "arms": {name: arm._asdict() for name, arm in found.items()}}
    with folder.held():
        folder.write_result({**folder.read_result(), FOLDER: told})
        outcome.report(folder)
    return found


def again(experiment: Experiment, path: Path, seed: int) -> Experiment:
    """The experiment that trains what the run in ``path`` has kept, from initial weights of another seed."""
    own = experiment.pretraining
    epochs = 0 if own.weights and own.epochs is None else own.epochs
    fresh = replace(own, weights="", masks=str(path.absolute()), seed=experiment.seed + seed, epochs=epochs)
    return replace(experiment, method={"name": "as_pruned"}, pretraining=fresh, name=f"{experiment.name}_{FOLDER}")


def _longer(experiment: Experiment, rounds: int) -> Experiment:
    """With so many rounds, and a schedule of learning rates stretched along."""
    stretches, begun, ended = [], 0, 0
    for each in experiment.training.schedule:
        ended += each.rounds
        to = max(begun + 1, round(ended * rounds / experiment.rounds))
        stretches.append(replace(each, rounds=to - begun))
        begun = to
    training = replace(experiment.training, schedule=type(experiment.training.schedule)(stretches))
    return replace(experiment, rounds=rounds, training=training)


def _value(arm: Experiment, path: Path, run: Run) -> float:
    """The metric of an arm's run, which may have ended before; both arms share those of equally many rounds."""
    to = RunFolder(inside(path, FOLDER) / f"{arm.rounds}_rounds_seed_{arm.pretraining.seed}")
    ended = to.result.exists() and to.experiment() == arm
    if (value := value_in(to.read_result() if ended else run(arm, to.path), "float")) is None:
        raise ExperimentError(f"{to.path}: its model was not tested to a finite value, so --scratch cannot compare")
    return value


def _correlation(one: Setting, other: Setting) -> float:
    """Of initial weights, over all prunable layers, in size."""
    mine, its = (training.state_of(each.model()) for each in (one, other))
    first, second = (np.concatenate([state[name].ravel() for name in one.layers]) for state in (mine, its))
    return float(abs(np.corrcoef(first, second)[0, 1]))
