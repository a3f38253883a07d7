"""What a data set is: examples as stored, what they mean, and how a raw batch becomes a model's input."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


class DataError(ValueError):
    """Data is missing, damaged or unfit; the one-line message names the culprit and what would be right."""


@dataclass(frozen=True, eq=False)
class Examples:
    """n labelled examples in stored order; inputs keep their stored dtype, so that images stay at a byte a pixel.

    Raises `DataError` where the lengths differ, or labels or people are not int64 of shape (n,).
    """

    inputs: Array
    """(n, C, ...), uint8 for images, float16 or float32 for signals; may be a read-only memory map."""
    labels: IntArray
    """(n,) class indices."""
    people: IntArray | None = None
    """(n,) who each example comes from (the natural client), or None where that is unknown."""

    def __post_init__(self) -> None:
        for what, values in (("labels", self.labels), ("people", self.people)):
            if values is not None and (values.shape != self.inputs.shape[:1] or values.dtype != np.int64):
                expected = f"int64 of shape {self.inputs.shape[:1]}"
                raise DataError(f"{what} are {values.dtype} of shape {values.shape}, expected {expected}")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: IntArray) -> "Examples":
        """Returns a copy of the examples at `indices` (m,), in that order."""
        people = None if self.people is None else self.people[indices]
        # np.asarray: rows of a memory map become an ordinary array, free of the file.
        return Examples(np.asarray(self.inputs[indices]), self.labels[indices], people)


@dataclass(frozen=True, eq=False)
class Schema:
    """What an example is, which all who take part know: its shape, its classes, how a raw one becomes an input."""

    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    """(C, ...), the shape of one example."""
    mean: Array
    """Mean of raw * scale over the training data; float32, broadcastable to `input_shape`."""
    std: Array
    """Standard deviation of raw * scale over the training data; float32, broadcastable to `input_shape`."""
    scale: float = 1.0
    """From stored to natural units, e.g. 1/255 for images."""
    augment: bool = False
    """Whether a random crop and a horizontal flip keep an example's meaning."""
    example_bytes: int = 0
    """Of one example as it is stored."""

    def normalise(self, raw: Array) -> npt.NDArray[np.float32]:
        """Returns (raw * scale - mean) / std as float32 of shape (n, C, ...), for a raw batch of the same shape."""
        inputs = raw.astype(np.float32)
        inputs *= np.float32(self.scale) / self.std
        inputs -= self.mean / self.std
        return inputs


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named data set. Its constants are fixed, so that all devices normalise alike and exchange no statistics."""

    name: str
    train: Examples
    test: Examples | None
    """The official test split, None where there is none."""
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    """(C, ...), the shape of one example."""
    mean: Array
    """Mean of raw * scale over the training data; float32, broadcastable to `input_shape`."""
    std: Array
    """Standard deviation of raw * scale over the training data; float32, broadcastable to `input_shape`."""
    scale: float = 1.0
    """From stored to natural units, e.g. 1/255 for images."""
    augment: bool = False
    """Whether a random crop and a horizontal flip keep an example's meaning."""
    overlap: int = 0
    """How many following examples of the same person and label share raw samples with one (1: windows by halves)."""

    @property
    def schema(self) -> Schema:
        """What an example of it is."""
        bytes_ = int(self.train.inputs[:1].nbytes)
        what = self.classes, self.input_shape, self.mean, self.std, self.scale, self.augment
        return Schema(*what, example_bytes=bytes_)

    def normalise(self, raw: Array) -> npt.NDArray[np.float32]:
        """Returns (raw * scale - mean) / std as float32 of shape (n, C, ...), for a raw batch of the same shape."""
        return self.schema.normalise(raw)


def validate(dataset: Dataset) -> Dataset:
    """Returns `dataset` itself; raises `DataError` naming its first contradiction: shapes, labels or values."""
    name, expected = dataset.name, dataset.input_shape
    for split, examples in (("train", dataset.train), ("test", dataset.test)):
        if examples is None:
            continue
        if examples.inputs.shape[1:] != expected:
            raise DataError(f"{name}: {split} inputs have shape {examples.inputs.shape[1:]}, expected {expected}")
        if len(examples) == 0:
            raise DataError(f"{name}: {split} holds no example; give at least one, or None for no test split")
        low, high = int(examples.labels.min()), int(examples.labels.max())
        if low < 0 or high >= len(dataset.classes):
            raise DataError(
                f"{name}: {split} labels reach from {low} to {high}, expected 0 to {len(dataset.classes) - 1}"
            )
        if not np.issubdtype(examples.inputs.dtype, np.integer) and not np.isfinite(examples.inputs).all():
            raise DataError(f"{name}: {split} inputs hold values that are not finite numbers")
    for what, values in (("mean", dataset.mean), ("std", dataset.std)):
        if not _broadcasts(values.shape, expected) or not np.isfinite(values).all():
            raise DataError(f"{name}: {what} of shape {values.shape} must be finite and broadcast to {expected}")
    if not (dataset.std > 0).all() or not dataset.scale > 0:
        raise DataError(f"{name}: std and scale must be greater than 0")
    return dataset


def _broadcasts(shape: tuple[int, ...], onto: tuple[int, ...]) -> bool:
    return len(shape) <= len(onto) and all(
        mine in (1, other) for mine, other in zip(reversed(shape), reversed(onto), strict=False)
    )
