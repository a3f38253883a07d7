"""What a run's training costs by the conventions of papers, from the weights that its devices kept round by round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

import numpy as np

from fedprune import tasks
from fedprune.budgets import accounted
from fedprune.federated.rounds.model import State
from fedprune.graph import Graph, UnsupportedOperation
from fedprune.methods import owning
from fedprune.methods.asking import rehearsed
from fedprune.runs.setting import Setting

_SWAPPED = 0.3  # of the kept weights, at most, in one adjustment: α of RigL, FedTiny and others
_DENSE, _GROWS = {"gradients", "scaled_gradients"}, "top_gradients"
_SEEN = 30  # rounds in which a method shows whether it grows


def kept(state: State, setting: Setting) -> dict[str, float]:
    """Kept weights of each prunable layer; of devices with masks of their own, their mean."""
    sizes = {name: float(np.prod(shape)) for name, shape in setting.layers.items()}
    masks = state.view(next(iter(state.parts), "")).masks
    whole = {name: float(np.count_nonzero(masks[name])) if name in masks else size for name, size in sizes.items()}
    own = [owning.mask_of(state.model(), device) for device in owning.devices(state.model())]
    return whole | {
        name: float(np.mean([np.count_nonzero(mask[name]) for mask in own if name in mask]))
        for name in whole
        if any(name in mask for mask in own)
    }


class Accounts:
    """Costs of a round of the device with the most examples, by `budgets.accounted`; the model is traced once."""

    def __init__(self, setting: Setting) -> None:
        """``setting`` is the run's."""
        from fedprune.graph import trace

        training = setting.experiment.training
        self._params = setting.zeros()
        self._graph: Graph | None = None
        with suppress(UnsupportedOperation):
            self._graph = trace(setting.model(), tasks.example(setting.task, setting.schema.input_shape))
        self._examples = training.epochs * max(parts["train"] for parts in setting.holds.values())
        acts = rehearsed(setting.method, self._params, min(setting.experiment.rounds, _SEEN))
        self._reported = {ask.kind for ask in setting.method.local.reports.values()}
        self._ever = self._reported | {ask.kind for each in acts if each.round for ask in each.asks.values()}
        self._batch = training.grow_batch or training.batch

    def of(self, kept: Mapping[str, float], asked: Iterable[str] | None = None) -> dict[str, float]:
        """FLOPs and bytes of a round with so many weights of each layer; nothing of a model that cannot be traced.

        ``asked`` are the kinds of evidence of that round; None is all that are ever asked after round 0. Gradients
        count as taken along with training, as papers have it, also where they are asked apart.
        """
        if self._graph is None:
            return {}
        kinds = self._ever if asked is None else self._reported | {*asked}
        counts, dense, grows = {n: round(count) for n, count in kept.items()}, bool(kinds & _DENSE), _GROWS in kinds
        grown = round(_SWAPPED * sum(counts.values())) if grows else 0
        growing = self._examples if dense else self._batch * grows
        return {
            "flops": accounted.training_flops(self._graph, counts, self._examples, dense=growing),
            "training_bytes": accounted.training_bytes(self._params, counts, dense=dense, grown=grown),
            "link_bytes": accounted.link_bytes(self._params, counts),
        }
