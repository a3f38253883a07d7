"""What people have, as arrays: lists, tensors, data frames; names of classes as indices; the constants of inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedprune.experiment.own_data import LEAST_STD

Array = npt.NDArray[Any]

LEAST_SPREAD = 2.0**-24
"""Of a channel's mean: less is the rounding of float32, which normalised would be all that a model sees."""
_BLOCK = 2**20
"""Values of inputs that are doubles at a time."""


class DataError(ValueError):
    """Data is missing, damaged or unfit; the one-line message names the culprit and what would be right."""


def as_array(what: str, values: Any) -> Array:
    """Return a list, tensor, data frame or array as an array; a memory map stays one.

    DataError, beginning with ``what``, where it is none: rows of unequal lengths, for example.
    """
    if isinstance(values, np.ndarray):
        return values
    try:
        if isinstance(values, list | tuple) and values and hasattr(values[0], "detach"):
            values = [each.detach().cpu().numpy() for each in values]
        elif hasattr(values, "detach"):  # a tensor, which may need a gradient or lie elsewhere
            values = values.detach().cpu().numpy()
        elif hasattr(values, "to_numpy"):
            values = values.to_numpy()
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} are no array: {str(error).splitlines()[0]}") from error


def as_inputs(values: Any) -> Array:
    """Return inputs (n, C, ...) in their own type, doubles as float32 and booleans as uint8, which lose nothing."""
    inputs = as_array("inputs", values)
    if inputs.dtype == np.bool_:
        return inputs.astype(np.uint8)
    if inputs.dtype.kind == "O":  # a frame whose columns have several types is one of objects
        try:
            inputs = inputs.astype(np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(f"inputs hold what is no number: {str(error).splitlines()[0]}") from error
    if inputs.dtype.kind not in "iuf":
        raise DataError(f"inputs are {inputs.dtype} of shape {inputs.shape}, expected numbers")
    return inputs.astype(np.float32) if inputs.dtype == np.float64 and not isinstance(inputs, np.memmap) else inputs


def as_labels(what: str, values: Any, count: int) -> Array:
    """Return labels or people of ``count`` examples: int64 for whole numbers, float32 for others, else as they are."""
    labels = as_array(what, values)
    if labels.shape[:1] != (count,):
        raise DataError(f"{what} are {labels.dtype} of shape {labels.shape}, but there are {count} inputs")
    if labels.shape == (count, 1) and labels.dtype.kind not in "f":  # a frame's one column
        labels = labels[:, 0]
    if labels.dtype.kind in "biu":
        return labels if labels.dtype == np.int64 else labels.astype(np.int64)
    return labels.astype(np.float32) if labels.dtype.kind == "f" and labels.dtype != np.float32 else labels


def as_indices(
    classes: Sequence[object] | None, labels: Sequence[Array]
) -> tuple[tuple[str, ...], tuple[npt.NDArray[np.int64], ...]]:
    """(the names of all classes, each array of labels as indices of them).

    Whole numbers from 0 are indices already. Without ``classes``, they are the labels that there are, sorted. Labels
    that are names, or whole numbers that are no indices but names, become indices. DataError for one that is no class.
    """
    classes = None if classes is None else list(classes)
    names = None if classes is None else tuple(map(_name, classes))
    if names is not None and len({*names}) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise DataError(f"classes name {twice!r} twice")
    if any(each.dtype.kind == "f" or (each.ndim > 1 and each.dtype.kind == "i") for each in labels):
        return names if names is not None else _outputs(labels), tuple(labels)
    whole = all(each.dtype.kind == "i" for each in labels)
    if names is None:
        found = {label for each in labels for label in np.unique(each if whole else _texts(each)).tolist()}
        names = tuple(map(str, sorted(found)))
    elif whole:
        indices = all(not each.size or (each.min() >= 0 and each.max() < len(names)) for each in labels)
        if indices or not all(isinstance(each, int | np.integer) for each in classes or ()):
            return names, tuple(labels)  # those beyond the classes are told with the split that they are in
    index = {name: position for position, name in enumerate(names)}
    texts = [_texts(each) for each in labels]
    if unknown := sorted({label for each in texts for label in np.unique(each).tolist()} - index.keys()):
        raise DataError(f"label {unknown[0]!r} is none of the classes {', '.join(names[:10])}")
    return names, tuple(_indexed(each, index) for each in texts)


def _indexed(texts: Array, index: dict[str, int]) -> npt.NDArray[np.int64]:
    distinct, which = np.unique(texts, return_inverse=True)
    return np.array([index[name] for name in distinct.tolist()], np.int64)[which.reshape(-1)]


def _outputs(labels: Sequence[Array]) -> tuple[str, ...]:
    """Names of outputs that are no classes of whole examples: of targets by their number, or of a vocabulary."""
    if labels[0].dtype.kind == "f":
        return tuple(map(str, range(labels[0].shape[1] if labels[0].ndim > 1 else 1)))
    return tuple(map(str, range(1 + max(int(each.max(initial=0)) for each in labels))))


def _texts(labels: Array) -> Array:
    if labels.ndim != 1:
        raise DataError(f"labels are {labels.dtype} of shape {labels.shape}, expected one for each example")
    if labels.dtype.kind == "O":
        for row, label in enumerate(labels.tolist()):
            if not isinstance(label, str | int):
                raise DataError(f"label {row} is {label!r}, expected the name or the number of a class")
    elif labels.dtype.kind not in "Ui":
        raise DataError(f"labels are {labels.dtype} of shape {labels.shape}, expected names or numbers of classes")
    return np.array([_name(label) for label in labels.tolist()], np.str_)


def _name(value: object) -> str:
    return str(int(value)) if isinstance(value, bool | np.bool_) else str(value)


def as_constant(values: Any, input_shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return a mean or a standard deviation, one number or one a channel, as float32 that broadcasts to an input."""
    constant = as_array("mean and std", values)
    if constant.dtype.kind not in "biuf":
        raise DataError(f"mean and std are numbers, or one a channel; got {values!r:.60}")
    constant = constant.astype(np.float32)
    if constant.shape == input_shape[:1] and len(input_shape) > 1 and constant.shape[0] not in (1, input_shape[-1]):
        return constant.reshape(-1, *[1] * (len(input_shape) - 1))
    return constant


def constants(inputs: Array, scale: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(mean, standard deviation) of inputs · ``scale``, (C, 1, ...), over examples and positions of each channel.

    Double sums; a channel that never changes has 1.
    """
    channels = inputs.shape[1] if inputs.ndim > 1 else 1
    values = max(1, inputs.size // max(1, channels))
    mean = _sums(inputs, scale, np.zeros(channels), 1) / values
    std = np.sqrt(_sums(inputs, scale, mean, 2) / values)
    std = np.where(std > np.maximum(LEAST_STD, LEAST_SPREAD * np.abs(mean)), std, 1.0)
    over = (channels, *[1] * max(0, inputs.ndim - 2))
    return mean.astype(np.float32).reshape(over), std.astype(np.float32).reshape(over)


def _sums(inputs: Array, scale: float, mean: npt.NDArray[np.float64], power: int) -> npt.NDArray[np.float64]:
    """Of (inputs · scale - mean) ** power, by channel."""
    rows, sums = max(1, _BLOCK // max(1, math.prod(inputs.shape[1:]))), np.zeros(len(mean))
    for start in range(0, len(inputs), rows):
        block = np.asarray(inputs[start : start + rows], np.float64) * scale
        sums += ((np.moveaxis(block, 1, 0).reshape(len(mean), -1) - mean[:, None]) ** power).sum(axis=1)
    return sums
