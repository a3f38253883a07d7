"""What devices with data of their own agree on before round 0: classes, an example's shape, constants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from fedprune.data import own
from fedprune.data.examples import DataError, Schema
from fedprune.data.own import Recorded
from fedprune.data.parts import PARTS, DeviceData
from fedprune.data.taking import LEAST_SPREAD
from fedprune.experiment import Data
from fedprune.experiment.own_data import LEAST_STD, MOST_CLASSES, axis, targets_of
from fedprune.types import DeviceId

Moments = npt.NDArray[np.float64]

AGREED = ("classes", "shape", "mean", "std", "target_mean", "target_std")
"""Keys of [data] that devices agree on, where the experiment does not fix them."""
_BLOCK = 2**20
"""Values of inputs that are doubles at a time."""


class Told(NamedTuple):
    """What one device says of its data."""

    shape: tuple[int, ...]
    """Of an example; () where it has none."""
    counts: Mapping[str, Mapping[str, int]]
    """Part -> class -> examples."""
    mean: Moments
    """(channels + targets,) of its training inputs in natural units, and of numbers to predict behind them; empty where
    the experiment fixes it, or it has none."""
    m2: Moments
    """(channels + targets,) sums of squared distances from that mean."""
    tier: str = ""
    """Of the experiment's fleet, that it belongs in, where it knows."""

    def examples(self, part: str) -> int:
        """Of all classes."""
        return sum(self.counts.get(part, {}).values())


class Agreed(NamedTuple):
    """What everybody knows of the data of a run, and nobody's examples."""

    settings: Data
    """With classes, shape, mean and std."""
    holds: Mapping[DeviceId, Mapping[str, int]]
    """Device -> part of its data -> examples that the others' classes and shape hold for."""
    tiers: Mapping[DeviceId, str] = MappingProxyType({})
    """Device -> the tier that it says it belongs in."""
    notices: tuple[str, ...] = ()
    """A line for each device that is not as the others."""


def tell(settings: Data, schema: Schema, parts: DeviceData) -> Told:
    """What a device says of its ``parts``, whose labels and inputs are of ``schema``."""
    labels = parts.pool.labels
    # of numbers to predict all count as of the first
    classes = np.zeros(len(labels), np.int64) if targets_of(settings) else labels
    counts = {
        part: {
            name: count
            for name, count in zip(
                schema.classes, np.bincount(classes[rows], minlength=len(schema.classes)).tolist(), strict=True
            )
            if count
        }
        for part, rows in parts.indices().items()
    }
    none = np.empty(0)
    if settings.mean or not len(parts.train_indices):
        return Told(schema.input_shape if len(labels) else (), counts, none, none)
    along = axis(settings, schema.input_shape)
    values = len(parts.train_indices) * math.prod(schema.input_shape) // schema.input_shape[along]
    mean = _sums(parts, schema, along) / values
    m2 = _sums(parts, schema, along, mean)
    if targets_of(settings):
        right = labels[parts.train_indices].astype(np.float64)
        means = right.mean(axis=0)
        mean, m2 = np.append(mean, means), np.append(m2, ((right - means) ** 2).sum(axis=0))
    return Told(schema.input_shape, counts, mean, m2)


def _sums(parts: DeviceData, schema: Schema, along: int, mean: Moments | None = None) -> Moments:
    """Sums of the training inputs in natural units, by channel; with ``mean``, of squared distances from that."""
    rows = max(1, _BLOCK // math.prod(schema.input_shape))  # a device's memory does not hold all of them as doubles
    sums = np.zeros(schema.input_shape[along])
    for start in range(0, len(parts.train_indices), rows):
        raw = parts.pool.take(parts.train_indices[start : start + rows]).inputs
        values = np.moveaxis(np.asarray(raw, np.float64) * schema.scale, 1 + along, 0).reshape(len(sums), -1)
        sums += values.sum(axis=1) if mean is None else ((values - mean[:, None]) ** 2).sum(axis=1)
    return sums


def agree(settings: Data, told: Mapping[DeviceId, Told]) -> Agreed:
    """What all devices' words come to, in whatever order they came. What ``settings`` fix stays.

    Classes are those of all devices, sorted; the shape is that of most devices with training examples, of as many
    devices that of most examples; mean and standard deviation of each channel are those of all devices' training inputs
    pooled (Chan et al. 1979, eq. 2.1). DataError, in one line, where there is nothing to train on, or nothing to tell
    apart, or too much.
    """
    shape = settings.shape or _shape(told)
    fitting = {device: each for device, each in told.items() if each.shape == shape}
    notices = [
        f"{device}: its examples have shape {each.shape}, the others' {shape}: they are left out"
        for device, each in told.items()
        if each.shape not in (shape, ())
    ]
    names = {name for each in fitting.values() for part in PARTS for name in each.counts.get(part, {})}
    classes = settings.classes or tuple(sorted(names, key=_natural))
    holds: dict[DeviceId, dict[str, int]] = {}
    for device, each in told.items():
        known = each.counts if device in fitting else {}
        holds[device] = {
            part: sum(count for name, count in known.get(part, {}).items() if name in classes) for part in PARTS
        }
        unknown = sorted({name for part in PARTS for name in known.get(part, {})} - {*classes})
        if unknown:
            notices.append(f"{device}: {', '.join(unknown[:3])} is none of data.classes: those examples are left out")
    if not any(parts["train"] for parts in holds.values()):
        raise DataError("no device has an example to train on; see fedprune data check, on a device")
    if len(classes) > MOST_CLASSES:
        raise DataError(f"devices have {len(classes):,} labels, a model at most {MOST_CLASSES:,}; give data.classes")
    targets = targets_of(settings)
    if len(classes) < 2 and not targets:
        raise DataError(f"devices have the label {classes[0]!r} alone; a model needs two to tell apart")
    mean, std, target_mean, target_std = settings.mean, settings.std, settings.target_mean, settings.target_std
    if not mean:
        told_of = [each for each in fitting.values() if each.mean.size]
        mean, std = _pooled(math.prod(shape) // channels(settings, shape), told_of, len(targets))
        if targets:
            mean, target_mean = mean[: -len(targets)], mean[-len(targets) :]
            std, target_std = std[: -len(targets)], std[-len(targets) :]
    tiers = {device: each.tier for device, each in told.items() if each.tier}
    constants = {"mean": mean, "std": std, "target_mean": target_mean, "target_std": target_std}
    return Agreed(replace(settings, classes=classes, shape=shape, **constants), holds, tiers, tuple(notices))


def schema_of(settings: Data) -> Schema:
    """What an example is, by settings that are agreed. DataError where constants are not one a channel."""
    shape, pictures = settings.shape, settings.name == "pictures"
    if not _one_a_channel(settings):
        count = channels(settings, shape)
        raise DataError(f"data.mean: {len(settings.mean)} values, but an example of shape {shape} has {count} channels")
    over = [1] * len(shape)
    over[axis(settings, shape)] = shape[axis(settings, shape)]
    mean, std = (np.array(values, np.float32).reshape(over) for values in (settings.mean, settings.std))
    augment = settings.pictures.augment if settings.pictures else pictures
    return Schema(
        settings.classes,
        shape,
        mean,
        std,
        1 / 255 if pictures else 1.0,
        augment,
        math.prod(shape) * (1 if pictures else 4),
        settings.target_mean,
        settings.target_std,
        (len(settings.classes),) if targets_of(settings) else (),
    )


def seen_by_one(settings: Data, recorded: Recorded) -> Data:
    """Settings as one device alone would have them, where nothing is agreed yet."""
    # a device without an example has no shape, and says so
    shape = settings.shape or own.shape_of(settings) or recorded.inputs.shape[1:] or (len(settings.mean) or 1,)
    classes = settings.classes or tuple(sorted({*recorded.labels}, key=_natural))
    count = channels(settings, shape)
    mean, std = settings.mean or (0.0,) * count, settings.std or (1.0,) * count
    targets = len(targets_of(settings))
    means, stds = settings.target_mean or (0.0,) * targets, settings.target_std or (1.0,) * targets
    return replace(settings, classes=classes, shape=shape, mean=mean, std=std, target_mean=means, target_std=stds)


def is_agreed(settings: Data) -> bool:
    """Whether settings hold all that an example is."""
    return bool(settings.classes and settings.shape and settings.mean and _one_a_channel(settings))


def _one_a_channel(settings: Data) -> bool:
    targets = len(targets_of(settings))
    right = len(settings.target_mean) == len(settings.target_std) == targets
    return right and len(settings.mean) == len(settings.std) == channels(settings, settings.shape)


def channels(settings: Data, shape: tuple[int, ...]) -> int:
    """How many means and standard deviations inputs of a shape have."""
    return shape[axis(settings, shape)]


def _shape(told: Mapping[DeviceId, Told]) -> tuple[int, ...]:
    """Examples count only where as many devices have them: a device may say any number of them."""
    found: dict[tuple[int, ...], tuple[int, int]] = {}
    for each in told.values():
        if each.shape:
            devices, examples = found.get(each.shape, (0, 0))
            more = each.examples("train")
            found[each.shape] = devices + bool(more), examples + more
    return max(sorted(found), key=lambda shape: found[shape], default=())


def _natural(name: str) -> tuple[int, int, str]:
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


def _pooled(size: int, told: list[Told], targets: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of each channel, of which an example has ``size`` values, and of each target, of which it has one."""
    means, stds = [], []
    for channel in range(count := told[0].mean.size):
        each_has = size if channel < count - targets else 1
        counts = [each.examples("train") * each_has for each in told]
        total = sum(counts)
        # sums that are rounded once, so that the order of devices changes nothing
        mean = math.fsum(count * float(each.mean[channel]) for count, each in zip(counts, told, strict=True)) / total
        apart = (count * (float(each.mean[channel]) - mean) ** 2 for count, each in zip(counts, told, strict=True))
        m2 = math.fsum([*(float(each.m2[channel]) for each in told), *apart])
        means.append(float(np.float32(mean)))
        std = math.sqrt(m2 / total)
        # a channel that never changes says nothing, and is left as it is
        stds.append(float(np.float32(std if std > max(LEAST_STD, LEAST_SPREAD * abs(mean)) else 1.0)))
    return tuple(means), tuple(stds)
