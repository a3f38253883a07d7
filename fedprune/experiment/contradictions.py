"""What contradicts itself in an experiment whose keys are all well by themselves."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from fedprune.experiment import own_data
from fedprune.experiment.errors import quoted
from fedprune.experiment.sections import Training

if TYPE_CHECKING:
    from fedprune.experiment import Experiment


WITH_CLASSES = ("classification", "next_token", "segmentation")
"""Tasks whose labels are classes, which can be weighted and smoothed."""


def contradictions(experiment: Experiment, trained: int) -> list[tuple[str, str]]:
    """(key, what is wrong and what would be right) of an experiment whose tiers have so many training devices."""
    data, problems = experiment.data, []
    for key, text in (("model", experiment.model), ("data.name", data.name), ("task", experiment.task)):
        if not _encodable(text):
            problems.append((key, f"{quoted(text)} is not UTF-8"))
    problems += own_data.contradictions(data)
    if data.partition not in ("natural", "own") and not data.devices and not experiment.fleet:
        problems.append(("data.devices", f"missing; a {data.partition} partition wants a number of devices, 1 or more"))
    problems += _of_task(experiment)
    if experiment.fleet and not trained:
        problems.append(("fleet", "no tier trains; leave trains = false out of one at least"))
    elif experiment.fleet and data.devices and data.devices != trained:
        problems.append(("data.devices", f"{data.devices}, but the tiers that train have {trained}; leave it out"))
    if experiment.fleet and data.central:
        problems.append(("data.central", "one holder of all data has no tiers; leave it out, or the fleet"))
    if experiment.training.quantise_last > experiment.rounds:
        problems.append(("training.quantise_last", f"at most the {experiment.rounds} rounds there are; 0 is never"))
    if experiment.training.quantise_last and any(tier.train_memory_bytes for tier in experiment.fleet.values()):
        problems.append(
            ("training.quantise_last", "no plan counts what it takes; leave it out, or train_memory_bytes of all tiers")
        )
    problems += _of_rates(experiment.training)
    if experiment.export.ranges == "devices" and experiment.export.calibration not in ("best", "minmax"):
        problems.append(("export.calibration", "devices send extremes alone; leave it out, or export.ranges"))
    problems += _not_private(experiment) if experiment.privacy.epsilon else []
    if data.official_test and data.partition != "natural":
        problems.append(
            ("data.official_test", 'only for partition = "natural"; others test on the official split anyway')
        )
    if not isinstance(experiment.method.get("name"), str):
        problems.append(("method.name", "missing; expected the name of a method, such as fedtiny"))
    for key, value in experiment.method.items():
        # the link and the run's folder speak JSON and flat TOML
        if not re.fullmatch(r"[A-Za-z0-9_-]+", key):
            problems.append((f"method.{quoted(key)}", "no name of a parameter; use letters, digits and '_'"))
        if not _plain(value):
            problems.append((f"method.{key}", f"expected a finite number, a text, true or false, got {quoted(value)}"))
    if not re.fullmatch(r"(?!\.+$)[\w.-]+", experiment.name):
        problems.append(("name", f"{experiment.name!r} names a folder; use letters, digits, '.', '_' and '-'"))
    return problems


def _of_rates(training: Training) -> list[tuple[str, str]]:
    """What of learning rates and of the server's optimiser has nothing to act on."""
    problems = []
    if training.schedule and training.final_learning_rate is not None:
        problems.append(("training.final_learning_rate", "training.schedule says what it is; leave one of them out"))
    for index, stretch in enumerate(training.schedule):
        if stretch.along != "line" and stretch.to is None:
            problems.append((f"training.schedule[{index}].to", f'missing; along = "{stretch.along}" leads to a rate'))
    defaults = Training()
    if training.server_optimiser == "none":
        for key in ("server_learning_rate", "server_momentum", "server_beta2", "server_epsilon"):
            if getattr(training, key) != getattr(defaults, key):
                problems.append(
                    (f"training.{key}", 'training.server_optimiser is "none"; choose one, such as "momentum"')
                )
    return problems


def _plain(value: Any) -> bool:
    """Whether JSON and flat TOML both give a value back."""
    if isinstance(value, list):
        return all(_plain(each) for each in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return -(2**63) <= value < 2**64
    return isinstance(value, str) and _encodable(value)


def _encodable(text: str) -> bool:
    # a lone surrogate, which comes of an argument that is not UTF-8, is no text
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _of_task(experiment: Experiment) -> list[tuple[str, str]]:
    """What contradicts what the model is for, as far as a name tells that."""
    task, training, problems = experiment.task, experiment.training, []
    for key in ("label_smoothing", "class_weights"):
        if getattr(training, key) and task not in WITH_CLASSES:
            problems.append((f"training.{key}", f"only where task is one of {', '.join(WITH_CLASSES)}"))
    data, targets = experiment.data, own_data.targets_of(experiment.data)
    if data.partition == "own" and task == "regression" and not targets:
        said = 'devices\' own recordings have numbers to predict where data.name = "tables"; name their columns'
        problems.append(("data.tables.targets", said))
    elif data.partition == "own" and task not in ("classification", "regression"):
        problems.append(("task", f"{quoted(task)}: devices' own recordings have labels, or targets in tables"))
    elif targets and task != "regression":
        problems.append(("data.tables.targets", f'only where task = "regression", here {quoted(task)}'))
    if isinstance(training.class_weights, str) and training.class_weights not in ("", "balanced"):
        said = f"{quoted(training.class_weights)} is neither balanced nor a list of numbers"
        problems.append(("training.class_weights", said))
    return problems


def _not_private(experiment: Experiment) -> list[tuple[str, str]]:
    """What makes an experiment that asks for privacy not private, as far as it can be told without its method."""
    problems = []
    if experiment.privacy.epsilon >= 1:
        problems.append(
            ("privacy.epsilon", f"{experiment.privacy.epsilon:g}: its noise is proved private below 1 alone; 0 is off")
        )
    data = experiment.data
    if data.partition == "own" and not (data.classes and data.mean):
        key = "mean" if data.classes else "classes"
        problems.append((f"data.{key}", "devices say what they have without noise; fix classes, mean and std"))
    if data.partition == "own" and not data.public_dir:
        problems.append(("data.public_dir", "without it devices send ranges of activations, without noise; give one"))
    elif experiment.export.ranges == "devices":
        problems.append(("export.ranges", "devices send ranges without noise; leave it out, or privacy.epsilon"))
    if any(tier.train_memory_bytes for tier in experiment.fleet.values()):
        problems.append(
            ("privacy.epsilon", "no plan counts what its noise takes; leave it out, or train_memory_bytes of all tiers")
        )
    return problems
