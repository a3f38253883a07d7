"""A trained model on its way out: without needless channels, as a graph, and the ranges of its activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedprune.experiment import ExperimentError
from fedprune.federated.rounds.model import State
from fedprune.models import draws
from fedprune.runs.setting import Setting
from fedprune.training import evidence
from fedprune.types import FloatTensor

if TYPE_CHECKING:
    from torch import nn

    from fedprune.export.litert import Ranges
    from fedprune.graph import Graph

CALIBRATION = 500
"""Public examples that give the ranges of activations."""


def compacted(setting: Setting, state: State) -> tuple[nn.Module, nn.Module]:
    """(the model of a view of the state, the model without the channels that nothing needs)."""
    import torch

    from fedprune.graph.surgery import SurgeryError, shrink

    model = setting.model(state.params)
    parameters = {name for name, _ in model.named_parameters()}
    masks = {name: mask for name, mask in state.masks.items() if name in parameters}
    try:
        with draws.seeded(setting.experiment.seed):
            return model, shrink(model, masks, torch.zeros(1, *setting.schema.input_shape)) if masks else model
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
    import torch

    from fedprune.graph import trace

    with draws.seeded(setting.experiment.seed):
        return trace(model, torch.zeros(1, *setting.schema.input_shape))


def shipped(setting: Setting, state: State) -> Graph:
    """The graph that the int8 file of a view of the state will hold."""
    return smaller(setting, compacted(setting, state)[1])


def without_ranges(setting: Setting) -> str:
    """What keeps an experiment from ever having ranges, by key, and what would be right; empty where nothing does."""
    if setting.experiment.export.ranges == "devices" or len(setting.public):
        return ""
    wanted = 'set it above 0, or export.ranges = "devices"'
    return f"data.public: an export takes the ranges of activations from public examples; {wanted}"


def ranges(setting: Setting, sent: FloatTensor | None, whole: Graph, small: Graph) -> tuple[Ranges, Ranges]:
    """Ranges of the whole and of the compacted model: from public examples, or those of ``small`` as devices sent them.

    ExperimentError where there are none.
    """
    from fedprune.export.litert import calibration

    if setting.experiment.export.ranges == "devices":
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
    if problem := without_ranges(setting):
        raise ExperimentError(problem)
    seen = setting.schema.normalise(setting.public.inputs[:CALIBRATION])
    rule = calibration.RULES[setting.experiment.export.calibration]
    return calibration.calibrate(whole, seen, by=rule), calibration.calibrate(small, seen, by=rule)


def _union(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return min(one[0], other[0]), max(one[1], other[1])
