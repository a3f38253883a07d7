"""Measuring evidence over a device's examples. Everything measured here merges on the server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from fedprune.graph import Graph, run
from fedprune.pruning.topk import top_k
from fedprune.tasks import CLASSIFICATION, Task
from fedprune.training.batches import Batches, as_input
from fedprune.training.gradients import as_the_next_step
from fedprune.training.net import lone_examples
from fedprune.types import FloatTensor, Masks, Moments, Tensor, TopK

if TYPE_CHECKING:
    import torch
    from torch import nn


def bn_statistics(model: nn.Module, batches: Batches) -> dict[str, Moments]:
    """Mean and unbiased variance of every batch-norm layer's input over ``batches``, weights frozen.

    Layers are re-estimated as training would see them, each normalised by its batch's own statistics; batches count
    alike, so give them nearly equal sizes. A layer that gets one value a channel goes by its running statistics, which
    are what it then has. The model's running statistics are left re-estimated; of a layer that its owner keeps at rest
    they are what they were.
    """
    import torch

    every = dict(_norm_layers(model))
    model.train()
    layers = {name: layer for name, layer in every.items() if layer.training}
    momenta = {name: layer.momentum for name, layer in layers.items()}
    model.eval()
    for layer in layers.values():
        assert layer.num_batches_tracked is not None
        layer.num_batches_tracked.zero_()
        layer.momentum = None  # a plain mean over batches, whose first takes the place of what there was
        layer.train()
    examples = 0
    with torch.no_grad(), lone_examples(model):
        for inputs, labels in batches:
            model(as_input(inputs))
            examples += len(labels)
    for name, layer in layers.items():
        layer.momentum = momenta[name]
        layer.eval()
    return {
        name: Moments(_copy(layer.running_mean), _copy(layer.running_var), examples) for name, layer in every.items()
    }


def statistics_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the batch-norm layers that carry running statistics."""
    return tuple(name for name, _ in _norm_layers(model))


def top_gradients(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    masks: Masks,
    counts: Mapping[str, int],
    task: Task = CLASSIFICATION,
) -> dict[str, TopK]:
    """For each layer of ``counts``, that many largest |∂L/∂θ| among its *pruned* positions, L the batch's mean loss.

    As soon as the backward pass has a layer's gradient, its largest entries are taken and the rest is dropped: what is
    kept is O(count), and no gradient of the model is ever held. Batch norm uses the batch's own statistics, as the next
    training step will; running statistics do not move.
    """
    import torch

    params = dict(model.named_parameters())
    found: dict[str, TopK] = {}

    def keep_largest(name: str) -> Callable[[torch.Tensor], None]:
        def hook(tensor: torch.Tensor) -> None:
            assert tensor.grad is not None
            found[name] = _largest(_copy(tensor.grad), ~masks[name], counts[name])
            tensor.grad = None

        return hook

    with as_the_next_step(model, counts):
        hooks = [params[name].register_post_accumulate_grad_hook(keep_largest(name)) for name in counts]  # type: ignore[no-untyped-call]
        try:
            loss = task.loss(model(as_input(inputs)), torch.from_numpy(labels))
            torch.autograd.backward(loss)
        finally:
            for hook in hooks:
                hook.remove()
    return found


def ranges(graph: Graph, batches: Iterable[Tensor]) -> FloatTensor:
    """The least and the greatest value of every tensor of ``graph`` over batches of inputs, and zero: (tensors, 2).

    They are float32 and in the order of the graph's shapes, NaN for a tensor that held one. Those of several devices
    merge by the least of the least and the greatest of the greatest.
    """
    found = np.zeros((len(graph.shapes), 2), np.float32)
    for inputs in batches:
        values = run(graph, inputs)
        for ends, name in zip(found, graph.shapes, strict=True):
            ends[0] = np.minimum(ends[0], values[name].min())
            ends[1] = np.maximum(ends[1], values[name].max())
    return found


def histograms(
    graph: Graph, batches: Iterable[Tensor], ranges: Mapping[str, tuple[float, float]], intervals: int = 2048
) -> dict[str, Tensor]:
    """How many values of each tensor of ``graph`` lie in each of so many equal ``intervals`` of its range, int64.

    They add up. A tensor whose range is a point has none.
    """
    found = {name: np.zeros(intervals, np.int64) for name, (low, high) in ranges.items() if low < high}
    for inputs in batches:
        values = run(graph, inputs)
        for name, counts in found.items():
            counts += np.histogram(values[name], intervals, ranges[name])[0]
    return found


def _largest(grad: Tensor, among: Tensor, count: int) -> TopK:
    index = np.flatnonzero(top_k(np.where(among, np.abs(grad), -np.inf), min(count, int(among.sum()))))
    return TopK(index.astype(np.int64), grad.reshape(-1)[index])


def _copy(tensor: torch.Tensor | None) -> Tensor:
    assert tensor is not None
    return np.array(tensor.detach().numpy(), order="C")


def _norm_layers(model: nn.Module) -> Iterable[tuple[str, nn.modules.batchnorm._BatchNorm]]:
    from torch.nn.modules.batchnorm import _BatchNorm

    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
