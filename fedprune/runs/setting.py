"""What the server prepares once from an experiment: data, the model's layers, the method, a first model."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace as replaced

from fedprune import measures, models, own_code, tasks, training
from fedprune.data import DataError, Examples, Schema
from fedprune.data.agreement import Agreed
from fedprune.data.loading import agreed_here, known, known_of
from fedprune.experiment import Experiment, ExperimentError, training_devices
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.standing import standing_of
from fedprune.federated.rounds.tiers import Tiers, one_part
from fedprune.graph import UnsupportedOperation
from fedprune.graph.shared import second_names
from fedprune.methods import MethodError, size_parameter
from fedprune.methods.asking import asked_kinds, begun
from fedprune.methods.building import Prunable, at_size, prunable_of
from fedprune.methods.nested import nested, why_not_shared
from fedprune.methods.ordering import by_scores, by_votes
from fedprune.models import ModelError
from fedprune.runs import cutting, engine, fitting, planning, private, pruned, spans, weights
from fedprune.runs.costs import Costs
from fedprune.runs.engine import WITH_TORCH, Engine
from fedprune.runs.planning import FleetPlan
from fedprune.tasks import Task, TaskError
from fedprune.training import native
from fedprune.types import DeviceId, Masks, Method, Params

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class Setting:
    """An experiment with everything that its names stand for."""

    experiment: Experiment
    """With what devices agreed on, where they have data of their own."""
    schema: Schema
    holds: Mapping[DeviceId, Mapping[str, int]]
    """Device -> part of its data -> examples."""
    public: Examples
    """The server's own."""
    layers: Mapping[str, tuple[int, ...]]
    """Prunable layers in forward order -> shape of their weight."""
    method: Method
    """Of all devices; where tiers hold unequal parts, one at each size, nested."""
    part: str = ""
    """What all devices train, where there is no plan and it is whole channels; empty is the model."""
    plan: FleetPlan | None = None
    """Of the experiment's fleet, where it has one."""
    engine: Engine = WITH_TORCH
    """What devices compute with."""
    notices: tuple[str, ...] = ()
    """What is to be said before anything is trained, each in one line."""
    unmet: tuple[str, ...] = ()
    """Those of them that say what experiment or method ask for and do not get."""

    @functools.cached_property
    def task(self) -> Task:
        """What the model is for, with weights of classes by the server's own examples."""
        return tasks.of(self.experiment, self.schema, self.public.labels)

    @property
    def first_seed(self) -> int:
        """Seed of the initial weights and of pretraining's order."""
        own = self.experiment.pretraining.seed
        return self.experiment.seed if own is None else own

    def more(self) -> dict[str, str]:
        """What every request to devices carries besides the experiment."""
        return {native.NET: self.engine.net} if self.engine.net else {}

    def tiers(self) -> Tiers:
        """How the model is shared among the devices."""
        if self.plan is not None:
            return self.plan.shared(self.method)
        return one_part(self.method, self.part)

    def zeros(self) -> Params:
        """Every parameter and buffer of the model, all 0: what a method decides on is of their names and shapes."""
        return zeros(self.experiment, self.schema)

    def model(self, params: Params | None = None) -> nn.Module:
        """The experiment's model with these parameters, or with the initial ones that the seed gives."""
        what = self.experiment.model, self.schema.input_shape, len(self.schema.classes)
        model = models.build(*what, self.first_seed, tasks.named(self.experiment.task))
        if params is not None:
            training.load_state(model, params)
        return model.eval()

    def given_weights(self, source: str) -> Params | None:
        """The weights that the experiment gives to start from; None where it gives none.

        ExperimentError, beginning with ``source``, where they are not the model's.
        """
        if not (file := self.experiment.pretraining.weights):
            return None
        model = self.model()
        return weights.read(Path(file), training.state_of(model), source, second_names(model))

    def given_masks(self, source: str) -> Masks:
        """What the experiment keeps of the model from the first step on; empty where it keeps all.

        ExperimentError, beginning with ``source``, where the run that it names has no masks, or of another model.
        """
        folder = self.experiment.pretraining.masks
        return weights.masks(Path(folder), dict(self.model().named_parameters()), source) if folder else {}

    def fits(self, state: State, source: str) -> None:
        """ExperimentError, beginning with ``source``, where a state is none that a run of this experiment comes to."""
        own, again = training.state_of(self.model()), "start over with --fresh"
        kind = {name: (value.dtype, value.shape) for name, value in state.params.items()}
        if kind != {name: (value.dtype, value.shape) for name, value in own.items()}:
            raise ExperimentError(f"{source}: holds another model than {self.experiment.model}; {again}")
        parts = [name for name in self.tiers().parts if name]
        if not {*state.parts} <= {*parts} or (state.round >= 0 and len(state.parts) < len(parts)):
            raise ExperimentError(f"{source}: holds the parts of other tiers; {again}")
        if not -1 <= state.round <= self.experiment.rounds:
            raise ExperimentError(f"{source}: is of round {state.round}, of {self.experiment.rounds}; {again}")
        try:
            standing_of(state.standing)
        except ValueError as error:
            raise ExperimentError(f"{source}: says nonsense of devices ({error}); {again}") from error


def prepare(experiment: Experiment, source: str, data_dir: str | None = None, agreed: Agreed | None = None) -> Setting:
    """Resolve every name of an experiment. ExperimentError, in one line beginning with ``source``, where one fails.

    Where devices have data of their own, ``agreed`` is what they said; without it, what the folders in ``data_dir``
    would say.
    """
    training.one_thread()
    try:
        task = tasks.named(experiment.task)
    except TaskError as error:
        raise ExperimentError(f"{source}: {error}") from error
    try:
        if experiment.data.partition == "own":
            agreed = agreed or agreed_here(experiment.data, data_dir)
            experiment, found = replaced(experiment, data=agreed.settings), known_of(agreed)
        else:
            found = known(experiment, data_dir)
    except DataError as error:
        raise ExperimentError(f"{source}: data: {error}") from error
    schema, devices = found.schema, len(found.holds)
    try:
        what = experiment.model, schema.input_shape, len(schema.classes), experiment.seed, task
        (model, remarks), remark = models.built(*what), models.rehearsed(*what)
    except ModelError as error:
        raise ExperimentError(f"{source}: model: {error}") from error
    fitting.judged(experiment, model, schema, task, source)
    prunable = prunable_of(experiment, model, schema.input_shape)
    layers = prunable.layers
    if not layers:
        raise ExperimentError(f"{source}: model: {experiment.model} has no layer to prune: {_without_layers(prunable)}")
    try:
        sized_by = size_parameter(experiment.method["name"]) if experiment.fleet else None
        cost = cutting.cost_of(experiment, schema, model, prunable.channels)
        sized = at_size(experiment, prunable, cost)
        method = sized(sized_by[1] if sized_by and sized_by[0] not in experiment.method else 0)
        empty = zeros(experiment, schema)
        # what cannot begin is said before anything is trained; what devices hold may be chosen by what is asked first
        model_begun = begun(method, empty)[0]
    except MethodError as error:
        raise ExperimentError(f"{source}: {error}") from error
    except Exception as error:  # a method of one's own may fail in any way
        own = own_code.place(error, experiment.method["name"])
        if not own and not isinstance(error, ValueError):
            raise
        raise ExperimentError(f"{source}: method: {f'{own}{own_code.words(error)}' if own else error}") from error
    if not task.classes and (why := fitting.about_classes(method, empty, experiment.rounds)):
        said = f"{experiment.method['name']} {why}, and an example of task {experiment.task} has none; choose another"
        raise ExperimentError(f"{source}: method.name: {said}")
    nothing_to_choose_by = not any(parts["development"] for parts in found.holds.values())
    noised = experiment.privacy.epsilon > 0
    kinds = asked_kinds(method, empty, experiment.rounds) if nothing_to_choose_by or noised else ()
    private.allow(experiment, kinds, private.unnoised(method, empty) if noised else (), source)
    if nothing_to_choose_by and any(measures.find(kind).of == measures.DEVELOPMENT for kind in kinds):
        share = experiment.data.development
        more = f"set it above {share:g}{', or let fewer devices have more examples each' if share else ''}"
        raise ExperimentError(
            f"{source}: data.development: {experiment.method['name']} chooses among candidates by the devices' "
            f"development examples, and there are none; {more}"
        )
    notices = () if fitting.embeds(model) else found.notices  # what is looked up by its number needs no scale
    channels = prunable.channels if model_begun.parts else None
    on_devices = engine.of(experiment, model, schema, task, method.local, channels, source)
    unmet = tuple(spans.unmet(experiment, method, model_begun, len(found.public)))
    notices = (
        *notices,
        *([f"model: {remark}"] if remark else []),
        *remarks,
        *fitting.returned(experiment, model, schema, task),
        *pruned.in_words(experiment, prunable, model_begun),
        *unmet,
        *([on_devices.said] if on_devices.said else []),
    )
    part = next(iter(model_begun.parts), "")
    setting = Setting(
        experiment, schema, found.holds, found.public, layers, method, part,
        engine=on_devices, notices=notices, unmet=unmet,
    )  # fmt: skip
    if not experiment.fleet:
        return setting
    if agreed is None and (trained := training_devices(experiment.fleet)) != devices:
        raise ExperimentError(f"{source}: fleet: {devices} devices hold data, but the tiers that train have {trained}")
    if sized_by is None:
        raise ExperimentError(
            f"{source}: fleet: {experiment.method['name']} has no density and no width by which tiers could differ"
        )
    if why := why_not_shared(method, empty):
        raise ExperimentError(f"{source}: fleet: {experiment.method['name']} {why}; leave [fleet] out")
    asked = float(experiment.method.get(*sized_by))
    try:
        alone = engine.alone(on_devices, method.local, asked_kinds(method, empty, experiment.rounds))
        costs = Costs(experiment, schema, found.holds, layers, setting.model, empty, sized, asked, alone)
        plan = planning.make(experiment, costs, source, agreed.tiers if agreed else {})
    except UnsupportedOperation as error:
        raise ExperimentError(f"{source}: model: {experiment.model} cannot be exported: {error}") from error
    order = {"scores": by_scores, "votes": by_votes}.get(experiment.training.join)
    whole = plan.methods[""] if "" in plan.methods else nested(plan.methods, order)
    return replace(setting, method=whole, plan=plan)


def _without_layers(prunable: Prunable) -> str:
    if prunable.dense:
        return "its first and its last stay dense (prune_first, prune_last)"
    return "all are frozen" if prunable.frozen else "it has none whose weights are known to be a layer's"


def zeros(experiment: Experiment, schema: Schema) -> Params:
    """Every parameter and buffer of the experiment's model, all 0."""
    slots = models.slots(experiment.model, schema.input_shape, len(schema.classes))
    return {name: np.zeros(slot.shape, slot.dtype) for name, slot in slots.items()}
