"""What a model is for, a task a file: its loss, its metric with a direction, what its labels are."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fedprune.experiment import Experiment
from fedprune.tasks.classes import BALANCED, balanced
from fedprune.tasks.classification import CLASSIFICATION, classification
from fedprune.tasks.depth import depth
from fedprune.tasks.multi_label import multi_label
from fedprune.tasks.next_token import next_token
from fedprune.tasks.regression import regression
from fedprune.tasks.segmentation import segmentation
from fedprune.tasks.task import (
    ACCURACY,
    SAME_CLASS,
    Given,
    Loss,
    Metric,
    Task,
    added,
    agreement_in,
    entry,
    metric_in,
    total,
    value_in,
    value_key,
    zeros,
)
from fedprune.types import Tensor

if TYPE_CHECKING:
    import torch

__all__ = [
    "ACCURACY", "CATALOGUE", "CLASSIFICATION", "PLAIN", "SAME_CLASS", "Given", "Loss", "Metric", "Task",
    "TaskError", "added", "agreement_in", "by_class", "entry", "example", "fits", "metric_in", "named",
    "numbers_of", "of", "total", "value_in", "value_key", "zeros",
]  # fmt: skip

CATALOGUE: Mapping[str, Callable[[Given], Task]] = {
    "classification": classification,
    "regression": regression,
    "multi_label": multi_label,
    "next_token": next_token,
    "segmentation": segmentation,
    "depth": depth,
}


PLAIN = "classification"
"""What an experiment is for where it does not say."""


_TAKEN = ("loss", "seen", "examples", "round", "turns", "agree", "why", "forms", "device", "experiment")
"""What else devices say."""


class TaskError(ValueError):
    """A task cannot be had as asked; the one line begins with the key and says what is expected."""


class Schema(Protocol):
    """What an example is, as far as a task needs to know it."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the model's outputs."""

    @property
    def target_mean(self) -> tuple[float, ...]:
        """Of each target."""

    @property
    def target_std(self) -> tuple[float, ...]:
        """Of each target."""


def of(experiment: Experiment, schema: Schema, labels: Tensor) -> Task:
    """The experiment's task, whose loss knows the data; ``labels`` are the training labels of whoever trains.

    Raises TaskError.
    """
    name, training, outputs = experiment.task, experiment.training, len(schema.classes)
    weights = training.class_weights
    if weights == BALANCED:
        weights = balanced(labels, outputs) if labels.size else ()
    elif weights and len(weights) != max(2, outputs):
        raise TaskError(f"training.class_weights: {len(weights)} for {max(2, outputs)} classes")
    given = Given(training.label_smoothing, tuple(map(float, weights)), schema.target_mean, schema.target_std)
    return CATALOGUE[name](given) if name in CATALOGUE else named(name)


def numbers_of(name: str, schema: Schema) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation of the targets of a regression; None of another task."""
    if name != "regression":
        return None
    return np.array(schema.target_mean or 0.0, np.float32), np.array(schema.target_std or 1.0, np.float32)


def named(name: str) -> Task:
    """The task of a name, with a loss that knows nothing of the data. TaskError where there is none."""
    if ":" in name:
        return _own(name)
    if name not in CATALOGUE:
        raise TaskError(f"task: {name!r} is none of {', '.join(CATALOGUE)}, or your own as my_package.tasks:quantile")
    return CATALOGUE[name](Given())


def fits(task: Task, shape: tuple[int, ...], outputs: int, label: tuple[int, ...]) -> str:
    """What is wrong with outputs of a ``shape``, without n, for labels of shape ``label``; empty where nothing is."""
    if shape in (expected := task.outputs(outputs, label)):
        return ""
    given, *right = (f"(n, {', '.join(map(str, each))})" for each in (shape, *expected))
    return f"its outputs have shape {given}, expected {' or '.join(right)}"


@functools.lru_cache(maxsize=4)
def _own(name: str) -> Task:
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
        task = function()
    except Exception as error:  # somebody else's code: it may fail in any way
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise TaskError(f"task: {name}: {why}; expected a function that returns a fedprune.tasks.Task") from error
    if not isinstance(task, Task):
        raise TaskError(f"task: {name} returned a {type(task).__name__}, expected a fedprune.tasks.Task")
    if taken := sorted(each for each in task.names if each in _TAKEN or not each.isidentifier()):
        raise TaskError(f"task: {name}: {taken[0]!r} cannot name a sum; choose another word")
    return task


def example(task: Task, input_shape: tuple[int, ...], count: int = 1) -> torch.Tensor:
    """``count`` examples of zeros of the type that a deployed model takes: integers of tokens, else float32."""
    import torch

    return torch.zeros((count, *input_shape), dtype=torch.int64 if task.tokens else torch.float32)


def by_class(labels: Tensor) -> bool:
    """Whether labels are one class an example, by which examples can be dealt and split evenly."""
    return labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
