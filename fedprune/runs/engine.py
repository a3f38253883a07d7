"""Which trainer an experiment's devices use: the native one gets the model's graph, if the two agree on a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedprune import models, tasks, training
from fedprune.counter_rng import generator
from fedprune.data import Schema
from fedprune.experiment import Experiment, ExperimentError
from fedprune.graph import UnsupportedOperation, parameters, trace, width
from fedprune.graph.message import to_text
from fedprune.methods.layers import Channels
from fedprune.models import draws
from fedprune.native.nodes import not_covered
from fedprune.tasks import Task
from fedprune.training import native
from fedprune.types import Local, Sgd
from fedprune.wire.payload import one_line

if TYPE_CHECKING:
    from torch import nn

_EXAMPLES = 4
_CLOSE = 1e-2
"""Of the largest value: rounding in another order is far below it, dropout or another function far above."""


_INSTALLED = " where the compiled trainer is installed"
_WHERE = f", without torch,{_INSTALLED}"


def net(
    experiment: Experiment, model: nn.Module, schema: Schema, task: Task, local: Local, channels: Channels | None,
    source: str,
) -> tuple[str, str]:  # fmt: skip
    """(the graph for devices' native trainer, empty where torch trains; what is to be said of it, or nothing).

    ``model`` is left as it was; ``local`` is the device's half of the method, and ``channels`` are those of a method
    that narrows the model. ExperimentError where the native trainer is asked for and cannot be had.
    """
    asked = experiment.training.engine
    if asked == "torch":
        return "", ""
    found, why = _covered(experiment, model, schema, task)
    if not why and channels is not None:
        why = _narrowed(experiment, model, schema, found, channels)
    name = experiment.method["name"]
    apart = f"{name} has local steps of its own"
    if not why and native.trains(experiment.training, local):
        where = _WHERE if local == Local() else f"{_INSTALLED}, and build their half of {name} with torch"
        return found, f"training.engine: devices train natively{where}"
    if not why and asked == "auto":
        return found, f"training.engine: devices test natively{_WHERE}, and train with torch, since {apart}"
    why = why or apart
    if asked == "native":
        raise ExperimentError(f"{source}: training.engine: no native training, since {why}; set it to auto or torch")
    return "", f"training.engine: devices train with torch, since {why}"


def _covered(experiment: Experiment, model: nn.Module, schema: Schema, task: Task) -> tuple[str, str]:
    if not native.installed():
        return "", "the compiled trainer is not installed here"
    if experiment.task not in (tasks.PLAIN, "regression"):
        return "", f"it has no loss for {experiment.task}"
    if experiment.task == tasks.PLAIN and len(schema.classes) < 2:
        return "", "it has no loss for one logit"
    if experiment.training.optimiser != "sgd" or experiment.training.class_weights:
        return "", "it has plain SGD alone, and no class weights"
    try:
        graph = trace(model, tasks.example(task, schema.input_shape))
    except UnsupportedOperation as error:
        return "", f"the model cannot be traced: {error}"
    if why := not_covered(graph):
        return "", why
    known = {parameter.name for op in graph.operations for parameter in parameters(op)}
    for name, parameter in model.named_parameters():
        if name not in known or not parameter.requires_grad:
            return "", f"{name} is {'frozen' if name in known else 'no weight of the traced model'}"
    with draws.seeded(experiment.seed):
        own = native.Model(graph, training.state_of(model), tasks.numbers_of(experiment.task, schema))
        why = _differs(own, model, schema, experiment)
    held = models.slots(experiment.model, schema.input_shape, len(schema.classes))
    return ("", why) if why else (to_text(graph, {n: (s.shape, s.dtype, s.trained) for n, s in held.items()}), "")


def _narrowed(experiment: Experiment, model: nn.Module, schema: Schema, text: str, channels: Channels) -> str:
    """Why half the model's width is not what its graph says; empty where it is."""
    groups, shapes = channels()
    try:
        masks = width.width_masks(groups, shapes, width.first_channels(groups, 0.5))
        state = width.narrow(training.state_of(model), masks)
        small = width.fit(model, {name: value.shape for name, value in state.items()})
        own = native.model(text, state, tasks.numbers_of(experiment.task, schema))
        training.load_state(small, state)
        with draws.seeded(experiment.seed):
            why = _differs(own, small, schema, experiment)
    except (ValueError, RuntimeError) as error:
        why = one_line(str(error))
    return f"at half its width {why}" if why else ""


def _differs(own: native.Model, model: nn.Module, schema: Schema, experiment: Experiment) -> str:
    """Why a step of both trainers differs by more than rounding; empty where none does."""
    rng, outputs = generator(experiment.seed, "engine"), len(schema.classes)
    inputs = rng.normal(size=(_EXAMPLES, *schema.input_shape)).astype(np.float32)
    classes, numbers = rng.integers(0, outputs, _EXAMPLES), rng.normal(size=(_EXAMPLES, outputs)).astype(np.float32)
    batch = inputs, classes if own.numbers is None else numbers
    task = tasks.of(experiment, schema, classes)
    before, training_mode = training.state_of(model), model.training
    sgd = Sgd(0.01)
    try:
        _, after = native.train(
            own, [batch], sgd, {}, examples=_EXAMPLES, task=task, smoothing=experiment.training.label_smoothing
        )
        training.train(model, [batch], sgd, task=task)
        for name, value in training.state_of(model).items():
            moved = np.abs(value - before[name]).max(initial=0)
            apart = np.abs(value - after[name]).max(initial=0)
            if apart > _CLOSE * moved + 1e-5 * np.abs(before[name]).max(initial=0):
                return f"a step of the model in training is not what its graph says: {name} comes out otherwise"
    finally:
        training.load_state(model, before)
        model.train(training_mode)
    return ""
