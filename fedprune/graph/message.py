"""A graph as a message holds it: operations as plain values, weights as tensors.

A device that is sent one need not trace its model, which would cost it some 100 MB and two seconds.
"""

from __future__ import annotations

import base64
import functools
import zlib
from collections.abc import Mapping
from math import inf, prod
from typing import Any, get_type_hints

import msgspec
import numpy as np

from fedprune.graph import Bounds, Graph, Operation, Parameter, shapes, width
from fedprune.types import Params, Tensor

_MOST_TEXT = 2**22
_MOST_STATE = 2**30
Slot = tuple[tuple[int, ...], str, bool]
"""Of a model's state: shape, type as numpy calls it, and whether it is trained."""
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
    """The graph of ``to_message``. ValueError where it is none, or where its operations do not fit together."""
    graph = _graph(values, tensors)
    shapes.check(graph)
    return graph


def _graph(values: Mapping[str, Any], tensors: Params) -> Graph:
    try:
        said = msgspec.convert(values, _Said)
        operations = [_operation(fields, place, tensors) for place, fields in enumerate(said.operations)]
    except (msgspec.ValidationError, TypeError, KeyError) as error:  # of a kind without one of its fields, too
        raise ValueError(f"not a graph: {error}") from error
    return Graph(said.input, said.outputs, tuple(operations), said.shapes)


def to_text(graph: Graph, slots: Mapping[str, Slot]) -> str:
    """A graph without its weights, which whoever reads it has by their names: for messages that carry those as well.

    ``slots``: what the whole state of the model holds, also what the graph does not.
    """
    values, _ = to_message(graph)
    values["slots"] = slots
    for fields, operation in zip(values["operations"], graph.operations, strict=True):
        for key, value in vars(operation).items():
            if isinstance(value, Parameter):
                fields[key] = {"name": value.name, "shape": value.value.shape}
    return base64.b85encode(zlib.compress(msgspec.json.encode(values), 9)).decode()


def slots_of_text(text: str) -> dict[str, Slot]:
    """What the state of the model holds. ValueError where the text is none, or it holds too much to be true."""
    try:
        slots = msgspec.convert(_values(text)["slots"], dict[str, Slot])
        sizes = [prod(shape) * np.dtype(dtype).itemsize for shape, dtype, _ in slots.values()]
    except (msgspec.ValidationError, KeyError, TypeError) as error:
        raise ValueError(f"not a graph: {error}") from error
    if sum(sizes) > _MOST_STATE or any(side < 0 for slot in slots.values() for side in slot[0]):
        raise ValueError("not a graph: its state is too large")
    return slots


def _values(text: str) -> dict[str, Any]:
    try:
        unfolded = zlib.decompressobj()
        found: dict[str, Any] = msgspec.json.decode(unfolded.decompress(base64.b85decode(text), _MOST_TEXT))
    except (zlib.error, ValueError) as error:
        raise ValueError(f"not a graph: {error}") from error
    if unfolded.unconsumed_tail or not isinstance(found, dict):
        raise ValueError("not a graph: too long, or no table")
    return found


def of_text(text: str, params: Params) -> Graph:
    """The graph of `to_text` for these weights or narrower ones; in their place are zeros, which take no room.

    ValueError where it is none, or these weights, by whose names they go, are not its own.
    """
    try:
        like = tuple(_like(name, params[name]) for name in _names(text))  # of lazy ones each is made for this alone
    except KeyError as error:
        raise ValueError(f"not a graph: {error}") from error
    return _of_text(text, like)


def _like(name: str, tensor: Tensor) -> tuple[str, tuple[int, ...], str]:
    return name, tensor.shape, tensor.dtype.str


@functools.lru_cache(maxsize=4)
def _names(text: str) -> tuple[str, ...]:
    """Of the parameters of a graph's operations."""
    try:
        fields = [value for each in _values(text)["operations"] for value in each.values()]
        return tuple(
            dict.fromkeys(str(value["name"]) for value in fields if isinstance(value, dict) and "name" in value)
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a graph: {error}") from error


@functools.lru_cache(maxsize=4)  # a simulation's devices get the same one in every message
def _of_text(text: str, params: tuple[tuple[str, tuple[int, ...], str], ...]) -> Graph:
    like = {name: np.broadcast_to(np.zeros((), dtype), shape) for name, shape, dtype in params}
    values = _values(text)
    values.pop("slots", None)
    try:
        tensors: dict[str, Tensor] = {}
        narrower = False
        for place, fields in enumerate(values["operations"]):
            for key, value in fields.items():
                if isinstance(value, dict) and "name" in value:
                    shape = tuple(value.pop("shape"))
                    tensors[f"{place}/{key}"] = _shaped(like[value["name"]], shape)
                    narrower |= tensors[f"{place}/{key}"].shape != shape
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"not a graph: {error}") from error
    graph = _graph(values, tensors)
    try:
        graph = width.fitted(graph) if narrower else graph
    except (LookupError, ArithmeticError) as error:
        raise ValueError(f"not a graph: {error}") from error
    shapes.check(graph)
    return graph


def _shaped(value: Tensor, whole: tuple[int, ...]) -> Tensor:
    """A parameter as a graph has it, which may be of fewer channels than the whole one."""
    if value.size == prod(whole):
        return value.reshape(whole)
    if value.ndim == 3 and len(whole) == 4:  # of a convolution of one dimension
        value = value[:, :, np.newaxis]
    if value.ndim != len(whole) or any(side > most for side, most in zip(value.shape, whole, strict=True)):
        raise ValueError(f"a parameter of shape {value.shape}, where the graph has {whole}")
    return value


class _Said(msgspec.Struct):
    input: str
    outputs: tuple[str, ...]
    operations: list[dict[str, Any]]
    shapes: dict[str, tuple[int, ...]]


def _operation(fields: Mapping[str, Any], place: int, tensors: Params) -> Operation:
    kind = _KINDS.get(str(fields.get("kind")))
    if kind is None:
        raise ValueError(f"not a graph: no operation is called {str(fields.get('kind'))!r:.80}")
    given: dict[str, Any] = {}
    for key, wanted in get_type_hints(kind).items():
        value, tensor = fields.get(key), tensors.get(f"{place}/{key}")
        if wanted in (Parameter, Parameter | None):
            if (tensor is None) != (value is None):
                raise ValueError(f"not a graph: {key} of operation {place} without its tensor")
            given[key] = tensor if tensor is None else Parameter(msgspec.convert(value, dict[str, str])["name"], tensor)
        elif wanted is Bounds:
            given[key] = _bounds(msgspec.convert(value, dict[str, tuple[float | None, float | None]])["bounds"])
        else:
            given[key] = msgspec.convert(value, wanted)
    if fields.keys() - given.keys() != {"kind"}:
        raise ValueError(f"not a graph: operation {place} is no {kind.__name__}")
    return kind(**given)


def _bounds(ends: tuple[float | None, float | None]) -> Bounds:
    low, high = ends
    return Bounds(-inf if low is None else low, inf if high is None else high)
