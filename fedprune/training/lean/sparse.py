"""A parameter as its kept values, whole only while the module that owns it computes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fedprune.types import Tensor

if TYPE_CHECKING:
    import torch
    from torch import nn


class Sparse:
    """A parameter as its kept values; flat tensors are in the order of the parameter's memory."""

    def __init__(self, parameter: torch.Tensor, mask: Tensor) -> None:
        self.shape, self.stride = parameter.shape, parameter.stride()
        self.keep = flat(like(parameter, mask))
        self.values = flat(parameter.detach()).masked_select(self.keep).requires_grad_()

    def dense(self, values: torch.Tensor) -> torch.Tensor:
        """The whole parameter, zeros where it is pruned; its gradient is gathered as soon as it is there."""
        made: torch.Tensor = _densify().apply(values, self)
        return made

    def scatter(self, values: torch.Tensor) -> torch.Tensor:
        """The whole parameter as a new tensor."""
        import torch

        made = torch.empty_strided(self.shape, self.stride, dtype=values.dtype).zero_()
        flat(made).masked_scatter_(self.keep, values)
        return made

    def gather(self, gradient: torch.Tensor) -> torch.Tensor:
        """What of a whole gradient belongs to kept values."""
        import torch

        if gradient.stride() != self.stride:
            gradient = torch.empty_strided(self.shape, self.stride, dtype=gradient.dtype).copy_(gradient)
        return flat(gradient).masked_select(self.keep)

    def restore(self, parameter: torch.Tensor) -> None:
        """Make ``parameter`` whole again, with the values as they are."""
        parameter.data = self.scatter(self.values.detach())


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """All values in the order of memory, as a view of a tensor without gaps."""
    return tensor.as_strided((tensor.numel(),), (1,))


def like(parameter: torch.Tensor, mask: Tensor) -> torch.Tensor:
    """The mask as a tensor, laid out in memory as ``parameter``."""
    import torch

    return torch.empty_like(parameter, dtype=torch.bool, requires_grad=False).copy_(torch.from_numpy(np.asarray(mask)))


def read_by(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that a module reads when it is called, by attribute: its own, and of an attention its projection's."""
    from torch import nn

    own = {key: parameter for key, parameter in module._parameters.items() if parameter is not None}
    if isinstance(module, nn.MultiheadAttention):  # which reads the weights of a layer that it never calls
        own |= {f"out_proj.{key}": parameter for key, parameter in module.out_proj.named_parameters()}
    return own


def with_weights(
    module: nn.Module,
    own: Mapping[str, str],
    current: Callable[[str, torch.Tensor], torch.Tensor],
    sparse: Mapping[str, Sparse],
    forward: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """``forward`` of ``module`` with its parameters ``own`` (attribute -> name) made by ``current`` from what is there.

    Of a sparse one nothing whole is kept for the backward pass; it is made again there.
    """
    # An attribute of the instance comes before torch's table of parameters.
    import torch

    owners = {key: module.get_submodule(key.rpartition(".")[0]) for key in own}
    there: dict[str, Any] = {key: owner._parameters[key.rpartition(".")[2]] for key, owner in owners.items()}
    listed = vars(module).get("_flat_weights")  # a recurrent layer reads its weights from a list
    made = {key: current(name, there[key]) for key, name in own.items()}
    again = {made[key].data_ptr(): (current, name, there[key]) for key, name in own.items() if name in sparse}

    def pack(tensor: torch.Tensor) -> Any:
        # What is kept for the backward pass may be a view, such as a linear layer's transposed weight.
        found = again.get(tensor.data_ptr())
        return tensor if found is None else (*found, tensor.size(), tensor.stride())

    try:
        for key, owner in owners.items():
            owner.__dict__[key.rpartition(".")[2]] = made[key]
        if listed is not None:
            module.__dict__["_flat_weights"] = [made.get(key, weight) for key, weight in _listed(module, listed)]
        del made
        with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
            return forward(*args, **kwargs)
    finally:
        for key, owner in owners.items():
            owner.__dict__.pop(key.rpartition(".")[2], None)
        if listed is not None:
            module.__dict__["_flat_weights"] = listed


def _listed(module: Any, weights: list[torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    return zip(module._flat_weights_names, weights, strict=True)


def _unpack(packed: Any) -> torch.Tensor:
    import torch

    if isinstance(packed, torch.Tensor):
        return packed
    current, name, there, size, stride = packed
    with torch.no_grad():
        tensor: torch.Tensor = current(name, there).as_strided(size, stride)
    return tensor


@functools.cache
def _densify() -> Any:
    import torch

    class Densify(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: torch.Tensor, kept: Sparse) -> torch.Tensor:
            ctx.kept = kept
            return kept.scatter(values)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> Any:
            return ctx.kept.gather(gradient), None

    return Densify
