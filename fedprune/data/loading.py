"""Data sets and federations by an experiment's names, and their examples in batches."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedprune import data, tasks, training
from fedprune.data import DataError, Dataset, DeviceData, Examples, Federation, Schema, own
from fedprune.data.agreement import Agreed, Told, agree, schema_of, seen_by_one, tell
from fedprune.data.examples import IntArray
from fedprune.data.parts import Pool
from fedprune.experiment import Data, Experiment
from fedprune.types import DeviceId, Tensor

DATA_DIR = "FEDPRUNE_DATA_DIR"
"""Environment variable naming the folder of data sets, where neither the device nor the run says one."""


def in_order(schema: Schema, examples: Examples, size: int) -> Iterable[tuple[Tensor, Tensor]]:
    """(normalised inputs, labels) in stored order."""
    order = np.arange(len(examples))
    return training.in_batches(lambda part: schema.normalise(examples.inputs[part]), examples.labels, order, size)


def shuffled(
    schema: Schema, examples: Examples, size: int, rng: np.random.Generator, *, augment: bool
) -> Iterable[tuple[Tensor, Tensor]]:
    """(normalised inputs, labels) in the generator's order; images that bear it are cropped and flipped by it too.

    A single example, of which a batch norm can learn nothing, joins another batch.
    """

    def inputs(part: Tensor) -> Tensor:
        batch = schema.normalise(examples.inputs[part])
        return data.crop_and_flip(batch, rng) if augment and schema.augment else batch

    return training.in_batches(inputs, examples.labels, rng.permutation(len(examples)), size, least=2)


def load_dataset(name: str, data_dir: str | None = None, task: str = tasks.PLAIN) -> Dataset:
    """The data set from ``data_dir``, else from the folder that the environment names, with labels of a task."""
    return _dataset(name, data_dir or os.environ.get(DATA_DIR), task)


def federation(experiment: Experiment, data_dir: str | None = None) -> Federation:
    """Who holds what in an experiment: the same in every process. DataError where the data is missing or too small."""
    return _federation(experiment.data, experiment.seed, data_dir or os.environ.get(DATA_DIR), experiment.task)


def forget() -> None:
    """Let go of data sets that were loaded, once nobody holds them."""
    for kept in (_federation, _dataset):
        kept.cache_clear()


class Known(NamedTuple):
    """What a server knows of an experiment's data."""

    schema: Schema
    holds: Mapping[DeviceId, Mapping[str, int]]
    """Device -> part of its data -> examples."""
    public: Examples
    """The server's own; none of a device's."""
    notices: tuple[str, ...] = ()
    """What is to be said of the data before anything is trained, each in one line."""


def known(experiment: Experiment, data_dir: str | None = None) -> Known:
    """What a server knows where one data set is dealt to devices. DataError as for `federation`."""
    dealt = federation(experiment, data_dir)
    holds: dict[DeviceId, Mapping[str, int]] = {index: device.sizes() for index, device in enumerate(dealt.devices)}
    dataset = load_dataset(experiment.data.name, data_dir, experiment.task)
    notice = "" if tasks.named(experiment.task).tokens else data.unscaled(dataset)
    return Known(dataset.schema, holds, dealt.public, (f"data: {notice}",) if notice else ())


def known_of(agreed: Agreed) -> Known:
    """What a server knows where devices have data of their own, once they have agreed.

    DataError where data.public_dir holds no example that is as theirs.
    """
    settings, schema = agreed.settings, schema_of(agreed.settings)
    public = own.Recorded(np.empty((0, *settings.shape), np.float32), (), ())
    if settings.public_dir:
        public = own.read(settings, Path(settings.public_dir))
    parts, unknown = own.parts(settings, public, schema.classes)
    if settings.public_dir and not len(parts.pool.train):
        others = [f"label {label!r} is none of the classes" for label in unknown]
        raise DataError(f"public_dir: {settings.public_dir}: holds no example to use: {[*public.problems, *others][0]}")
    return Known(schema, agreed.holds, parts.pool.train)


def agreed_here(settings: Data, people: str | None) -> Agreed:
    """What devices would agree on, each with one of the folders in ``people``. DataError, in one line."""
    told: dict[DeviceId, Told] = {}
    for folder in own_folders(people):
        found = opened(settings, folder, folder.name)
        told[folder.name] = tell(settings, found.schema, found.parts)
    return agree(settings, told)


def device_parts(experiment: Experiment, index: int, data_dir: str | None = None) -> DeviceData:
    """What a device of a simulation has, by its place among those that hold data. DataError as for `federation`."""
    if experiment.data.partition != "own":
        return federation(experiment, data_dir).devices[index]
    folder = own_folders(data_dir)[index]
    return opened(experiment.data, folder, folder.name).parts


def all_parts(experiment: Experiment, data_dir: str | None = None) -> DeviceData:
    """What all devices have, part by part, as one holder of all has it."""
    if experiment.data.partition != "own":
        return federation(experiment, data_dir).united().devices[0]
    each = [opened(experiment.data, folder, folder.name).parts for folder in own_folders(data_dir)]
    starts = np.cumsum([0, *(len(parts.pool.train) for parts in each)]).tolist()
    pools = [parts.pool.train for parts in each]
    pool = Examples(np.concatenate([one.inputs for one in pools]), np.concatenate([one.labels for one in pools]))

    def rows(part: Callable[[DeviceData], IntArray]) -> IntArray:
        return np.concatenate([part(parts) + start for parts, start in zip(each, starts, strict=False)])

    return DeviceData(
        Pool(pool, None),
        rows(lambda parts: parts.train_indices),
        rows(lambda parts: parts.development_indices),
        rows(lambda parts: parts.test_indices),
    )


class Opened(NamedTuple):
    """A folder as its device has it."""

    recorded: own.Recorded
    schema: Schema
    """What an example is; what this device alone has, where nothing is agreed yet."""
    parts: DeviceData
    unknown: Mapping[str, int]
    """Label that is none of the classes -> its examples, which stay out."""


def opened(settings: Data, folder: Path, whose: str) -> Opened:
    """The folder of a device, with whose name its recordings are hashed. DataError, in one line."""
    recorded = own.read(settings, folder)
    mine = seen_by_one(settings, recorded)
    schema = schema_of(mine)
    return Opened(recorded, schema, *own.parts(mine, recorded, schema.classes, whose))


def own_folders(people: str | None) -> list[Path]:
    """The folders in ``people``, or in the one that the environment names: one a device with its own data, by name.

    DataError, in one line, where there is none.
    """
    if not (found := people or os.environ.get(DATA_DIR)):
        raise DataError('partition = "own": give --data-dir, a folder that holds one folder a device')
    try:
        folders = sorted(path for path in Path(found).iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        why = f"cannot be read ({error.strerror}); give a folder that holds one a device"
        raise DataError(f"{found}: {why}") from error
    if not folders:
        raise DataError(f"{found}: holds no folder; expected one a device, such as {found}/kitchen")
    return folders


@functools.lru_cache(maxsize=4)
def _dataset(name: str, data_dir: str | None, task: str) -> Dataset:
    return data.load(name, Path(data_dir) if data_dir else None, tasks.named(task))


@functools.lru_cache(maxsize=4)
def _federation(settings: Data, seed: int, data_dir: str | None, task: str) -> Federation:
    dataset = _dataset(settings.name, data_dir, task)
    if settings.partition in ("dirichlet", "shards") and not tasks.by_class(dataset.train.labels):
        why = f'deals by class, and an example of task {task} has none; write partition = "iid"'
        raise DataError(f"partition: {settings.partition} {why}, or natural where it is known whose examples are")
    partitions: dict[str, data.Partition | None] = {
        "iid": data.iid,
        "dirichlet": functools.partial(data.dirichlet, alpha=settings.alpha),
        "shards": functools.partial(data.shards, per_device=settings.shards_per_device),
        "natural": None,
    }
    found = data.federate(
        dataset,
        partitions[settings.partition],
        settings.devices or None,
        seed,
        public=settings.public,
        development=settings.development,
        test=settings.test,
        examples=settings.examples or None,
        official_test=settings.official_test,
    )
    return found.united() if settings.central else found
