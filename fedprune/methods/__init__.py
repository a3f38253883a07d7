"""The catalogue: one published method a file, in folders by how its masks come about, named as in its paper.

A file makes a method: ``folder/name.py`` holds a function ``name``, and nothing else has to know of it.
"""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from fedprune import own_code
from fedprune.methods.layers import Channels, Cost, Shapes
from fedprune.types import Method

__all__ = [
    "OF_THE_MODEL",
    "Channels",
    "Cost",
    "MethodError",
    "Shapes",
    "build",
    "catalogue",
    "find",
    "parameters",
    "size_parameter",
]


OF_THE_MODEL = frozenset({"channels", "cost"})
"""Keyword parameters of methods that say something of the model, and no table can give."""


class MethodError(ValueError):
    """A method that does not exist, or that does not take what it was given; one line says what would be right."""


@functools.cache
def catalogue() -> Mapping[str, str]:
    """Method -> "module:function", in the order of their names."""
    folders = [folder for folder in pkgutil.iter_modules(__path__, f"{__name__}.") if folder.ispkg]
    files = [
        file.name
        for folder in folders
        for file in pkgutil.iter_modules(importlib.import_module(folder.name).__path__, f"{folder.name}.")
    ]
    return {name: f"{file}:{name}" for name, file in sorted((file.rpartition(".")[2], file) for file in files)}


def build(
    table: Mapping[str, Any],
    layers: Shapes,
    seed: int,
    *,
    channels: Channels | None = None,
    cost: Cost | None = None,
) -> Method:
    """The method ``table["name"]`` with the table's other keys as its parameters.

    A method is a function of ``layers`` and of keyword parameters, each annotated int, float, bool or str; the run's
    seed is passed to one that has a parameter ``seed``. ``channels`` is passed to one that has a keyword parameter of
    that name, and ``cost``, of which a device has none. A dotted name such as ``my_package.methods:mine`` is imported.
    """
    name, given = table["name"], {key: value for key, value in table.items() if key != "name"}
    function = find(name)
    takes = dict(parameters(name))
    traced, counted = takes.pop("channels", None), takes.pop("cost", None)
    if "seed" in takes:
        given.setdefault("seed", seed)
    for key, value in given.items():
        if key not in takes:
            known = ", ".join(sorted(takes)) or "no parameters"
            raise MethodError(f"method.{key}: unknown key; {name} takes {known}")
        _check(key, value, takes[key].annotation)
    for key, parameter in takes.items():
        if parameter.default is parameter.empty and key not in given:
            raise MethodError(f"method.{key}: missing; {name} has no default for it")
    if traced is not None and channels is not None:
        given["channels"] = channels
    elif traced is not None and traced.default is traced.empty:
        raise MethodError(f"method.name: {name} needs the coupled channels of a model, and there is none here")
    if counted is not None:
        given["cost"] = cost
    try:
        method = function(layers, **given)
    except Exception as error:  # whatever one's own function raises
        if own_code.place(error, name):
            raise MethodError(f"method: {own_code.raised(error, name)}") from error
        if not isinstance(error, ValueError):
            raise
        raise MethodError(f"method: {error}") from error
    if not isinstance(method, Method):
        raise MethodError(f"method.name: {name} returned {type(method).__name__}, expected a fedprune.types.Method")
    return method


def size_parameter(name: str) -> tuple[str, float] | None:
    """(the parameter by which a method's model is smaller, its default): ``density`` or ``width``, by default 1.

    None where it has neither. Raises MethodError for an unknown method.
    """
    takes = parameters(name)
    for key in ("density", "width"):
        if key in takes:
            default = takes[key].default
            return key, 1.0 if default is inspect.Parameter.empty else float(default)
    return None


def parameters(name: str) -> Mapping[str, inspect.Parameter]:
    """Key -> parameter of a method, its layers left out. Raises MethodError for an unknown method."""
    found = _signature(name, find(name)).parameters.values()
    return {each.name: each for each in found if each.kind is each.KEYWORD_ONLY}


def find(name: str) -> Callable[..., Any]:
    """The function of a shipped or dotted method name."""
    target = catalogue().get(name, name)
    if ":" not in target:
        known = ", ".join(catalogue())
        raise MethodError(
            f"method.name: {name!r} is not one of {known}, nor a dotted name like my_package.methods:mine"
        )
    try:
        function = own_code.imported(target)
    except Exception as error:  # whatever one's own module raises while it is imported
        raise MethodError(f"method.name: {name} cannot be imported: {own_code.raised(error, name)}") from error
    if not callable(function):
        raise MethodError(f"method.name: {name} is not a function")
    return function  # type: ignore[no-any-return]


def _signature(name: str, function: Callable[..., Any]) -> inspect.Signature:
    try:
        signature = inspect.signature(function, eval_str=True)
    except Exception as error:  # annotations are somebody's code as well
        raise MethodError(f"method.name: {own_code.defined(function)}{name}: {own_code.words(error)}") from error
    first = next(iter(signature.parameters.values()), None)
    if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD, first.VAR_POSITIONAL):
        said = f"{name}{signature} takes no layers, its one positional argument"
        raise MethodError(f"method.name: {own_code.defined(function)}{said}")
    return signature


def _check(key: str, value: object, annotation: object) -> None:
    expected = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    kind = annotation if isinstance(annotation, type) else type(value)
    right = isinstance(value, int | float) if kind is float else isinstance(value, kind)
    if not right or (kind is not bool and isinstance(value, bool)):
        raise MethodError(f"method.{key}: expected {expected.get(kind, kind.__name__)}, got {value!r}")
