"""Which of its examples a device trains on in a round, where its method chooses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from fedprune.tasks import CLASSIFICATION, Task
from fedprune.training.batches import as_input
from fedprune.training.net import Net, lone_examples
from fedprune.types import Tensor

if TYPE_CHECKING:
    import torch
    from torch import nn


def chosen(
    choose: Callable[..., Tensor],
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    memory: Mapping[str, torch.Tensor],
    rng: np.random.Generator,
    *,
    at_rest: int = 0,
    task: Task = CLASSIFICATION,
) -> Tensor:
    """Indices (int64, ascending) of the examples that ``choose`` (`Local.examples`) takes of all ``inputs``.

    It holds every input as floats. ``net.still`` takes them in parts of ``at_rest`` (0: all at once), so that only a
    part's activations are held at a time. The model is left as it was. ValueError where the answer is no choice:
    empty, not whole numbers, out of range, or one example twice.
    """
    import torch

    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    net, params = Net(model, at_rest, task), dict(model.named_parameters())
    model.train()
    try:
        with lone_examples(model):
            answer = np.asarray(choose(net, params, as_input(inputs), torch.from_numpy(labels), memory, rng))
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        for module, mode in modes.items():
            module.training = mode
    return _checked(answer, len(labels))


def _checked(answer: Tensor, count: int) -> Tensor:
    if answer.ndim != 1 or not np.issubdtype(answer.dtype, np.integer):
        raise ValueError(f"a choice of examples is {answer.dtype}{answer.shape}, expected a list of whole numbers")
    if not len(answer):
        raise ValueError("no example is chosen")
    if answer.min() < 0 or answer.max() >= count:
        raise ValueError(f"examples {answer.min()} to {answer.max()} are chosen of {count}")
    found = np.sort(answer).astype(np.int64)
    if (found[1:] == found[:-1]).any():
        raise ValueError("an example is chosen twice")
    return found
