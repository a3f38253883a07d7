"""One aten call as readers see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedprune.graph.activations import Constant
from fedprune.graph.moving import Reshape
from fedprune.graph.operations import Operation, Parameter, Shape, UnsupportedOperation

if TYPE_CHECKING:
    import torch

Step = Operation | tuple[Operation, Shape]
"""An operation, with the shape of what it makes where that does not follow from what it reads."""


@dataclass(frozen=True)
class Call:
    """One aten call as a reader sees it: named arguments with their defaults, tensors by name."""

    name: str
    """Of the aten operation, without its overload."""
    output: str
    arguments: Mapping[str, Any]
    """As in the operation's schema; nodes of the exported program where it takes tensors."""
    shape: Shape
    """Of the result, as the graph holds it."""
    plain_shape: Shape
    """Of the result in the model."""
    rank: int
    """Of the first input in the model, where a one-dimensional map has rank 3."""
    shapes: Mapping[str, Shape]
    where: str
    tensors: Mapping[str, str]
    constants: Mapping[str, tuple[str, torch.Tensor]]

    def tensor(self, key: str) -> str:
        """Return the name of the tensor passed as ``key``; raise if it is a constant of the model."""
        return self.named(self.arguments[key])

    def first(self) -> str:
        """Return the name of the call's first argument; raise if it is a constant of the model."""
        return self.named(next(iter(self.arguments.values())))

    def named(self, node: Any) -> str:
        """Return the name of the tensor that ``node`` stands for; raise if it is none."""
        found = self.tensors.get(getattr(node, "name", ""))
        if found is None:
            raise self.unsupported(f"takes {node!r}, which is not an activation")
        return found

    def parameter(self, key: str) -> Parameter | None:
        """Return the constant passed as ``key``, or None where nothing is passed; raise if it is computed."""
        node = self.arguments[key]
        if node is None:
            return None
        if node.name not in self.constants:
            raise self.unsupported(f"has a {key} that depends on the input")
        name, value = self.constants[node.name]
        return Parameter(name, value.detach().cpu().float().numpy().copy())

    def weight(self, key: str = "weight") -> Parameter:
        """Return the constant passed as ``key``; raise if there is none."""
        found = self.parameter(key)
        if found is None:
            raise self.unsupported(f"has no {key}")
        return found

    def constant(self, given: Any) -> Parameter | None:
        """Return a number or a constant of the model as a parameter of its own shape, None where it is computed."""
        if isinstance(given, bool | int | float):
            return Parameter(f"{self.output}.number", np.array(given, np.float32))
        if getattr(given, "name", None) not in self.constants:
            return None
        name, value = self.constants[given.name]
        return Parameter(name, value.detach().cpu().float().numpy().copy())

    def operand(
        self, key: str, rank: int, change: Callable[[Any], Any] = lambda value: value
    ) -> tuple[str, list[Step]]:
        """Return (name, steps that come before) of an operand that broadcasts to ``rank`` axes, be it a constant.

        ``change`` is done to a constant.
        """
        given, name = self.arguments[key], f"{self.output}.{key}"
        found = self.constant(given)
        if found is not None:
            value = np.asarray(change(found.value), np.float32)
            shape = canonical((1,) * (rank - value.ndim) + value.shape)
            return name, [(Constant((), name, Parameter(found.name, value.reshape(shape))), shape)]
        source, plain = self.named(given), plain_shape(given)
        shape = canonical((1,) * (rank - len(plain)) + plain)
        if shape == self.shapes[source]:
            return source, []
        return name, [(Reshape((source,), name), shape)]

    def unsupported(self, why: str) -> UnsupportedOperation:
        """Return the error that names the aten operation and the model's line."""
        return UnsupportedOperation(f"aten.{self.name} {why}: {self.where}")


Read = Callable[[Call], Operation | tuple[Step, ...] | str]
"""A call -> its operations, the last of which makes the call's output; or the tensor that it leaves as it is."""


def canonical(shape: Shape) -> Shape:
    """Return the shape with a batch and with two spatial dimensions: (C,) -> (1, C), (1, C, L) -> (1, C, 1, L)."""
    if len(shape) < 2:  # a squeeze took the batch of one as well
        return (1, *(shape or (1,)))
    return (*shape[:2], 1, shape[2]) if len(shape) == 3 else shape


def canonical_axis(axis: int, rank: int) -> int:
    """Return where an axis of a tensor of ``rank`` axes in the model lies in the graph."""
    plain = axis % max(rank, 1)
    return plain + 1 if rank < 2 else 3 if rank == 3 and plain == 2 else plain


def plain_shape(node: Any) -> Shape:
    """Return the shape that a node's tensor has in the model."""
    return tuple(node.meta["val"].shape)
