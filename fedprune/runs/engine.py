"""Which trainer an experiment's devices use: the native one gets the model's graph, if the two agree on a step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fedprune import measures, models, own_code, tasks, training
from fedprune.counter_rng import generator
from fedprune.data import Schema
from fedprune.experiment import Experiment, ExperimentError
from fedprune.graph import Dropout, parameters, trace, width, without_dropout
from fedprune.graph.message import to_text
from fedprune.methods.layers import Channels
from fedprune.models import draws
from fedprune.native.nodes import not_covered
from fedprune.tasks import Task
from fedprune.training import native
from fedprune.training.divergence import Diverged
from fedprune.training.dropout import undropped
from fedprune.types import Local, Params, Sgd

if TYPE_CHECKING:
    from torch import nn

_EXAMPLES = 8
_CLOSE, _IN_ALL, _FAR = 2e-3, 0.02, 0.3
"""Of what a step moves: rounding in another order is far below, noise or another function far above. A statistic may
be so far apart; all weights together; a weight, besides ``_CLOSE`` of what all move."""

_OTHERWISE = "a step of the model in training is not what its graph says"
_INSTALLED = " where the compiled trainer is installed"
_WHERE = f", without torch,{_INSTALLED}"


class Engine(NamedTuple):
    """What an experiment's devices compute with."""

    net: str = ""
    """The model's graph for their native trainer; empty where it covers nothing."""
    trains: bool = False
    """Whether they train natively, else with torch, and only test natively."""
    said: str = ""
    """To be said of it; nothing where all is as one expects."""


WITH_TORCH = Engine()
"""As an experiment may ask for."""


def of(
    experiment: Experiment, model: nn.Module, schema: Schema, task: Task, local: Local, channels: Channels | None,
    source: str,
) -> Engine:  # fmt: skip
    """What devices compute with. ExperimentError where the native trainer is asked for and cannot be had.

    ``model`` is left as it was; ``local`` is the device's half of the method, and ``channels`` are those of a method
    that narrows the model.
    """
    asked = experiment.training.engine
    if asked == "torch":
        return WITH_TORCH
    found, why = _covered(experiment, model, schema, task)
    if not why and channels is not None:
        why = _narrowed(experiment, model, schema, found, channels)
    name = experiment.method["name"]
    apart = f"{name} has local steps of its own"
    if not why and native.trains(experiment.training, local):
        where = _WHERE if local == Local() else f"{_INSTALLED}, and build their half of {name} with torch"
        said = f"training.engine: devices train natively{where}"
        return Engine(found, True, said if asked == "native" else "")
    if not why and asked == "auto":
        said = f"training.engine: devices test natively{_WHERE}, and train with torch, since {apart}"
        return Engine(found, False, said)
    why = why or apart
    if asked == "native":
        raise ExperimentError(f"{source}: training.engine: no native training, since {why}; set it to auto or torch")
    return Engine(said=f"training.engine: devices train with torch, since {why}")


def alone(engine: Engine, local: Local, kinds: Iterable[str]) -> bool:
    """Whether a device with the compiled trainer needs no torch, where it is asked for these kinds of evidence."""
    return engine.trains and local == Local() and all(measures.find(kind).natively for kind in kinds)


def _covered(experiment: Experiment, model: nn.Module, schema: Schema, task: Task) -> tuple[str, str]:
    if not native.installed():
        return "", "the compiled trainer is not installed here"
    if experiment.task not in (tasks.PLAIN, "regression"):
        return "", f"it has no loss for {experiment.task}"
    if experiment.training.optimiser != "sgd" or experiment.training.class_weights:
        return "", "it has plain SGD alone, and no class weights"
    try:
        with draws.seeded(experiment.seed):
            graph = trace(model, tasks.example(task, schema.input_shape), dropout=True)
    except Exception as error:  # a net of one's own may fail in any way to be traced, and train well
        return "", f"the model cannot be traced: {own_code.words(error)}"
    if why := not_covered(graph):
        return "", why
    if experiment.task == tasks.PLAIN and graph.shapes[graph.outputs[0]] == (1, 1):
        return "", "it has no loss for one logit"
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
        why = own_code.words(error)
    return f"at half its width {why}" if why else ""


def _differs(own: native.Model, model: nn.Module, schema: Schema, experiment: Experiment) -> str:
    """Why a step of both trainers, nothing dropped, differs by more than rounding; empty where none does."""
    rng, outputs = generator(experiment.seed, "engine"), len(schema.classes)
    inputs = rng.normal(size=(_EXAMPLES, *schema.input_shape)).astype(np.float32)
    classes, numbers = rng.integers(0, outputs, _EXAMPLES), rng.normal(size=(_EXAMPLES, outputs)).astype(np.float32)
    batch = inputs, classes if own.numbers is None else numbers
    task = tasks.of(experiment, schema, classes)
    before, training_mode = training.state_of(model), model.training
    sgd = Sgd(0.01)
    try:
        rest = own._replace(graph=without_dropout(own.graph))
        _, after = native.train(
            rest, [batch], sgd, {}, examples=_EXAMPLES, task=task, smoothing=experiment.training.label_smoothing
        )
        with undropped() as asked:
            training.train(model, [batch], sgd, task=task)
        if asked != [(op.chance, op.channels) for op in own.graph.operations if isinstance(op, Dropout)]:
            return f"{_OTHERWISE}: what it drops is otherwise"
        return _apart(before, training.state_of(model), after)
    except Diverged as error:
        return f"a step of it on noise {error}"
    finally:
        training.load_state(model, before)
        model.train(training_mode)


def _apart(before: Params, one: Params, other: Params) -> str:
    """Why a step came to something else, by Euclidean norms; empty where it came to the same.

    A ReLU whose input is 0 but for rounding may go either way, which is much in a single weight, and little in all.
    """
    norms = {
        name: (np.linalg.norm(value - other[name]), np.linalg.norm(value - before[name])) for name, value in one.items()
    }
    statistics = [name for name in norms if name.rpartition(".")[2].startswith("running_")]
    trained = [norms[name] for name in norms if name not in statistics]
    apart, moved = (float(np.linalg.norm([each[at] for each in trained])) for at in range(2))
    wrong = [name for name in statistics if norms[name][0] > _CLOSE * norms[name][1] + 1e-6]
    wrong += [name for name, (by, of) in norms.items() if by > _FAR * of + _CLOSE * moved]
    if wrong or apart > _IN_ALL * moved:
        which = f"{wrong[0]} comes" if wrong else "its weights come"
        return f"{_OTHERWISE}: {which} out otherwise"
    return ""
