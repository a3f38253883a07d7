"""What a data set is: examples as stored, what they mean, and how a raw batch becomes a model's input."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedprune.data.taking import DataError, as_constant, as_indices, as_inputs, as_labels, constants

__all__ = ["Array", "DataError", "Dataset", "Examples", "IntArray", "Schema", "unscaled", "validate"]

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
    labels: IntArray
    """(n,) class indices; names of classes until a `Dataset` holds them."""
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
        }.items():
            object.__setattr__(self, key, value)

    @property
    def schema(self) -> Schema:
        """What an example of it is."""
        bytes_ = int(self.train.inputs[:1].nbytes)
        what = self.classes, self.input_shape, self.mean, self.std, self.scale, self.augment
        return Schema(*what, example_bytes=bytes_)

    def normalise(self, raw: Array) -> npt.NDArray[np.float32]:
        """Returns (raw * scale - mean) / std as float32 of shape (n, C, ...), for a raw batch of the same shape."""
        return self.schema.normalise(raw)


def _relabelled(examples: Examples, labels: Array) -> Examples:
    return examples if labels is examples.labels else Examples(examples.inputs, labels, examples.people)


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
        if examples.labels.dtype != np.int64 or examples.labels.ndim > 1:
            said = f"{name}: {split} labels are {examples.labels.dtype} of shape {examples.labels.shape}"
            raise DataError(f"{said}, expected one class for each example: its name, or a whole number")
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
        raise DataError(
            f"{name}: std and scale must be greater than 0; without mean and std, the inputs' own are taken"
        )
    return dataset


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
