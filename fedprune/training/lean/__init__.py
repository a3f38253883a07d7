"""Training in little memory: blocks computed twice instead of kept, pruned weights without room, nested sub-models.

All of it is done to a model from outside, for the duration of `prepared`; the model's own code does not change.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedprune.training.lean.recompute import recomputed
from fedprune.training.lean.sparse import Sparse, flat, like, read_by, with_weights
from fedprune.types import Masks, Tensor

if TYPE_CHECKING:
    import torch
    from torch import nn


class Lean(NamedTuple):
    """What a device does to train in less memory; the default does nothing."""

    micro_batch: int = 0
    """Examples in the model at a time, whose gradients add up to the batch's; 0 takes whole batches."""
    recompute: bool = False
    """Whether each of `blocks` keeps its input alone for the backward pass, and computes the rest again."""
    sparse: bool = False
    """Whether pruned weights, their gradients and their velocity take no room."""


PLAIN = Lean()
_MMAP_THRESHOLD = -3  # of malloc.h


class SubModel(NamedTuple):
    """A smaller model nested in the trained one: its weights under further masks, batch-norm buffers of its own."""

    masks: Masks
    """Of any parameters, in the model's shapes; a parameter without one is the whole model's."""
    buffers: dict[str, torch.Tensor]
    """Name in ``state_dict`` -> running mean, running variance or count, updated in place."""


class Prepared(NamedTuple):
    """A model ready for lean training."""

    params: dict[str, torch.Tensor]
    """What is trained: parameters that are not frozen, or for a sparse one its kept values (kept,), flat in the order
    of memory."""
    choose: Callable[[int], None]
    """Until the next call, the model is the whole (0) or the j-th of the sub-models, counted from 1."""


def blocks(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules that `Lean.recompute` computes twice, in the model's order.

    They are the outermost modules with children that are no plain sequence (a residual block), and elsewhere the
    sequences of modules without children; never the model itself.
    """
    from torch import nn

    found: list[str] = []

    def visit(name: str, module: nn.Module) -> None:
        for key, child in module.named_children():
            path = f"{name}.{key}" if name else key
            has_children = any(True for _ in child.children())
            called = not isinstance(child, nn.ModuleList | nn.ModuleDict)
            plain = not any(True for grandchild in child.children() for _ in grandchild.children())
            if has_children and called and (plain or not isinstance(child, nn.Sequential)):
                found.append(path)
            else:
                visit(path, child)

    visit("", model)
    return tuple(found)


def parts(inputs: Tensor, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, float]]:
    """A batch in nearly equal parts of at most ``size`` examples (0: whole), each with its share of the examples."""
    count = -(-len(labels) // size) if size else 1
    for some, few in zip(np.array_split(inputs, count), np.array_split(labels, count), strict=True):
        yield some, few, len(few) / len(labels)


def return_freed_memory() -> None:
    """Let glibc give what is free back to the system, and from now on a freed tensor at once; elsewhere do nothing.

    By itself it keeps freed tensors as holes in its heap, where an aligned one of the same size does not fit again: up
    to two thirds more memory. Asking the system anew costs time, 18 to 68 % of a step of whole batches of ResNets, so
    plain training does not.
    """
    if sys.platform != "linux":
        return
    import ctypes

    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # musl has none
        libc.mallopt(_MMAP_THRESHOLD, 2**20)
        libc.malloc_trim(0)


@contextmanager
def prepared(model: nn.Module, masks: Masks, lean: Lean, inner: Sequence[SubModel] = ()) -> Iterator[Prepared]:
    """The model with what ``lean`` asks for; as it was, with the trained weights, when the context ends.

    With ``lean.sparse``, parameters of ``masks`` are empty in between, and exist whole only while a module that owns
    them computes; a module that reads another's weight cannot be trained so. KeyError for a sub-model's unknown name.
    """
    if lean != PLAIN:
        return_freed_memory()
    whole = dict(model.named_parameters())
    turn = 0
    with ExitStack() as undo:
        sparse = {name: Sparse(whole[name], mask) for name, mask in masks.items()} if lean.sparse else {}
        for name, kept in sparse.items():
            undo.callback(kept.restore, whole[name])
        params = {name: sparse[name].values if name in sparse else tensor for name, tensor in whole.items()}
        dropped = [{n: _dropped(whole[n], sparse.get(n), mask) for n, mask in one.masks.items()} for one in inner]

        def current(name: str, given: torch.Tensor) -> torch.Tensor:
            # A loss may have put a tensor of its own in the parameter's place.
            own = params[name] if given is whole[name] else given
            drop = dropped[turn - 1].get(name) if turn else None
            tensor = own if drop is None else own.masked_fill(drop, 0)
            return sparse[name].dense(tensor) if name in sparse else tensor

        def choose(number: int) -> None:
            nonlocal turn
            if unknown := sorted(set(inner[number - 1].buffers if number else ()) - set(buffers)):
                raise KeyError(f"{unknown[0]} is no buffer of the model")
            turn = number
            for name, (owner, key, own) in buffers.items():
                owner._buffers[key] = inner[number - 1].buffers.get(name, own) if number else own

        buffers = {
            (f"{path}.{key}" if path else key): (owner, key, own)
            for path, owner in model.named_modules()
            for key, own in owner._buffers.items()
        }
        undo.callback(lambda: choose(0))
        changing = {id(whole[name]): name for name in {*sparse, *(name for one in inner for name in one.masks)}}
        for module in model.modules():
            own = {key: changing[id(p)] for key, p in read_by(module).items() if id(p) in changing}
            if own:
                undo.enter_context(_forward(module, functools.partial(with_weights, module, own, current, sparse)))
        names = {id(parameter): name for name, parameter in whole.items()}
        trained = {name: tensor for name, tensor in params.items() if whole[name].requires_grad}
        for path in blocks(model) if lean.recompute else ():
            block = model.get_submodule(path)
            leaves = [trained[names[id(each)]] for each in block.parameters() if each.requires_grad]
            undo.enter_context(_forward(block, functools.partial(recomputed, block, leaves)))
        for name in sparse:
            whole[name].data = whole[name].data.new_empty(0)
        yield Prepared(trained, choose)


def _dropped(parameter: torch.Tensor, sparse: Sparse | None, mask: Tensor) -> torch.Tensor:
    # What a sub-model leaves out of what is trained.
    dropped = ~like(parameter, mask)
    return dropped if sparse is None else flat(dropped).masked_select(sparse.keep)


@contextmanager
def _forward(module: nn.Module, wrap: Callable[..., Any]) -> Iterator[None]:
    # An attribute of the instance comes before the class's method; one that is there already is put back.
    before, former = module.forward, vars(module).get("forward")
    module.__dict__["forward"] = functools.partial(wrap, before)
    try:
        yield
    finally:
        if former is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = former
