"""How a device's own recordings become examples: the tables sounds, pictures and tables of [data]."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    from fedprune.experiment.sections import Data

Length = Annotated[int, Meta(ge=1, le=2**24)]
_FEATURES = re.compile(r"(mfcc|logmel)([1-9][0-9]{0,3})x([1-9][0-9]{0,3})|(raw)")
_MOST_BANDS = 128
LARGEST, LEAST_STD = 1e30, 1e-30
"""Of constants of inputs, which are float32 and divided by each other."""
MOST_VALUES, MOST_CLASSES = 2**24, 10_000
"""Of an example, and of a model: a device makes room for them because a server says so."""


class Sounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Recordings of sound, in folders named after their labels."""

    seconds: Annotated[float, Meta(gt=0, le=3600)] = 1.0
    """Of an example: a longer recording gives several, one after the other; a shorter one is followed by silence."""
    rate: Length = 16000
    """Samples a second."""
    features: str = "mfcc49x10"
    """mfccFxC: F frames of C coefficients; logmelFxB: of B mel bands; raw: the samples themselves."""
    resample: bool = False
    """Whether recordings of another rate are brought to this one; else they are left out."""

    @property
    def samples(self) -> int:
        """Samples of an example."""
        return max(1, round(self.seconds * self.rate))

    def kind(self) -> tuple[str, int, int]:
        """(mfcc, logmel or raw; frames; coefficients or bands), 0 where there are none. ValueError, the right value."""
        if (found := _FEATURES.fullmatch(self.features)) is None:
            raise ValueError(f"{self.features!r} is none of mfccFRAMESxCOEFFICIENTS, logmelFRAMESxBANDS, raw")
        kind, frames, values = found[1] or found[4], int(found[2] or 0), int(found[3] or 0)
        if values > _MOST_BANDS:
            raise ValueError(f"{self.features!r} has more than {_MOST_BANDS} values a frame")
        if frames >= self.samples // 2:
            raise ValueError(f"{self.features!r} has more frames than {self.samples} samples can give")
        return kind, frames, values


class Pictures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pictures, in folders named after their labels."""

    size: tuple[Length, Length] = (32, 32)
    """Height and width that each is brought to."""
    channels: Literal[1, 3] = 3
    """3 for colours, 1 for shades of grey."""
    augment: bool = True
    """Whether a random crop and a horizontal flip keep a picture's meaning; not those of letters and digits."""


class Tables(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows of signals over time, in .csv or .parquet files."""

    signals: tuple[str, ...]
    """Columns that a model sees."""
    label: str = "label"
    """Column of the label; ``folder``: the folder that the file lies in says it."""
    recording: str = "file"
    """Column that says which recording a row is of; ``file``: each file is one."""
    person: str = ""
    """Column of whose a row is, where there is one."""
    window: Length = 128
    """Rows of an example."""
    step: Annotated[int, Meta(ge=0, le=2**24)] = 0
    """Rows from one example of a recording to the next; 0 is as many as in a window, so that none overlap."""
    targets: tuple[str, ...] = ()
    """Columns of numbers to predict, for task regression, in the place of a label: a window's are those of its last
    row."""


NAMES = ("sounds", "pictures", "tables", "arrays")
"""Kinds of own recordings that the library reads; others are read by a loader of one's own."""


def targets_of(data: Data) -> tuple[str, ...]:
    """Columns of numbers to predict, in the order of the model's outputs; empty where examples have labels."""
    return data.tables.targets if data.name == "tables" and data.tables is not None else ()


def shape_of(data: Data) -> tuple[int, ...] | None:
    """What shape an example will have by these settings alone; None where only the files or a loader say it.

    ValueError, what is wrong with data.sounds.features.
    """
    if data.name == "pictures":
        pictures = data.pictures or Pictures()
        return (pictures.channels, *pictures.size)
    if data.name == "sounds":
        sounds = data.sounds or Sounds()
        kind, frames, values = sounds.kind()
        return (1, sounds.samples) if kind == "raw" else (1, frames, values)
    if data.name == "tables" and data.tables is not None:
        return (len(data.tables.signals), data.tables.window)
    return None


def axis(data: Data, shape: tuple[int, ...]) -> int:
    """The axis of an example along which inputs are of different kinds: features of sound lie along the last."""
    featured = data.name == "sounds" and (data.sounds or Sounds()).kind()[0] != "raw"
    return len(shape) - 1 if featured else 0


def contradictions(data: Data) -> list[tuple[str, str]]:
    """(key, what is wrong with it and what would be right) of what [data] says of own recordings."""
    problems = []
    own = data.partition == "own"
    if not own and data.name in NAMES:
        problems.append(("data.partition", f'{data.name} are devices\' own recordings; write partition = "own"'))
    if own and ":" not in data.name and data.name not in NAMES:
        known = ", ".join(NAMES)
        problems.append(("data.name", f"{data.name!r} is none of own recordings: {known}, or my_package.data:load"))
    for key in NAMES[:3]:
        if getattr(data, key) is not None and data.name != key:
            problems.append((f"data.{key}", f'only where data.name = "{key}"'))
    for key in ("classes", "shape", "mean", "std", "target_mean", "target_std", "public_dir"):
        if getattr(data, key) and not own:
            problems.append((f"data.{key}", 'only where data.partition = "own"'))
    if own and data.examples:
        problems.append(("data.examples", "each device has its own; leave it out"))
    if data.name == "tables" and (data.tables is None or not data.tables.signals):
        problems.append(("data.tables", 'missing; give its columns, such as { signals = ["ax", "ay", "az"] }'))
    targets = targets_of(data)
    if len(targets) != len({*targets}) or (targets and data.classes != targets):
        problems.append(("data.tables.targets", "expected each of them once, and data.classes left out"))
    elif len(data.classes) != len({*data.classes}) or (len(data.classes) == 1 and not targets):
        problems.append(("data.classes", "expected two or more, each of them once"))
    if len(data.classes) > MOST_CLASSES:
        problems.append(("data.classes", f"{len(data.classes):,}; at most {MOST_CLASSES:,}"))
    if len(data.mean) != len(data.std):
        problems.append(("data.std", f"{len(data.std)} values, but data.mean has {len(data.mean)}; give both or none"))
    for key, values in (("target_mean", data.target_mean), ("target_std", data.target_std)):
        if len(values) != (len(targets) if data.mean else 0):
            expected = f"one for each of data.tables.targets, {len(targets)}" if data.mean and targets else "none"
            problems.append((f"data.{key}", f"{len(values)} values, expected {expected}: they come with data.mean"))
    return problems + (_of_shape(data) if own and not problems else [])


def _of_shape(data: Data) -> list[tuple[str, str]]:
    """What contradicts the shape of an example, as far as settings say it."""
    try:
        said = shape_of(data)
    except ValueError as error:
        return [("data.sounds.features", str(error))]
    if data.sounds is not None and data.sounds.samples > MOST_VALUES:
        return [("data.sounds.seconds", f"{data.sounds.samples:,} samples in an example; at most {MOST_VALUES:,}")]
    if said and data.shape and said != data.shape:
        return [("data.shape", f"{[*data.shape]}, but data.{data.name} gives {[*said]}; leave it out")]
    shape = said or data.shape
    if math.prod(shape) > MOST_VALUES:
        key = f"data.{data.name}" if said else "data.shape"
        return [(key, f"an example of shape {[*shape]} is {math.prod(shape):,} values; at most {MOST_VALUES:,}")]
    if shape and data.mean and len(data.mean) != (count := shape[axis(data, shape)]):
        return [("data.mean", f"{len(data.mean)} values, but an example of shape {[*shape]} has {count} channels")]
    return []
