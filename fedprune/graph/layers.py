"""Which weights of a net there are to prune, in the order in which it reads them; and which of them are pruned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fedprune.graph.shared import second_names

if TYPE_CHECKING:
    import torch
    from torch import nn

MOST_DENSE = 0.5
"""Of all prunable weights, what the first and the last layer together may hold and still stay dense by default."""


class Layers(NamedTuple):
    """The weight matrices of a net's layers, as far as its output depends on them."""

    shapes: Mapping[str, tuple[int, ...]]
    """Name -> shape, in the order in which they are first read."""
    first: str
    last: str
    """The one read last: a weight shared by first and last layer is both."""
    unread: tuple[str, ...]
    """Parameters that no output depends on."""


def layers(model: nn.Module, example: torch.Tensor) -> Layers:
    """The weights of two dimensions or more that convolutions, linear, recurrent, attention and embedding layers have.

    They are read off the history of the net's output on a batch ``example`` in evaluation mode, whoever in the net
    calls them; frozen ones are among them. Norms' weights, biases and parameters of a module's own are not. A shared
    weight is there once. Nothing is kept of activations.
    """
    parameters = dict(model.named_parameters())
    if not parameters:
        return Layers({}, "", "", ())
    reads = _reads(model, example)
    names = sorted(reads, key=lambda name: reads[name][0])  # a stable order: those read at once are in the model's
    weights = set(_weights(model))
    found = [name for name in names if name in weights]
    shapes = {name: tuple(parameters[name].shape) for name in found}
    last = max(reversed(found), key=lambda name: reads[name][1]) if found else ""
    return Layers(shapes, found[0] if found else "", last, tuple(name for name in parameters if name not in reads))


def layer_shapes(model: nn.Module, example: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Return the shapes of `layers`' weights, in the order they are read on a batch ``example``.

    >>> import torch
    >>> layer_shapes(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()), torch.zeros(1, 3))
    {'0.weight': (4, 3)}
    """
    return dict(layers(model, example).shapes)


def dense_ends(read: Layers, prunable: Mapping[str, int], *, first: bool | None, last: bool | None) -> tuple[str, ...]:
    """Which of the first and the last layer stay dense, of ``prunable`` layers (name -> number of weights).

    True and False say so: pruned or not. None leaves it to what they hold: both are dense while together they hold at
    most `MOST_DENSE` of all; else the larger is pruned, and the other judged alone. Where there is nothing between
    them, both are pruned.

    >>> read = Layers({"a": (8, 8), "b": (8, 8), "c": (2, 8)}, "a", "c", ())
    >>> dense_ends(read, {"a": 64, "b": 64, "c": 16}, first=None, last=None)
    ('c',)
    """
    asked: dict[str, bool | None] = {}
    for name, wanted in ((read.first, first), (read.last, last)):
        if name in prunable:  # a layer that is both is pruned where either says so
            asked[name] = asked.get(name) or wanted
    dense = [name for name, wanted in asked.items() if not wanted]
    free = [name for name, wanted in asked.items() if wanted is None]
    if len(free) == len(prunable):
        return ()
    while free and sum(prunable[name] for name in dense) > MOST_DENSE * sum(prunable.values()):
        largest = max(free, key=lambda name: prunable[name])
        free.remove(largest)
        dense.remove(largest)
    return tuple(dense)


def _weights(model: nn.Module) -> Iterator[str]:
    """Names, each the first of its parameter, of the weight matrices that layers of known kinds own."""
    from torch import nn
    from torch.nn.modules.conv import _ConvNd
    from torch.nn.modules.rnn import RNNBase, RNNCellBase

    kinds = _ConvNd | nn.Linear | nn.Bilinear | nn.Embedding | nn.EmbeddingBag
    kinds |= nn.MultiheadAttention | RNNBase | RNNCellBase
    second = second_names(model)
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, kinds):
            for key, parameter in module.named_parameters(recurse=False):
                if parameter.ndim > 1 and "weight" in key:
                    name = f"{path}.{key}".removeprefix(".")
                    yield second.get(name, name)


def _reads(model: nn.Module, example: torch.Tensor) -> dict[str, tuple[int, int]]:
    """Each parameter that the output depends on -> when it is first and last read, as autograd counts."""
    import torch

    names = {id(parameter): name for name, parameter in model.named_parameters()}
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        for parameter, _ in trained:
            parameter.requires_grad_(parameter.is_floating_point())
        # what a backward pass would need is not kept
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, lambda kept: kept):
            found = _history(model.eval()(example).grad_fn, names)
    finally:
        for parameter, before in trained:
            parameter.requires_grad_(before)
        for module, training in modes:
            module.training = training
    # in the model's order, as every other mapping of its parameters
    return {name: found[name] for name in names.values() if name in found}


def _history(output: Any, names: Mapping[int, str]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    seen, waiting = {output}, [output] if output is not None else []
    while waiting:
        node = waiting.pop()
        when = node._sequence_nr()
        for source, _ in node.next_functions:
            if source is None:
                continue
            name = names.get(id(getattr(source, "variable", None)))
            if name is not None:
                early, late = found.get(name, (when, when))
                found[name] = min(early, when), max(late, when)
            elif source not in seen:
                seen.add(source)
                waiting.append(source)
    return found
