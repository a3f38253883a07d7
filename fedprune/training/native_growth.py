"""The largest gradients of pruned weights without torch, of which a layer's are never there all at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from fedprune.graph import Graph, without_dropout
from fedprune.native import program
from fedprune.native.backwards import Asked
from fedprune.native.machine import Machine
from fedprune.native.program import Plan, Program
from fedprune.native.state import State, state
from fedprune.training.native import Model, lone_norms
from fedprune.types import Masks, Tensor, TopK


def top_gradients(
    model: Model, inputs: Tensor, labels: Tensor, masks: Masks, counts: Mapping[str, int], smoothing: float = 0.0
) -> dict[str, TopK]:
    """As `evidence.top_gradients`: a layer's gradient is computed a few output channels at a time, and never whole."""
    plan, held, own, asked = growing(model, masks, counts, len(labels), smoothing)
    machine = Machine(plan, held, [own])
    machine.load(model.params)
    machine.feed(own, inputs, model.labels(labels), 1 / len(labels))
    found, done = {}, 0
    for each in asked:
        machine.run(own, len(labels), slice(done, each.step))
        found[each.name] = _largest(machine, own, each, len(labels), masks[each.name], counts[each.name])
        done = each.step + 1
    return found


def growing(
    model: Model, masks: Masks, layers: Collection[str], examples: int, smoothing: float = 0.0
) -> tuple[Plan, State, Program, list[Asked]]:
    """What `top_gradients` runs over so many examples, with the step of each layer; nothing is placed yet."""
    plan = program.plan(without_dropout(model.graph), examples)
    held = state(list(plan.nodes), masks, frozenset(_trainable(model.graph)) - frozenset(layers))
    rest = lone_norms(plan) if examples == 1 else frozenset()
    return plan, held, *program.growth(plan, held, model.loss(smoothing), layers, model.each, at_rest=rest)


def _largest(machine: Machine, of: Program, asked: Asked, examples: int, mask: Tensor, count: int) -> TopK:
    row, among = machine.tables[of][asked.step], ~mask.reshape(len(mask), -1)
    position, value, first = np.zeros(0, np.int64), np.zeros(0, np.float32), 0
    while first < len(mask):
        rows = min(asked.rows, asked.group - first % asked.group)
        into = machine.part(asked.into)
        into[:] = 0
        machine.rows(asked.of_rows(row, first, rows), examples)
        gradient = into[: rows * among.shape[1]]
        at = np.flatnonzero(among[first : first + rows])
        position = np.concatenate([position, at + first * among.shape[1]])
        value = np.concatenate([value, gradient[at]])
        best = np.sort(np.argsort(-np.abs(value), kind="stable")[:count])  # ties to the first position
        position, value, first = position[best], value[best], first + rows
    return TopK(position, value)


def _trainable(graph: Graph) -> list[str]:
    own = [getattr(op, key, None) for op in graph.operations for key in ("weight", "bias")]
    return [each.name for each in own if each is not None]
