"""A trained model on its way out: without needless channels, as a graph, and the ranges of its activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fedprune import tasks
from fedprune.experiment import ExperimentError
from fedprune.federated.rounds.model import State
from fedprune.models import draws
from fedprune.runs.setting import Setting
from fedprune.training import evidence
from fedprune.types import FloatTensor

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fedprune.export.litert import Ranges
    from fedprune.export.litert.choosing import Way
    from fedprune.graph import Graph

CALIBRATION = 500
"""Public examples that give the ranges of activations, and choose the best."""


def compacted(setting: Setting, state: State) -> tuple[nn.Module, nn.Module]:
    """(the model of a view of the state, the model without the channels that nothing needs)."""
    from fedprune.graph.surgery import SurgeryError, shrink

    model = setting.model(state.params)
    parameters = {name for name, _ in model.named_parameters()}
    masks = {name: mask for name, mask in state.masks.items() if name in parameters}
    try:
        with draws.seeded(setting.experiment.seed):
            return model, shrink(model, masks, _example(setting)) if masks else model
    except SurgeryError:
        return model, model  # a model whose channels cannot be told apart is exported whole


def graph(setting: Setting, model: nn.Module) -> Graph:
    """The model's graph as it is deployed. UnsupportedOperation for what no operation covers."""
    from fedprune.graph import inference

    return inference(_traced(setting, model))


def smaller(setting: Setting, compact: nn.Module) -> Graph:
    """The graph of a model without what nothing needs, also of what its modules do not tell: heads, norm groups."""
    from fedprune.graph import compaction, fold_batch_norm, inference

    return inference(compaction.compact(fold_batch_norm(_traced(setting, compact))))


def _traced(setting: Setting, model: nn.Module) -> Graph:
    from fedprune.graph import trace

    with draws.seeded(setting.experiment.seed):
        return trace(model, _example(setting))


def _example(setting: Setting) -> torch.Tensor:
    return tasks.example(setting.task, setting.schema.input_shape)


def traceable(setting: Setting) -> bool:
    """Whether the model has a graph."""
    from fedprune.graph import UnsupportedOperation

    try:
        graph(setting, setting.model())
    except UnsupportedOperation:
        return False
    return True


def shipped(setting: Setting, state: State) -> Graph:
    """The graph that the int8 file of a view of the state will hold."""
    return smaller(setting, compacted(setting, state)[1])


def without_ranges(setting: Setting) -> str:
    """What keeps an experiment from ever having ranges, by key, and what would be right; empty where nothing does."""
    if setting.experiment.export.ranges == "devices" or len(setting.public):
        return ""
    wanted = 'set it above 0, or export.ranges = "devices"'
    return f"data.public: an export takes the ranges of activations from public examples; {wanted}"


class Calibrated(NamedTuple):
    """A graph that is ready for its int8 file."""

    graph: Graph
    """With other biases than the model's, where these make up for the rounding."""
    ranges: Ranges
    noise_db: Mapping[str, float]
    """What `rounding.rounded` says of its layers; empty where there is no example to try."""


def calibrated(
    setting: Setting, sent: FloatTensor | None, whole: Graph, small: Graph
) -> tuple[Calibrated, Calibrated, Way]:
    """The whole and the compacted model with ranges, and the way these came about.

    Ranges are those of public examples, or of ``small`` as devices sent them. The best way is the one whose file of
    ``small`` agrees best with torch on public examples; without any it is minmax. ExperimentError where there are none.
    """
    from fedprune.export.litert import calibration
    from fedprune.export.litert.choosing import Way, choose, classes, squares
    from fedprune.export.litert.rounding import rounded

    export, seen = setting.experiment.export, setting.schema.normalise(setting.public.inputs[:CALIBRATION])
    rules = {name: rule for name, rule in calibration.RULES.items() if export.calibration in ("best", name)}
    by_rule: Mapping[str, Ranges]
    if export.ranges == "devices":
        whole_ranges, found = _sent(setting, sent, whole, small)
        by_rule = {"minmax": found}
    elif problem := without_ranges(setting):
        raise ExperimentError(problem)
    else:
        by_rule = calibration.calibrate_by(rules, small, seen)
    way = Way(next(iter(by_rule)))
    if export.calibration == "best" and len(seen):
        way = choose(small, by_rule, seen, classes if setting.task.classes else squares)
    if export.ranges != "devices":
        whole_ranges = calibration.calibrate(whole, seen, by=rules[way.rule])

    def ready(graph: Graph, ranges: Ranges) -> Calibrated:
        if not len(seen):
            return Calibrated(graph, ranges, {})
        made = rounded(graph, ranges, seen, correct=way.corrected)
        return Calibrated(made.graph, ranges, made.noise_db)

    return ready(whole, whole_ranges), ready(small, by_rule[way.rule]), way


def _sent(setting: Setting, sent: FloatTensor | None, whole: Graph, small: Graph) -> tuple[Ranges, Ranges]:
    """Ranges of the whole and of the compacted model that devices measured of ``small``."""
    from fedprune.export.litert import calibration

    if sent is None:
        raise ExperimentError("export.ranges: no device has measured any; run again with --fresh")
    try:
        found = calibration.named(small, sent)
    except ValueError as error:
        raise ExperimentError(f"export.ranges: {error}; run again with --fresh") from error
    # a channel that the whole model alone has is read by nobody, or has one value for every input, zeros as well
    zeros = np.zeros((1, *setting.schema.input_shape), np.float32)
    constants = calibration.named(whole, evidence.ranges(whole, [zeros]))
    return {name: _union(ends, found.get(name, ends)) for name, ends in constants.items()}, found


def _union(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return min(one[0], other[0]), max(one[1], other[1])
