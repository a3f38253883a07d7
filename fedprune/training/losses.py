"""What a local step may minimise: the task's loss, or a teacher's soft targets beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fedprune.tasks import CLASSIFICATION, Task
from fedprune.training.net import Net
from fedprune.types import Loss, Now

if TYPE_CHECKING:
    import torch

Tensors = Mapping[str, "torch.Tensor"]


def plain_loss(
    net: Net, params: Tensors, inputs: torch.Tensor, labels: torch.Tensor, memory: Tensors, now: Now
) -> torch.Tensor:
    """The task's loss, a mean over the examples."""
    return _task(net).loss(net(params, inputs), labels)


def computed_with(
    seen: Callable[[Tensors, Tensors, Now], Tensors],
    beside: Callable[[Tensors], torch.Tensor] | None = None,
) -> Loss:
    """The task's loss of the net with ``seen(params, memory, now)`` as its parameters, plus ``beside(memory)``.

    Gradients go through what was made of parameters and memory, wherever it carries them.
    """

    def loss(
        net: Net, params: Tensors, inputs: torch.Tensor, labels: torch.Tensor, memory: Tensors, now: Now
    ) -> torch.Tensor:
        tried, more = seen(params, memory, now), beside(memory) if beside is not None else None
        found = plain_loss(net, tried, inputs, labels, memory, now)
        return found if more is None else found + more

    return loss


def _task(net: Net) -> Task:
    """What a net is for; a plain function of parameters and inputs, as in a method's tests, classifies."""
    return getattr(net, "task", CLASSIFICATION)


def distilled(teacher: str = "teacher/", alpha: float = 0.5, temperature: float = 4.0) -> Loss:
    """(1 − α) CE + α T² KL(p_T ‖ q_T) (Hinton et al., 2015, section 2), both softened by the temperature T.

    Memory holds the teacher's parameters and buffers under names that begin with ``teacher``. A method with it reads
    those, and takes one pass besides the step's own. ValueError where α is outside [0, 1] or T is not positive.
    """
    if not 0 <= alpha <= 1 or not temperature > 0:
        raise ValueError(f"alpha {alpha} is outside [0, 1], or temperature {temperature} not positive")

    def loss(
        net: Net, params: Tensors, inputs: torch.Tensor, labels: torch.Tensor, memory: Tensors, now: Now
    ) -> torch.Tensor:
        from torch.nn import functional

        teaching = {name.removeprefix(teacher): value for name, value in memory.items() if name.startswith(teacher)}
        # The teacher first: nothing is kept for the backward pass yet.
        soft = functional.log_softmax(net.still(teaching, inputs) / temperature, 1)
        logits = net(params, inputs)
        found = functional.log_softmax(logits / temperature, 1)
        apart = functional.kl_div(found, soft, reduction="batchmean", log_target=True)
        return (1 - alpha) * _task(net).loss(logits, labels) + alpha * temperature**2 * apart

    return loss
