"""What a data set is: examples as stored, what they mean, and how a raw batch becomes a model's input."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fedprune.data.taking import DataError, as_constant, as_indices, as_inputs, as_labels, constants
from fedprune.tasks import CLASSIFICATION, Task, by_class

__all__ = ["Array", "DataError", "Dataset", "Examples", "IntArray", "Schema", "moments", "unscaled", "validate"]

IntArray = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False, init=False)
class Examples:
    """n labelled examples in stored order; inputs keep their stored dtype, so that images stay at a byte a pixel.

    Each may be given as an array, a list, a tensor or a data frame. Raises `DataError` where the lengths differ, inputs
    are no numbers, or people no whole ones.
    """

    inputs: Array
    """(n, C, ...), uint8 for images, float16 or float32 for signals; may be a read-only memory map."""
    labels: Array
    """(n,) class indices, names of classes until a `Dataset` holds them; what other tasks predict is (n, ...), int64 or
    float32."""
    people: IntArray | None = None
    """(n,) who each example comes from (the natural client), or None where that is unknown."""

    def __init__(self, inputs: Any, labels: Any, people: Any = None) -> None:
        """Take what people have."""
        taken = as_inputs(inputs)
        if not taken.ndim:
            raise DataError(f"inputs are one {taken.dtype}, expected (examples, channels, ...)")
        object.__setattr__(self, "inputs", taken)
        object.__setattr__(self, "labels", as_labels("labels", labels, len(taken)))
        whose = None if people is None else as_labels("people", people, len(taken))
        if whose is not None and whose.dtype.kind in "UO":
            whose = as_indices(None, [whose])[1][0]
        if whose is not None and (whose.dtype != np.int64 or whose.ndim != 1):
            raise DataError(f"people are {whose.dtype} of shape {whose.shape}, expected one name or number an example")
        object.__setattr__(self, "people", whose)

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


@dataclass(frozen=True, eq=False, init=False)
class Dataset:
    """A named data set. Its constants are fixed, so that all devices normalise alike and exchange no statistics.

    What is left out follows from the data: classes are the labels that there are, sorted, the shape is the inputs',
    mean and std are those of each channel of the training inputs.
    """

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
    unnamed: tuple[Array, ...] = field(default=(), init=False, repr=False)
    """Labels of both splits as they were given, where no classes were: what they mean a task says."""

    def __init__(
        self,
        name: str,
        train: Examples,
        test: Examples | None = None,
        classes: Sequence[object] | None = None,
        input_shape: Sequence[int] | int | None = None,
        mean: Any = None,
        std: Any = None,
        scale: float = 1.0,
        augment: bool = False,
        overlap: int = 0,
    ) -> None:
        """``classes`` are text or whole numbers; ``mean`` and ``std`` one number or one a channel.

        DataError for a label that is none of the classes.
        """
        for what, examples in (("train", train), ("test", test)):
            if not isinstance(examples, Examples) and (what == "train" or examples is not None):
                kind = type(examples).__name__
                raise DataError(f"{what} is a {kind}, expected fedprune.data.Examples(inputs, labels)")
            if examples is not None and examples.inputs.ndim < 2:
                raise DataError(f"{what} inputs have shape {examples.inputs.shape}, expected (examples, features)")
        splits = [train] if test is None else [train, test]
        names, labels = as_indices(classes, [each.labels for each in splits])
        taken = [_relabelled(*pair) for pair in zip(splits, labels, strict=True)]
        given = train.inputs.shape[1:] if input_shape is None else input_shape
        shape: tuple[int, ...] = (given,) if isinstance(given, int) else tuple(given)
        found = constants(train.inputs, scale) if mean is None or std is None else None
        for key, value in {
            "name": str(name),
            "train": taken[0],
            "test": taken[1] if test is not None else None,
            "classes": names,
            "input_shape": shape,
            "mean": found[0] if found and mean is None else as_constant(mean, shape),
            "std": found[1] if found and std is None else as_constant(std, shape),
            "scale": scale,
            "augment": augment,
            "overlap": overlap,
            "unnamed": tuple(each.labels for each in splits) if classes is None else (),
        }.items():
            object.__setattr__(self, key, value)

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


def _relabelled(examples: Examples, labels: Array) -> Examples:
    return examples if labels is examples.labels else Examples(examples.inputs, labels, examples.people)


def moments(labels: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each target, which is axis 1 of `labels`; one that never changes has 1."""
    values = np.moveaxis(labels, 1, 0).reshape(labels.shape[1], -1).astype(np.float64)
    means, stds = values.mean(axis=1), values.std(axis=1)
    return tuple(means.tolist()), tuple(np.where(stds > 2.0**-24 * np.abs(means), stds, 1.0).tolist())


def validate(dataset: Dataset, task: Task = CLASSIFICATION) -> Dataset:
    """Returns `dataset` with labels as `task` wants them; raises `DataError` naming its first contradiction."""
    if task.counted is not None and dataset.unnamed:
        dataset = _of_numbers(dataset, task.counted)
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
    if dataset.augment and dataset.train.labels.ndim > 2:
        raise DataError(f"{name}: augment moves a picture's pixels and not their labels; leave it out of the Dataset")
    for what, values in (("mean", dataset.mean), ("std", dataset.std)):
        if not _broadcasts(values.shape, expected) or not np.isfinite(values).all():
            raise DataError(f"{name}: {what} of shape {values.shape} must be finite and broadcast to {expected}")
    if not (dataset.std > 0).all() or not dataset.scale > 0:
        raise DataError(
            f"{name}: std and scale must be greater than 0; without mean and std, the inputs' own are taken"
        )
    if task.tokens:  # which are no quantities
        dataset = replace(dataset, mean=np.zeros(1, np.float32), std=np.ones(1, np.float32), scale=1.0)
    train, test = (each and _labelled(f"{name}: {split}", each, dataset.classes, task) for split, each in splits)
    assert train is not None
    return replace(dataset, train=train, test=test)


def _of_numbers(dataset: Dataset, count: Callable[[Array], int]) -> Dataset:
    """The data set with its labels as they were given, and outputs called by their numbers."""
    if any(each.dtype.kind not in "if" for each in dataset.unnamed):
        return dataset
    splits = [dataset.train] if dataset.test is None else [dataset.train, dataset.test]
    train, *test = (
        replace(each, labels=labels.astype(np.float32)) for each, labels in zip(splits, dataset.unnamed, strict=True)
    )
    names = tuple(map(str, range(count(train.labels))))
    return replace(dataset, train=train, test=test[0] if test else None, classes=names)


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


_FAR = 10.0
_SAMPLE = 1000


def unscaled(dataset: Dataset) -> str:
    """What is to be said of inputs whose root mean square is above 10 as a model gets them; "" for others.

    With the training data's own mean and standard deviation it is 1.
    """
    inputs = dataset.train.inputs
    some = inputs[:: max(1, len(inputs) // _SAMPLE)]
    if not np.sqrt(np.mean(np.square(dataset.normalise(some), dtype=np.float64))) > _FAR:
        return ""
    mean, std = (_in_words(each) for each in constants(some, dataset.scale))
    now = f"scale {dataset.scale:g}, mean {_in_words(dataset.mean)} and std {_in_words(dataset.std)}"
    return (
        f"{dataset.name}: with {now} inputs from {inputs.min():g} to {inputs.max():g} reach the model unscaled, "
        f"and it may learn nothing; leave mean and std out of the Dataset, or give about mean {mean} and std {std}"
    )


def _in_words(constant: Array) -> str:
    """The number that a constant is, or those that it lies between."""
    low, high = f"{constant.min():.3g}", f"{constant.max():.3g}"
    return low if low == high else f"{low} to {high}"


def _broadcasts(shape: tuple[int, ...], onto: tuple[int, ...]) -> bool:
    return len(shape) <= len(onto) and all(
        mine in (1, other) for mine, other in zip(reversed(shape), reversed(onto), strict=False)
    )
