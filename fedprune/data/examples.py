"""What a data set is: examples as stored, what they mean, and how a raw batch becomes a model's input."""

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fedprune.tasks import CLASSIFICATION, Task, by_class

IntArray = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


class DataError(ValueError):
    """Data is missing, damaged or unfit; the one-line message names the culprit and what would be right."""


@dataclass(frozen=True, eq=False)
class Examples:
    """n labelled examples in stored order; inputs keep their stored dtype, so that images stay at a byte a pixel.

    Raises `DataError` where the lengths differ, labels are not int64 or float32, or people not int64 of shape (n,).
    """

    inputs: Array
    """(n, C, ...), uint8 for images, float16 or float32 for signals; may be a read-only memory map."""
    labels: Array
    """(n,) class indices; what other tasks predict is (n, ...), int64 or float32."""
    people: IntArray | None = None
    """(n,) who each example comes from (the natural client), or None where that is unknown."""

    def __post_init__(self) -> None:
        count = self.inputs.shape[:1]
        if self.labels.shape[:1] != count or self.labels.dtype not in (np.int64, np.float32):
            said = f"labels are {self.labels.dtype} of shape {self.labels.shape}, expected int64 of shape {count}"
            raise DataError(said + ("" if self.labels.shape[:1] != count else ", or float32 where they are no classes"))
        if self.people is not None and (self.people.shape != count or self.people.dtype != np.int64):
            said = f"people are {self.people.dtype} of shape {self.people.shape}, expected int64 of shape {count}"
            raise DataError(said)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def strata(self) -> IntArray:
        """(n,) by what parts are drawn evenly, which are classes where each example has one; else all are alike."""
        return self.labels if by_class(self.labels) else np.zeros(len(self), np.int64)

    def take(self, indices: IntArray) -> "Examples":
        """Returns a copy of the examples at `indices` (m,), in that order."""
        people = None if self.people is None else self.people[indices]
        # np.asarray: rows of a memory map become an ordinary array, free of the file.
        return Examples(np.asarray(self.inputs[indices]), self.labels[indices], people)


@dataclass(frozen=True, eq=False)
class Schema:
    """What an example is, which all who take part know: its shape, its classes, how a raw one becomes an input."""

    classes: tuple[str, ...]
    """Names of the model's outputs: classes, targets, labels, or a vocabulary."""
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
    target_mean: tuple[float, ...] = ()
    """Of each target over the training data, where labels are numbers to predict."""
    target_std: tuple[float, ...] = ()
    """Of each target."""
    label_shape: tuple[int, ...] = ()
    """Of one example's labels."""

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

    @functools.cached_property
    def schema(self) -> Schema:
        """What an example of it is."""
        bytes_ = int(self.train.inputs[:1].nbytes)
        what = self.classes, self.input_shape, self.mean, self.std, self.scale, self.augment
        labels = self.train.labels
        means, stds = moments(labels) if labels.dtype == np.float32 and labels.ndim > 1 else ((), ())
        return Schema(*what, bytes_, means, stds, labels.shape[1:])

    def normalise(self, raw: Array) -> npt.NDArray[np.float32]:
        """Returns (raw * scale - mean) / std as float32 of shape (n, C, ...), for a raw batch of the same shape."""
        return self.schema.normalise(raw)


def moments(labels: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each target, which is axis 1 of `labels`; one that never changes has 1."""
    values = np.moveaxis(labels, 1, 0).reshape(labels.shape[1], -1).astype(np.float64)
    means, stds = values.mean(axis=1), values.std(axis=1)
    return tuple(means.tolist()), tuple(np.where(stds > 2.0**-24 * np.abs(means), stds, 1.0).tolist())


def validate(dataset: Dataset, task: Task = CLASSIFICATION) -> Dataset:
    """Returns `dataset` with labels as `task` wants them; raises `DataError` naming its first contradiction."""
    name, expected = dataset.name, dataset.input_shape
    splits = (("train", dataset.train), ("test", dataset.test))
    for split, examples in splits:
        if examples is None:
            continue
        if examples.inputs.shape[1:] != expected:
            raise DataError(f"{name}: {split} inputs have shape {examples.inputs.shape[1:]}, expected {expected}")
        if len(examples) == 0:
            raise DataError(f"{name}: {split} holds no example; give at least one, or None for no test split")
        if task.tokens:
            _tokens(f"{name}: {split}", examples, len(dataset.classes))
        if not np.issubdtype(examples.inputs.dtype, np.integer) and not np.isfinite(examples.inputs).all():
            raise DataError(f"{name}: {split} inputs hold values that are not finite numbers")
    for what, values in (("mean", dataset.mean), ("std", dataset.std)):
        if not _broadcasts(values.shape, expected) or not np.isfinite(values).all():
            raise DataError(f"{name}: {what} of shape {values.shape} must be finite and broadcast to {expected}")
    if not (dataset.std > 0).all() or not dataset.scale > 0:
        raise DataError(f"{name}: std and scale must be greater than 0")
    if task.tokens:  # which are no quantities
        dataset = replace(dataset, mean=np.zeros(1, np.float32), std=np.ones(1, np.float32), scale=1.0)
    train, test = (each and _labelled(f"{name}: {split}", each, dataset.classes, task) for split, each in splits)
    assert train is not None
    return replace(dataset, train=train, test=test)


def _labelled(where: str, examples: Examples, classes: tuple[str, ...], task: Task) -> Examples:
    try:
        return replace(examples, labels=task.labels(examples.labels, len(classes)))
    except ValueError as error:
        raise DataError(f"{where} {error}") from error


def _tokens(where: str, examples: Examples, vocabulary: int) -> None:
    inputs = examples.inputs
    if inputs.ndim != 2 or not np.issubdtype(inputs.dtype, np.integer):
        raise DataError(f"{where} inputs are {inputs.dtype} of shape {inputs.shape}, expected integer tokens (n, T)")
    if int(inputs.min()) < 0 or int(inputs.max()) >= vocabulary:
        reach = f"{int(inputs.min())} to {int(inputs.max())}"
        raise DataError(f"{where} inputs reach from {reach}, expected tokens from 0 to {vocabulary - 1}")


def _broadcasts(shape: tuple[int, ...], onto: tuple[int, ...]) -> bool:
    return len(shape) <= len(onto) and all(
        mine in (1, other) for mine, other in zip(reversed(shape), reversed(onto), strict=False)
    )
