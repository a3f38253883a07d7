"""Operators on constants alone, and on shapes: their results are constants, and no layer."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedprune.export.c99.lowering import Lowering
from fedprune.export.c99.places import PLACES_OF, SOURCES, moved
from fedprune.export.litert.flatbuffer import FileOperator
from fedprune.export.litert.reader import operator_name
from fedprune.types import Tensor

_MOST_VALUES = 2**24


def folds(made: Lowering, operator: FileOperator) -> bool:
    """Make an operator's results constant where they follow from constants and shapes; return whether they do.

    Constants are moved, joined, stacked and cast, and int32 ones added and multiplied, as sizes are.
    """
    name = operator_name(operator)
    if name == "SHAPE" and made.has(operator, 0):
        found = [np.array(made.tensor(operator.inputs[0]).shape)]
    else:
        constants = [made.tensor(index).data for index in operator.inputs if index >= 0]
        values = [each for each in constants if each is not None]
        if not values or len(values) < len(constants):
            return False
        if max((math.prod(made.tensor(index).shape) for index in operator.outputs), default=0) > _MOST_VALUES:
            return False
        if name in PLACES_OF:
            position = SOURCES.get(name, 0)
            source = made.tensor(operator.inputs[position]).data if made.has(operator, position) else None
            if source is None:
                return False
            places = np.arange(source.size).reshape(source.shape)
            found = [source.reshape(-1)[each] for each in moved(made, operator, name, places)]
        elif name in _FOLDED and (name not in _SIZES or all(each.dtype == np.int32 for each in values)):
            try:
                found = [_FOLDED[name](values, operator.options)]
            except (ValueError, IndexError):  # shapes that do not go together
                return False
        else:
            return False
    for index, each in zip(operator.outputs, found, strict=True):
        if each.size != math.prod(made.tensor(index).shape):
            return False
    for index, each in zip(operator.outputs, found, strict=True):
        made.fold(index, each)
    return True


_Folded = Callable[[list[Tensor], Any], Tensor]
_FOLDED: Mapping[str, _Folded] = {
    "PACK": lambda values, options: np.stack(values, options.axis),
    "CONCATENATION": lambda values, options: np.concatenate(values, options.axis),
    "CAST": lambda values, options: values[0],
    "ADD": lambda values, options: values[0] + values[1],
    "SUB": lambda values, options: values[0] - values[1],
    "MUL": lambda values, options: values[0] * values[1],
}
_SIZES = ("ADD", "SUB", "MUL", "CAST")
FOLDED = frozenset(("SHAPE", *_FOLDED, *PLACES_OF))
"""Operators that may follow from constants alone."""
