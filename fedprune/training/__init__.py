"""A device's local steps: a method's, or masked SGD where it has none of its own; and the evaluation that goes with it.

Written by hand and without torch.optim, whose import alone costs a small device a second and 68 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fedprune.graph.shared import unique_state
from fedprune.tasks import CLASSIFICATION, Task, added, total, zeros
from fedprune.training import lean as lean_training
from fedprune.training.batches import Batches, as_input
from fedprune.training.divergence import Watch
from fedprune.training.lean import PLAIN, Lean, SubModel
from fedprune.training.net import Net, lone_examples
from fedprune.training.optimisers import PLAIN_STEPS, Steps, moved_by, moved_plainly, plain_sgd, restrained
from fedprune.types import Local, Masks, Now, Params, Sgd, Tensor

if TYPE_CHECKING:
    import torch
    from torch import nn

Named = Mapping[str, "torch.Tensor"]
_PLAIN_LOCAL = Local()


class Outcome(NamedTuple):
    """Sums over the examples seen, so that outcomes of devices add up."""

    loss: float
    sums: Mapping[str, float]
    """What the task's metric is computed of."""
    examples: int

    @property
    def correct(self) -> float:
        """Of a classification, how many examples are right."""
        return self.sums["correct"]

    def value(self, task: Task) -> float:
        """The task's metric."""
        return task.value({**self.sums, "seen": self.examples})


def train(
    model: nn.Module,
    batches: Batches,
    sgd: Sgd,
    masks: Masks | None = None,
    *,
    local: Local = _PLAIN_LOCAL,
    steps: Steps = PLAIN_STEPS,
    memory: Named = MappingProxyType({}),
    round: int = 0,
    before_step: Callable[[int], None] | None = None,
    lean: Lean = PLAIN,
    inner: Sequence[SubModel] = (),
    turn: Callable[[int], int] | None = None,
    first_loss: float | None = None,
    task: Task = CLASSIFICATION,
) -> Outcome:
    """Train ``model`` in place; pruned weights, which must come in as 0, are exactly 0 after every step.

    ``local`` says what a step minimises and how it moves weights, ``steps`` what the experiment asks of each of them;
    ``memory`` holds what it reads, and what it trains, in place. ``before_step(i)`` comes before step i, counted from
    0. ``lean`` trades time for memory: recomputed and sparse training end in the same bits, micro-batches in the same
    weights to rounding where no batch norm sees, and no dropout draws for, each of them alone. Step i trains the whole
    model where ``turn(i)`` is 0, else ``inner[turn(i) - 1]``. Returns the sums of the ``task``'s loss and of its metric
    over the examples as trained on, whatever a method's loss. What has no part in a step's loss, and parameters that
    are frozen, stay as they are. RuntimeError where nothing has a part in it, ValueError where ``lean`` cannot be had
    with ``local``; `divergence.Diverged` as soon as the loss is not finite or explodes, compared with ``first_loss`` or
    else that of its first step, or where a value of the model is not finite in the end.
    """
    import torch

    plain, masks = steps_plainly(local), masks or {}
    if not plain and (lean.sparse or lean.recompute):
        raise ValueError("sparse and recomputed training know no loss, optimiser or trained memory of a method's own")
    loss_sum, sums, examples = 0.0, zeros(task), 0
    model.train()
    net, matrices = Net(model, task=task), {name for name, tensor in model.named_parameters() if tensor.ndim > 1}
    with ExitStack() as context:
        context.enter_context(lone_examples(model))
        own = context.enter_context(_trained(model, memory, local.trains))
        if local.around is not None:
            context.enter_context(local.around(model))
        params, choose = context.enter_context(lean_training.prepared(model, masks, lean, inner))
        every = {**params, **own}
        tensors = list(every.values())
        under = {} if lean.sparse else masks
        optimiser = local.optimiser or (steps.optimiser(matrices) if steps.optimiser is not None else None)
        if plain and optimiser is None:
            move = moved_plainly(params, under, matrices)
        else:
            move = moved_by(optimiser or plain_sgd(), every, under)
        restrain, watch = restrained(every, under, steps), Watch(every, first_loss)
        _forget(tensors)
        for step, (inputs, labels) in enumerate(batches):
            if before_step is not None:
                before_step(step)
            choose(turn(step) if turn is not None else 0)
            now = Now(round, step, sgd)
            for some, few, share in lean_training.parts(inputs, labels, lean.micro_batch):
                target = torch.from_numpy(few)
                objective, loss, logits = _losses(local, net, model, params, as_input(some), target, memory, now)
                # Adds up in place; torch.autograd.grad would hold the sum and a whole gradient besides.
                torch.autograd.backward(objective if share == 1 else objective * share, inputs=tensors)
                loss_sum += watch.told(step, loss.item()) * len(few)
                sums = added(sums, task.sums(logits.detach().numpy(), few))
                examples += len(few)
            if local.loss is None:
                _check_gradients(own)
            with torch.no_grad():
                restrain()
                move(now)
            _forget(tensors)
    watch.ended({**dict(model.state_dict()), **own})
    return Outcome(loss_sum, sums, examples)


def steps_plainly(local: Local) -> bool:
    """Whether its steps are those of plain masked SGD, which can be sparse and recomputed."""
    return local.loss is None and local.optimiser is None and not local.trains


def _losses(
    local: Local,
    net: Net,
    model: nn.Module,
    params: Named,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    memory: Named,
    now: Now,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(what is minimised, the task's loss, the outputs that it is of)."""
    if local.loss is None:
        logits = model(inputs)
        loss = net.task.loss(logits, labels)
        return loss, loss, logits
    net.logits = None
    objective = local.loss(net, params, inputs, labels, memory, now)
    if net.logits is None:
        raise RuntimeError("the loss has not asked the net for logits to train")
    return objective, net.task.loss(net.logits, labels), net.logits


@contextmanager
def _trained(model: nn.Module, memory: Named, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """What of memory is trained, ready for gradients; as it was, but for its values, when the context ends."""
    if missing := sorted(set(names) - memory.keys()):
        raise KeyError(f"memory holds no {missing[0]}, which the method trains")
    if taken := sorted(set(names) & dict(model.named_parameters()).keys()):
        raise ValueError(f"{taken[0]} is a parameter's name, and cannot be one in trained memory")
    own = {name: memory[name] for name in names}
    before = {name: tensor.requires_grad for name, tensor in own.items()}
    for tensor in own.values():
        tensor.requires_grad_(True)
    try:
        yield own
    finally:
        for name, tensor in own.items():
            tensor.grad = None
            tensor.requires_grad_(before[name])


def _check_gradients(memory: Named) -> None:
    for name, tensor in memory.items():
        if tensor.grad is None:
            raise RuntimeError(f"{name} has no part in the loss, so it cannot be trained")


def _forget(tensors: Sequence[torch.Tensor]) -> None:
    for tensor in tensors:
        tensor.grad = None


def evaluate(model: nn.Module, batches: Batches, task: Task = CLASSIFICATION) -> Outcome:
    """Sums of the ``task``'s error and metric of ``model`` in evaluation mode; nothing is changed but the mode."""
    import torch

    loss_sum, sums, examples = 0.0, zeros(task), 0
    model.eval()
    with torch.no_grad():
        for inputs, labels in batches:
            target, logits = torch.from_numpy(labels), model(as_input(inputs))
            loss_sum += total(task, logits, target)
            sums = added(sums, task.sums(logits.numpy(), labels))
            examples += len(labels)
    return Outcome(loss_sum, sums, examples)


def predict(model: nn.Module, batches: Batches) -> Tensor:
    """Outputs (n, ...), float32, in evaluation mode."""
    import torch

    model.eval()
    with torch.no_grad():
        return np.concatenate([model(as_input(inputs)).numpy() for inputs, _ in batches])


def load_state(model: nn.Module, state: Params) -> None:
    """Set every parameter and buffer of ``model``, in place. RuntimeError where names or shapes differ."""
    import torch

    own = unique_state(model)
    if own.keys() != state.keys():
        raise RuntimeError(f"not the model's state; these names differ: {sorted(own.keys() ^ state.keys())[:3]}")
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise RuntimeError(f"{name} has shape {state[name].shape}, the model {tuple(tensor.shape)}")
    for name, tensor in own.items():
        tensor.copy_(torch.from_numpy(np.asarray(state[name], order="C")))


def state_of(model: nn.Module) -> Params:
    """Copies of every parameter and buffer, as numpy arrays in C order."""
    return {name: np.array(value.detach().numpy(), order="C") for name, value in unique_state(model).items()}


def in_batches(
    inputs: Callable[[Tensor], Tensor], labels: Tensor, order: Sequence[int] | Tensor, size: int, least: int = 1
) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches of nearly equal size over ``order``; ``inputs`` maps indices to float32 inputs.

    None is above ``size``, but where one would be below ``least``: it joins another.
    """
    order = np.asarray(order)
    count = min(-(-len(order) // size), max(1, len(order) // min(least, size)))
    for part in np.array_split(order, count) if len(order) else []:
        yield inputs(part), labels[part]


def one_thread() -> None:
    """Compute with one thread, so that a result does not depend on which process, or how many, computed it."""
    import torch

    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
