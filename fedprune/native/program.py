"""A graph as a program: forwards, the loss, backwards, and where everything lies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import prod

from fedprune.graph import Add, BatchNorm, Clip, Conv2d, Dropout, Graph, Linear
from fedprune.native.arena import Buffer, lives, place, room
from fedprune.native.backwards import Asked, Backwards
from fedprune.native.forwards import Forwards
from fedprune.native.maps import Halo, Held, Lanes
from fedprune.native.nodes import Node, each_alone, nodes, size_of
from fedprune.native.state import State
from fedprune.native.steps import Kind, Place, Size, Step
from fedprune.native.weights import input_halo, output_halo, window

LANES = 16
"""Of a group; 8 where no batch has more examples."""
_CHUNK = 2**16
"""Of a whole gradient, values at a time."""


@dataclass(frozen=True, eq=False)
class Ends:
    """What passes between a program and who runs it, each an example a lane."""

    input: Held
    output: Held
    labels: Buffer
    losses: Buffer
    drawn: Buffer | None = None
    """What dropout goes by: two words of the step's number, and the first example's place in its batch."""


@dataclass(frozen=True, eq=False)
class Program:
    """Steps of one batch, whose buffers are not placed yet."""

    steps: Sequence[Step]
    ends: Ends


@dataclass(frozen=True, eq=False)
class Plan:
    """A graph, prepared: what all of its programs have in common."""

    graph: Graph
    nodes: Sequence[Node]
    sizes: dict[str, Size]
    halos: dict[str, Halo]
    gradient_halos: dict[str, Halo]
    lanes: Lanes


Loss = Callable[[Forwards, Held, "Held | None", Buffer, Buffer], None]
"""Emit the loss: (where, outputs, their gradient if it is wanted, labels, losses)."""


def plan(graph: Graph, examples: int, *, apart: bool = False) -> Plan:
    """Prepare a covered graph for batches of at most so many examples; ``apart``: each operation is a node."""
    lanes = Lanes(8, 1) if examples <= 8 else Lanes(LANES, -(-examples // LANES))
    sizes = {name: size_of(shape) for name, shape in graph.shapes.items()}
    halos: dict[str, Halo] = {}
    back: dict[str, Halo] = {}
    found = each_alone(graph) if apart else nodes(graph)
    for node in found:
        name = node.inputs[0]
        if isinstance(node.op, Conv2d | Linear):
            own, x, y = window(node.op), sizes[name], sizes[node.output]
            halos[name] = _larger(halos.get(name, (0, 0)), input_halo(own, x, y))
            back[node.output] = output_halo(own, x, y)
        elif isinstance(node.op, BatchNorm | Add | Clip | Dropout):
            # their inputs' gradient is that of the output, in its place
            before = [back.get(each, (0, 0)) for each in node.op.inputs]
            back[node.output] = _larger(*(before if len(before) > 1 else (before[0], (0, 0))))
    return Plan(graph, found, sizes, halos, back, lanes)


def _larger(one: Halo, other: Halo) -> Halo:
    return max(one[0], other[0]), max(one[1], other[1])


def _emitter(plan: Plan, state: State, at_rest: frozenset[str], *, momentum: float | None = -1.0) -> Forwards:
    return Forwards(state, plan.sizes, plan.halos, plan.lanes, at_rest, momentum)


def norms(plan: Plan) -> frozenset[str]:
    """Outputs of all batch norms' nodes."""
    return frozenset(node.output for node in plan.nodes if isinstance(node.op, BatchNorm))


def _ends(plan: Plan, emitter: Forwards, labels: int) -> tuple[Held, Buffer, Buffer]:
    source = emitter.new(plan.graph.input)
    emitter.clear(source)
    return source, Buffer(labels * plan.lanes.all), Buffer(plan.lanes.all + 1)


def evaluation(plan: Plan, state: State, loss: Loss, labels: int = 1) -> Program:
    """The program that computes outputs and losses, batch norms at rest."""
    emitter = _emitter(plan, state, norms(plan))
    source, targets, losses = _ends(plan, emitter, labels)
    for node in plan.nodes:
        emitter.run(node)
    output = emitter.maps[plan.graph.outputs[0]]
    loss(emitter, output, None, targets, losses)
    return Program(emitter.steps, Ends(source, output, targets, losses))


def one_by_one(plan: Plan, state: State) -> tuple[Program, dict[str, tuple[int, Held]]]:
    """The program that computes every tensor; after how many of its steps each is there, and where it lies until then.

    Its inputs are there from the start. Batch norms are at rest.
    """
    emitter = _emitter(plan, state, norms(plan))
    source, targets, losses = _ends(plan, emitter, 1)
    made = {plan.graph.input: (len(emitter.steps), source)}
    for node in plan.nodes:
        emitter.run(node)
        made[node.output] = len(emitter.steps), emitter.maps[node.output]
    return Program(emitter.steps, Ends(source, emitter.maps[plan.graph.outputs[0]], targets, losses)), made


def statistics(plan: Plan, state: State, labels: int = 1, at_rest: frozenset[str] = frozenset()) -> Program:
    """The program that sets batch norms' running statistics to those of a batch, as training sees it."""
    emitter = _emitter(plan, state, at_rest, momentum=1.0)
    source, targets, losses = _ends(plan, emitter, labels)
    wants = _sums_wanted(plan, at_rest)
    for node in plan.nodes:
        emitter.run(node, wants.get(node.output))
    return Program(emitter.steps, Ends(source, emitter.maps[plan.graph.outputs[0]], targets, losses))


def training(
    plan: Plan, state: State, loss: Loss, labels: int = 1, at_rest: frozenset[str] = frozenset(), *,
    cuts: Sequence[int] = ()
) -> Program:  # fmt: skip
    """The program that adds a batch's gradients to what is there; ``cuts`` are nodes before which all is recomputed.

    Between two cuts nothing is kept for the way back but the one tensor that is live there.
    """
    program, _ = _backwards(plan, state, loss, labels, _emitter(plan, state, at_rest), at_rest, cuts, {})
    return program


def growth(
    plan: Plan, state: State, loss: Loss, layers: Collection[str], labels: int = 1,
    at_rest: frozenset[str] = frozenset(),
) -> tuple[Program, list[Asked]]:  # fmt: skip
    """The program that comes to the whole gradients of layers, which alone are trained; statistics stay."""
    sizes = {name: state.entries(name).shape for name in layers}
    rows = {name: max(1, min(_CHUNK // prod(shape[1:]), shape[0])) for name, shape in sizes.items()}
    grown = {name: Buffer(rows[name] * prod(shape[1:])) for name, shape in sizes.items()}
    emitter = _emitter(plan, state, at_rest, momentum=None)
    return _backwards(plan, state, loss, labels, emitter, at_rest, (), grown)


def _backwards(
    plan: Plan, state: State, loss: Loss, labels: int, emitter: Forwards, at_rest: frozenset[str],
    cuts: Sequence[int], grown: dict[str, Buffer],
) -> tuple[Program, list[Asked]]:  # fmt: skip
    source, targets, losses = _ends(plan, emitter, labels)
    if any(isinstance(node.op, Dropout) for node in plan.nodes):
        emitter.drawn = Buffer(3)
    wants = _sums_wanted(plan, at_rest)
    segments = [plan.nodes[a:b] for a, b in zip((0, *cuts), (*cuts, len(plan.nodes)), strict=True)]
    held_over: list[dict[str, Held]] = []
    for segment in segments:
        held_over.append(dict(emitter.maps))
        for node in segment:
            emitter.run(node, wants.get(node.output))
    output = emitter.maps[plan.graph.outputs[0]]
    back = Backwards(emitter, _needed(plan, state), plan.graph.outputs[0], plan.gradient_halos, grown=grown)
    into, _ = back.gradient(plan.graph.outputs[0])
    loss(emitter, output, into, targets, losses)
    for at in reversed(range(len(segments))):
        if at < len(segments) - 1:
            emitter.maps = dict(held_over[at])
            for node in segments[at][:-1]:
                emitter.run(node)
            last = segments[at][-1]
            emitter.maps[last.output] = held_over[at + 1][last.output]
        for node in reversed(segments[at]):
            back.run(node)
    return Program(emitter.steps, Ends(source, output, targets, losses, emitter.drawn)), back.asked


def possible_cuts(plan: Plan) -> list[int]:
    """Numbers of layers before which one tensor alone is live: the output of the node before.

    What a norm, or a pool, reads is not kept: it is computed again with the layer before.
    """
    last = {name: at for at, node in enumerate(plan.nodes) for name in node.inputs}
    last |= dict.fromkeys(plan.graph.outputs, len(plan.nodes))
    found, live = [], {plan.graph.input}
    for at, node in enumerate(plan.nodes):
        live.add(node.output)
        live = {name for name in live if last.get(name, -1) > at}
        layer = at + 1 < len(plan.nodes) and isinstance(plan.nodes[at + 1].op, Conv2d | Linear)
        if live == {node.output} and layer:
            found.append(at + 1)
    return found


def _sums_wanted(plan: Plan, at_rest: frozenset[str]) -> dict[str, str]:
    """Output of a layer -> the running mean of the batch norm that reads it, whose sums come with the layer."""
    made = {node.output: node for node in plan.nodes}
    return {
        node.inputs[0]: node.op.mean.name
        for node in plan.nodes
        if isinstance(node.op, BatchNorm)
        and node.output not in at_rest
        and isinstance(made.get(node.inputs[0], node).op, Conv2d | Linear)
    }


def _needed(plan: Plan, state: State) -> frozenset[str]:
    found: set[str] = set()
    for node in plan.nodes:
        op = node.op
        own = [each.name for each in (getattr(op, "weight", None), getattr(op, "bias", None)) if each is not None]
        if any(name in state.trained for name in own) or any(name in found for name in node.inputs):
            found.add(node.output)
    return frozenset(found)


def laid_out(programs: Sequence[Program], *states: State) -> int:
    """Place all buffers of programs that run one after the other in one arena; its size, in elements."""
    start, kept = 0, [buffer for state in states for buffer in state.buffers]
    for buffer in kept:
        buffer.at = start
        start += room(buffer.elements)
    size, held = start, set(kept)
    for program in programs:
        ends = [program.ends.input.buffer, program.ends.labels, program.ends.losses]
        ends += [program.ends.drawn] if program.ends.drawn is not None else []
        after = [program.ends.output.buffer, program.ends.losses]
        uses = [ends, *([f.buffer for f in each.fields if isinstance(f, Place)] for each in program.steps), after]
        own = {buffer: life for buffer, life in lives(uses).items() if buffer not in held}
        size = max(size, place(own, start))
    return size


def cross_entropy(classes: int, smoothing: float = 0.0) -> Loss:
    """The softmax cross-entropy with labels, smoothed; its gradient is scaled by what follows the losses."""

    def emit(to: Forwards, output: Held, into: Held | None, labels: Buffer, losses: Buffer) -> None:
        gradient = into.map if into is not None else output.map._replace(at=None)
        scale = Place(losses, to.lanes.all)
        to.emit(Kind.CROSS_ENTROPY, output.map, gradient, classes, Place(labels), Place(losses), scale, smoothing)

    return emit


def squared_error(to: Forwards, output: Held, into: Held | None, labels: Buffer, losses: Buffer) -> None:
    """The mean over outputs of the squared difference from labels, of which each example has as many."""
    gradient = into.map if into is not None else output.map._replace(at=None)
    scale = Place(losses, to.lanes.all)
    to.emit(Kind.SQUARED_ERROR, output.map, gradient, output.size, Place(labels), Place(losses), scale)
