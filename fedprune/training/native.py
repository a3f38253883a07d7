"""A device's half without torch, for models that the native trainer covers: the same sums and evidence as with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from fedprune.experiment import Training
from fedprune.graph import BatchNorm, Conv2d, Graph, Linear, without_dropout
from fedprune.graph.message import of_text
from fedprune.lazy import Lazy, joined
from fedprune.native import library, program
from fedprune.native.machine import Machine
from fedprune.native.maps import Held
from fedprune.native.nodes import not_covered
from fedprune.native.program import Loss, Plan, Program
from fedprune.native.state import State, state
from fedprune.tasks import CLASSIFICATION, Task, added, zeros
from fedprune.training import Outcome, native_steps, steps_plainly
from fedprune.training.again import T, again
from fedprune.training.batches import Batches
from fedprune.training.divergence import Diverged, exploded, largest
from fedprune.training.lean import PLAIN, Lean, parts, return_freed_memory
from fedprune.training.native_steps import Form, Inner
from fedprune.training.optimisers import PLAIN_STEPS, Steps
from fedprune.types import Local, Masks, Moments, Params, Sgd, Tensor

_LARGE = 2**23  # elements of an arena, from which on it is worth the time to give memory back
_COUNT, _MEAN = "num_batches_tracked", "running_mean"


NET = "net"
"""Value of a request: the model's graph, without its weights."""


class Model(NamedTuple):
    """A model as the native trainer has it."""

    graph: Graph
    params: Params
    """Everything that the model holds, also what the graph does not."""
    numbers: tuple[Tensor, Tensor] | None = None
    """Of a regression, mean and standard deviation of its targets; None of a classification."""

    def loss(self, smoothing: float = 0.0) -> Loss:
        """What is minimised."""
        if self.numbers is not None:
            return program.squared_error
        return program.cross_entropy(self.graph.shapes[self.graph.outputs[0]][1], smoothing)

    def labels(self, labels: Tensor) -> Tensor:
        """Labels as the loss takes them."""
        if self.numbers is None:
            return labels
        mean, std = self.numbers
        return np.asarray((labels - mean) / std, np.float32)

    @property
    def each(self) -> int:
        """How many labels an example has."""
        return 1 if self.numbers is None else self.graph.shapes[self.graph.outputs[0]][1]


def installed() -> bool:
    """Whether the compiled kernels are there."""
    return library.library() is not None


def model(text: str, params: Params, numbers: tuple[Tensor, Tensor] | None = None) -> Model:
    """The model of a message. ValueError where it is none, or none that is covered."""
    graph = of_text(text, params)
    if why := not_covered(graph):
        raise ValueError(f"a graph for the native trainer, but {why}")
    return Model(graph, params, numbers)


def trains(settings: Training, local: Local) -> bool:
    """Whether a method's local steps are such as are taken here: plain SGD on all examples of the task's own loss."""
    own = steps_plainly(local) and (local.around, local.examples) == (None, None)
    return own and settings.optimiser == "sgd" and not settings.class_weights


def train(
    model: Model, batches: Batches, sgd: Sgd, masks: Masks, *, examples: int, steps: Steps = PLAIN_STEPS,
    lean: Lean = PLAIN, task: Task = CLASSIFICATION, smoothing: float = 0.0, first_loss: float | None = None,
    inner: Sequence[Inner] = (), turn: Callable[[int], int] | None = None, drawn: Callable[[int], int] = int,
) -> tuple[Outcome, Params]:  # fmt: skip
    """(sums over the examples as trained on, what the model holds then), after plain masked SGD.

    Batches are of at most so many ``examples``. Step i trains the whole model where ``turn(i)`` is 0, else
    ``inner[turn(i) - 1]``; what it drops follows from ``drawn(i)``, in [0, 2⁶⁴). `divergence.Diverged` as in
    `fedprune.training.train`.
    """
    asked = model, masks, examples, lean, smoothing, inner
    under = [masks, *(each.masks for each in inner)]
    plan, forms, machine = _again("training", model, under, (examples, lean, smoothing), lambda: _ready(*asked))
    machine.load(model.params)
    machine.part(machine.state.velocity)[:] = 0
    if lean != PLAIN or machine.elements > _LARGE:
        return_freed_memory()
    for form, each in zip(forms[1:], inner, strict=True):
        native_steps.load(machine, form, each)
    move = native_steps.moved(machine, masks, sgd, steps)
    first, step, seen, done = first_loss, 0, 0, [0] * len(forms)
    total, sums, last = 0.0, zeros(task), math.nan
    for step, (inputs, labels) in enumerate(batches):
        mine, before = turn(step) if turn is not None else 0, seen
        native_steps.begin(machine, forms[mine])
        for some, few, _ in parts(inputs, labels, lean.micro_batch):
            which = forms[mine].program(len(some))
            machine.feed(which, some, model.labels(few), 1 / len(labels), drawn(step), seen - before)
            machine.run(which, len(some))
            last = float(machine.losses(which, len(some)).mean())
            first = last if first is None else first
            if exploded(last, first):
                raise Diverged(last, *largest(_named(machine)), step)
            total += last * len(few)
            sums = added(sums, task.sums(machine.outputs(which, len(some)), few))
            seen, done[mine] = seen + len(few), done[mine] + 1
        native_steps.end(machine, forms[mine])
        move()
    name, value = largest(_named(machine))
    if not math.isfinite(value):
        raise Diverged(last, name, value, step)
    for form, each, count in zip(forms[1:], inner, done[1:], strict=True):
        native_steps.store(machine, form, each)
        each.buffers.update(_counted(each.buffers, plan, count))
    return Outcome(total, sums, seen), joined(model.params, machine.params(), _counted(model.params, plan, done[0]))


def _again(what: str, model: Model, under: Sequence[Masks], how: object, make: Callable[[], T]) -> T:
    """`again.again`, but for a real device, which reads its message lazily: it makes what it needs, and keeps none."""
    key = model.graph, model.numbers is None, how
    return make() if isinstance(model.params, Lazy) else again(what, key, under, make)


def _ready(
    model: Model, masks: Masks, examples: int, lean: Lean, smoothing: float, inner: Sequence[Inner]
) -> tuple[Plan, list[Form], Machine]:
    plan, forms = planned(model, masks, examples, lean, smoothing, inner)
    return plan, forms, _machine(plan, forms)


def planned(
    model: Model, masks: Masks, examples: int, lean: Lean = PLAIN, smoothing: float = 0.0, inner: Sequence[Inner] = ()
) -> tuple[Plan, list[Form]]:
    """What `train` runs, of batches of at most so many examples; nothing is placed yet."""
    plan = program.plan(model.graph, min(examples, lean.micro_batch or examples))
    loss, rest = model.loss(smoothing), lone_norms(plan)

    def made(held: State, cuts: Sequence[int], at_rest: frozenset[str] = frozenset()) -> Program:
        return program.training(plan, held, loss, model.each, at_rest, cuts=cuts)

    def chosen() -> Sequence[int]:
        # more cuts keep more tensors, fewer compute more at once: which takes less is for the model to say
        possible, held = program.possible_cuts(plan), state(list(plan.nodes), masks)
        ways = [possible[every - 1 :: every] for every in (1, 2, 3)]
        return min(ways, key=lambda way: program.laid_out([made(held, way)], held))

    cuts = chosen() if lean.recompute else ()

    def programs(held: State) -> tuple[Program, Program]:
        whole = made(held, cuts)
        return whole, made(held, cuts, rest) if rest else whole

    return plan, native_steps.forms(list(plan.nodes), masks, inner, programs)


def _machine(plan: Plan, forms: Sequence[Form]) -> Machine:
    own, *beside = (form.held for form in forms)
    return Machine(plan, own, programs_of(forms), beside=beside)


def programs_of(forms: Sequence[Form]) -> list[Program]:
    """All programs of what is trained in turn, each once."""
    return list(dict.fromkeys(each for form in forms for each in form.programs))


def _counted(params: Params, plan: Plan, batches: int) -> dict[str, Tensor]:
    """How many batches each batch norm has seen by now."""
    names = [op.mean.name.replace(_MEAN, _COUNT) for op in plan.graph.operations if isinstance(op, BatchNorm)]
    return {name: np.asarray(params[name] + batches) for name in names if name in params}


def evaluate(model: Model, batches: Batches, examples: int, task: Task = CLASSIFICATION) -> Outcome:
    """Sums of the error and the metric, batch norms at rest; batches are of at most so many ``examples``."""
    total, sums, seen = 0.0, zeros(task), 0
    run = at_rest(model, examples)
    for inputs, labels in batches:
        outputs, losses = run(inputs, labels)
        total += float(losses.astype(np.float64).sum())
        sums = added(sums, task.sums(outputs, labels))
        seen += len(labels)
    return Outcome(total, sums, seen)


Run = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(inputs, labels) -> (outputs (n, F), losses (n,)), batch norms at rest."""


def at_rest(model: Model, examples: int) -> Run:
    """What computes the model's outputs, of at most so many examples at a time."""
    return loading(model, examples)(model.params)


def loading(model: Model, examples: int) -> Callable[[Params], Run]:
    """From parameters and buffers, 0 wherever the model's weights are, to their `at_rest`; one runs, the last."""
    kept = kept_of(model)

    def ready() -> tuple[Program, Machine]:
        plan, held, own = resting(model, kept, examples)
        return own, Machine(plan, held, [own])

    own, machine = _again("at rest", model, [kept], examples, ready)

    def run(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        machine.feed(own, inputs, model.labels(labels), 0.0)
        machine.run(own, len(labels))
        return machine.outputs(own, len(labels)), machine.losses(own, len(labels))

    def load(params: Params) -> Run:
        machine.load(params)
        return run

    return load


def resting(model: Model, masks: Masks, examples: int) -> tuple[Plan, State, Program]:
    """What `at_rest` runs, of a model whose weights are 0 outside its masks; nothing is placed yet."""
    plan = program.plan(without_dropout(model.graph), examples)
    held = state(list(plan.nodes), masks, train=False)
    return plan, held, program.evaluation(plan, held, model.loss(), model.each)


def bn_statistics(model: Model, batches: Batches, examples: int) -> dict[str, Moments]:
    """As `evidence.bn_statistics`: mean and unbiased variance of every batch norm's input, mean over the batches."""
    plan = program.plan(without_dropout(model.graph), examples)
    held = state(list(plan.nodes), kept_of(model), train=False)
    whole = program.statistics(plan, held, model.each)
    machine, lone = _with_lone(plan, held, whole, lambda rest: program.statistics(plan, held, model.each, rest))
    machine.load(model.params)
    names = [(op.mean.name, op.variance.name) for op in model.graph.operations if isinstance(op, BatchNorm)]
    found: dict[str, Tensor] = {name: np.zeros(machine.value(name).size) for pair in names for name in pair}
    count, seen = 0, 0
    for inputs, labels in batches:
        which = lone if len(labels) == 1 else whole
        for name in found:
            machine.value(name)[:] = model.params[name]  # what one that goes by its own then has
        machine.feed(which, inputs, model.labels(labels), 0.0)
        machine.run(which, len(labels))
        count, seen = count + 1, seen + len(labels)
        for name, total in found.items():
            total += machine.value(name)
    mean = {name: (total / max(count, 1)).astype(np.float32) for name, total in found.items()}
    return {one.removesuffix(f".{_MEAN}"): Moments(mean[one], mean[other], seen) for one, other in names}


def _with_lone(
    plan: Plan, held: State, whole: Program, make: Callable[[frozenset[str]], Program]
) -> tuple[Machine, Program]:
    """(a machine for a program, the one for batches of a single example)."""
    rest = lone_norms(plan)
    lone = make(rest) if rest else whole
    return Machine(plan, held, [whole] if lone is whole else [whole, lone]), lone


def lone_norms(plan: Plan) -> frozenset[str]:
    """Norms that get one value a channel of one example, which has no spread: they go by their running statistics."""
    sizes = plan.sizes
    return frozenset(name for name in program.norms(plan) if sizes[name].height * sizes[name].width == 1)


def layers_of(graph: Graph) -> dict[str, Conv2d | Linear]:
    """Convolutions and linear layers by their weight's name."""
    return {op.weight.name: op for op in graph.operations if isinstance(op, Conv2d | Linear)}


def each_tensor(model: Model, examples: int) -> tuple[Plan, State, Program, Mapping[str, tuple[int, Held]]]:
    """What computes every tensor at rest, of at most so many examples at a time, and as `program.one_by_one` each."""
    plan = program.plan(without_dropout(model.graph), examples, apart=True)
    held = state(list(plan.nodes), kept_of(model), train=False)
    return plan, held, *program.one_by_one(plan, held)


def kept_of(model: Model) -> Masks:
    """Masks by what is not 0, so that a sparse model is computed as one."""
    return Lazy({name: partial(_filled, model.params, name) for name in layers_of(model.graph)})


def _filled(params: Params, name: str) -> Tensor:
    return np.asarray(params[name] != 0)


def _named(machine: Machine) -> dict[str, Tensor]:
    return {name: machine.value(name) for name in (*machine.state.trained, *machine.state.still)}
