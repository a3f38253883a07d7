"""A graph as a message holds it: operations as plain values, weights as tensors.

A device that is sent one need not trace its model, which would cost it some 100 MB and two seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from fedprune.graph import Bounds, Graph, Operation, Parameter
from fedprune.types import Params, Tensor

_KINDS: Mapping[str, type[Operation]] = {kind.__name__: kind for kind in Operation.__subclasses__()}


def to_message(graph: Graph) -> tuple[dict[str, Any], Params]:
    """(values, tensors) that say all of a graph but the modules that it was traced from."""
    operations: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for place, operation in enumerate(graph.operations):
        fields: dict[str, Any] = {"kind": type(operation).__name__}
        for key, value in vars(operation).items():
            fields[key] = value
            if isinstance(value, Parameter):
                fields[key] = {"name": value.name}
                tensors[f"{place}/{key}"] = value.value
            elif isinstance(value, Bounds):  # JSON has no infinity
                fields[key] = {"bounds": [None if abs(end) == inf else end for end in value]}
        operations.append(fields)
    values = {"input": graph.input, "outputs": graph.outputs, "operations": operations, "shapes": dict(graph.shapes)}
    return values, tensors


def from_message(values: Mapping[str, Any], tensors: Params) -> Graph:
    """The graph of ``to_message``."""
    operations = []
    for place, fields in enumerate(values["operations"]):
        given = {key: _plain(value, tensors.get(f"{place}/{key}")) for key, value in fields.items() if key != "kind"}
        operations.append(_KINDS[fields["kind"]](**given))
    shapes = {name: tuple(shape) for name, shape in values["shapes"].items()}
    return Graph(values["input"], tuple(values["outputs"]), tuple(operations), shapes)


def _plain(value: Any, tensor: Tensor | None) -> Any:
    if tensor is not None:
        return Parameter(value["name"], tensor)
    if isinstance(value, dict):
        low, high = value["bounds"]
        return Bounds(-inf if low is None else low, inf if high is None else high)
    return tuple(_plain(each, None) for each in value) if isinstance(value, list) else value
