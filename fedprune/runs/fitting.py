"""Whether a net and a method go with what an experiment is for, and what is to be said of the net."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedprune import measures, tasks
from fedprune.data import Schema
from fedprune.experiment import Experiment, ExperimentError
from fedprune.methods.asking import asked_kinds
from fedprune.models import as_is, draws
from fedprune.tasks import Task, TaskError
from fedprune.types import Method, Params

if TYPE_CHECKING:
    from torch import nn


def returned(experiment: Experiment, model: nn.Module, schema: Schema, task: Task) -> tuple[str, ...]:
    """What is to be said of a net that returns more than its outputs, in one line or none."""
    with draws.seeded(experiment.seed):
        said = as_is.also_returned(model, tasks.example(task, schema.input_shape, 2))
    return (f"{experiment.model}: {said}",) if said else ()


def embeds(model: nn.Module) -> bool:
    """Whether a net looks something up by its number."""
    from torch import nn

    return any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules())


def judged(experiment: Experiment, model: nn.Module, schema: Schema, task: Task, source: str) -> None:
    """ExperimentError where a net's outputs are none that the task's labels could judge."""
    import torch

    try:
        tasks.of(experiment, schema, np.empty(0, np.int64))
    except TaskError as error:
        raise ExperimentError(f"{source}: {error}") from error
    with torch.no_grad(), draws.seeded(experiment.seed):
        outputs = model.eval()(tasks.example(task, schema.input_shape, 2))
    model.train()
    if why := tasks.fits(task, tuple(outputs.shape[1:]), len(schema.classes), schema.label_shape):
        raise ExperimentError(f"{source}: model: {experiment.model}: {why}, as task {experiment.task} has it")


def about_classes(method: Method, empty: Params, rounds: int) -> str:
    """What of a method is about classes; empty where nothing is."""
    if method.local.classes:
        return "trains by classes"
    kinds = [kind for kind in asked_kinds(method, empty, rounds) if measures.find(kind).classes]
    return f"asks for the {kinds[0]} of classes" if kinds else ""
