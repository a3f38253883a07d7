"""A model in an arena: batches go in, gradients and losses come out, weights move."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fedprune.graph import BatchNorm, Graph, parameters
from fedprune.native import library, program
from fedprune.native.program import Plan, Program
from fedprune.native.state import State, state
from fedprune.types import Masks, Params, Sgd, Tensor


class Trainer:
    """A covered graph with values of its own, of which pruned ones take no room."""

    def __init__(
        self, graph: Graph, params: Params, masks: Masks, examples: int, *, cuts: Sequence[int] = (),
        frozen: frozenset[str] = frozenset(), threads: int = 1, wanted: str = "",
    ) -> None:  # fmt: skip
        """For batches of at most so many ``examples``; ``params`` have what the graph's nodes hold."""
        self.plan: Plan = program.plan(graph, examples)
        self._names, self._masks = {n.name: n for op in graph.operations for n in parameters(op)}, masks
        self._params, self._threads, self._wanted = params, threads, wanted
        self.state: State = state(list(self.plan.nodes), masks, frozen)
        classes = self.plan.sizes[graph.outputs[0]].channels
        loss = program.cross_entropy(classes)
        self.training: Program = program.training(self.plan, self.state, loss, 1, cuts=cuts)
        self.evaluation: Program = program.evaluation(self.plan, self.state, loss, 1)
        self.size = program.laid_out([self.training, self.evaluation], self.state)
        self._tables = {each: program.table(each) for each in (self.training, self.evaluation)}
        self.arena: Tensor = np.zeros(self.size, np.float32)
        for buffer, values in self.state.constants:
            self.arena[buffer.at : buffer.at + values.size].view(np.int32)[:] = values
        self.state.constants.clear()
        for name in self._names:
            if name in self.state.trained or name in self.state.still:
                self._view(name)[:] = self._of(name, params[name])
        self._decayed = [name for name in self.state.trained if np.ndim(params[name]) > 1]

    def _view(self, name: str) -> Tensor:
        place, kept = self.state.value(name), self.state.trained.get(name) or self.state.still[name]
        at = place.buffer.at + place.shift
        return self.arena[at : at + kept.values]

    def _of(self, name: str, value: Tensor) -> Tensor:
        entries = (self.state.trained.get(name) or self.state.still[name]).entries
        flat = np.asarray(value, np.float32).reshape(-1)
        return flat if entries is None or entries.at is None else flat[entries.at]

    def _part(self, which: object) -> Tensor:
        buffer = getattr(self.state, str(which))
        return self.arena[buffer.at : buffer.at + buffer.elements]

    def run(self, of: Program, inputs: Tensor, labels: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """(outputs (n, ...), losses (n,)) of a batch; a training program adds gradients to what there is."""
        count, lanes, ends = len(inputs), self.plan.lanes, of.ends
        source = ends.input
        at, (rows, columns), size = source.buffer.at, source.halo, source.size
        shape = size.channels, size.height + 2 * rows, size.width + 2 * columns, lanes
        whole = self.arena[at : at + source.buffer.elements].reshape(shape)
        inner = whole[:, rows : rows + size.height, columns : columns + size.width]
        inner[..., :count] = np.moveaxis(inputs.reshape(count, *size), 0, -1)
        inner[..., count:] = 0
        self.arena[ends.labels.at : ends.labels.at + count].view(np.int32)[:] = labels
        self.arena[ends.losses.at + lanes] = scale
        library.run(self.arena, lanes, count, self._tables[of], threads=self._threads, wanted=self._wanted)
        output = ends.output
        values = self.arena[output.buffer.at : output.buffer.at + output.buffer.elements].reshape(-1, lanes)
        losses = self.arena[ends.losses.at : ends.losses.at + count]
        return values[:, :count].T.copy(), losses.copy()

    def step(self, inputs: Tensor, labels: Tensor, sgd: Sgd) -> tuple[Tensor, Tensor]:
        """Train one batch; (outputs, losses) from before the step."""
        self._part("gradients")[:] = 0
        lanes, outputs, losses = self.plan.lanes, [], []
        for first in range(0, len(inputs), lanes):
            part = slice(first, first + lanes)
            some, few = self.run(self.training, inputs[part], labels[part], 1 / len(inputs))
            outputs.append(some)
            losses.append(few)
        self.move(sgd)
        return np.concatenate(outputs), np.concatenate(losses)

    def move(self, sgd: Sgd) -> None:
        """One step of masked SGD with momentum; matrices decay."""
        values, gradients, velocity = map(self._part, ("values", "gradients", "velocity"))
        for name in self._decayed if sgd.weight_decay else []:
            kept = self.state.trained[name]
            part = slice(kept.shift, kept.shift + kept.values)
            gradients[part] += np.float32(sgd.weight_decay) * values[part]
        for name, kept in self.state.trained.items():
            if kept.entries is not None and kept.entries.dense and name in self._masks:
                gradients[kept.shift : kept.shift + kept.values] *= self._masks[name].reshape(-1)
        velocity *= np.float32(sgd.momentum)
        velocity += gradients
        np.multiply(velocity, np.float32(sgd.learning_rate), out=gradients)
        values -= gradients

    def evaluate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """(outputs, losses) of each batch, batch norms at rest."""
        found = []
        for inputs, labels in batches:
            for first in range(0, len(inputs), self.plan.lanes):
                part = slice(first, first + self.plan.lanes)
                found.append(self.run(self.evaluation, inputs[part], labels[part], 0.0))
        return found

    def params(self) -> Params:
        """All that the graph holds, as it is now, in full shapes."""
        found = dict(self._params)
        for name in self._names:
            kept = self.state.trained.get(name) or self.state.still.get(name)
            if kept is None:
                continue
            shape = np.shape(self._params[name])
            if kept.entries is None or kept.entries.at is None:
                found[name] = self._view(name).reshape(shape).copy()
            else:
                whole = np.zeros(int(np.prod(shape)), np.float32)
                whole[kept.entries.at] = self._view(name)
                found[name] = whole.reshape(shape)
        return found

    def gradients(self) -> dict[str, Tensor]:
        """What a batch's program has added up, by name, as values are held."""
        buffer = self.state.gradients
        return {
            name: self.arena[buffer.at + kept.shift : buffer.at + kept.shift + kept.values].copy()
            for name, kept in self.state.trained.items()
        }
