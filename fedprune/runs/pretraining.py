"""The server's training before round 0: the seed's initial weights, or given ones, on its own public examples."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fedprune import training
from fedprune.counter_rng import generator, number
from fedprune.data.loading import in_order, shuffled
from fedprune.federated.rounds.asking import Diverged
from fedprune.federated.rounds.model import State
from fedprune.models import draws
from fedprune.pruning import masks
from fedprune.runs.setting import Setting
from fedprune.runs.spans import pretraining_epochs
from fedprune.tasks import entry
from fedprune.training import divergence
from fedprune.training.optimisers import steps_of
from fedprune.types import Masks, Sgd

if TYPE_CHECKING:
    from torch import nn

_SO_FAR, _FIRST_LOSS = "pretraining epochs", "pretraining loss"  # notes: how many are done, the first one's mean loss
_SOME = 250  # public examples that tell whether pretraining has diverged


def unfinished(state: State) -> bool:
    """Whether a state is of the middle of pretraining, which `pretrain` goes on with."""
    return _SO_FAR in state.notes


def pretrain(
    setting: Setting,
    progress: Callable[[dict[str, Any]], None] = lambda row: None,
    so_far: State | None = None,
    keep: Callable[[State], None] = lambda state: None,
) -> State:
    """The state before round 0: given weights, or the seed's initial ones, trained on the server's public examples.

    Where the method has a say in that training, what it prunes is 0. ``keep`` gets an `unfinished` state after each
    epoch but the last; with one of them as ``so_far`` the rest is trained, to the same bits.
    ExperimentError where weights are given that are not the model's; Diverged where training comes to nothing.
    """
    settings, seed = setting.experiment.pretraining, setting.first_seed
    begun, first = 0, None
    kept: Masks
    if so_far is not None:
        model, kept = setting.model(so_far.params), so_far.masks
        begun, first = int(so_far.notes[_SO_FAR]), float(so_far.notes[_FIRST_LOSS])
    else:
        model = setting.model(setting.given_weights(setting.experiment.name))
        if kept := setting.given_masks(setting.experiment.name):
            training.load_state(model, masks.apply(training.state_of(model), kept))
    public, task = setting.public, setting.task
    own = setting.experiment.training
    steps = steps_of(own.optimiser, own.clip_gradients)
    epochs = pretraining_epochs(setting.experiment, len(public))
    for epoch in range(begun, epochs):
        if new := setting.method.pretraining(training.state_of(model), epoch, epochs):
            kept = masks.intersect(new, kept)
            training.load_state(model, masks.apply(training.state_of(model), kept))
        rate = settings.learning_rate * (1 + np.cos(np.pi * epoch / epochs)) / 2
        batches = shuffled(
            setting.schema,
            public,
            settings.batch,
            generator(seed, "pretraining", epoch),
            augment=own.augment,
        )
        sgd = Sgd(float(rate), weight_decay=own.weight_decay)
        before_step = functools.partial(_draw_anew, seed, epoch)
        try:
            with draws.seeded(number(seed, "pretraining", epoch)):
                outcome = training.train(
                    model, batches, sgd, kept, steps=steps, before_step=before_step, first_loss=first, task=task
                )
                first = outcome.loss / outcome.examples if first is None else first
                if epoch == epochs - 1:
                    _still_learns(setting, model, first)
        except divergence.Diverged as error:
            raise Diverged(f"pretraining, epoch {epoch + 1}: {error}", setting.experiment, 0) from error
        if epoch + 1 < epochs:
            notes = {_SO_FAR: np.asarray(epoch + 1), _FIRST_LOSS: np.asarray(first)}
            keep(State(-1, training.state_of(model), kept, notes=notes))
        progress({"epoch": epoch + 1, "epochs": epochs, **entry(task.metric, value=outcome.value(task))})
    return State(-1, training.state_of(model))


def _still_learns(setting: Setting, model: nn.Module, first_loss: float) -> None:
    """divergence.Diverged where the last step of pretraining has made the loss explode, which no later one tells."""
    some = setting.public.take(np.arange(min(_SOME, len(setting.public))))
    outcome = training.evaluate(model, in_order(setting.schema, some, _SOME), setting.task)
    if divergence.exploded(loss := outcome.loss / outcome.examples, first_loss):
        raise divergence.Diverged(loss, *divergence.largest(model.state_dict()))


def _draw_anew(seed: int, epoch: int, step: int) -> None:
    draws.begin(number(seed, "pretraining", epoch, step))
