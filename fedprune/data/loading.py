"""Data sets and federations by an experiment's names, and their examples in batches."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fedprune import data, training
from fedprune.data import Dataset, Examples, Federation
from fedprune.experiment import Data, Experiment
from fedprune.types import Tensor

DATA_DIR = "FEDPRUNE_DATA_DIR"
"""Environment variable naming the folder of data sets, where neither the device nor the run says one."""


def in_order(dataset: Dataset, examples: Examples, size: int) -> Iterable[tuple[Tensor, Tensor]]:
    """(normalised inputs, labels) in stored order."""
    order = np.arange(len(examples))
    return training.in_batches(lambda part: dataset.normalise(examples.inputs[part]), examples.labels, order, size)


def shuffled(
    dataset: Dataset, examples: Examples, size: int, rng: np.random.Generator, *, augment: bool
) -> Iterable[tuple[Tensor, Tensor]]:
    """(normalised inputs, labels) in the generator's order; images that bear it are cropped and flipped by it too."""

    def inputs(part: Tensor) -> Tensor:
        batch = dataset.normalise(examples.inputs[part])
        return data.crop_and_flip(batch, rng) if augment and dataset.augment else batch

    return training.in_batches(inputs, examples.labels, rng.permutation(len(examples)), size)


def load_dataset(name: str, data_dir: str | None = None) -> Dataset:
    """The data set from ``data_dir``, else from the folder that the environment names."""
    return _dataset(name, data_dir or os.environ.get(DATA_DIR))


def federation(experiment: Experiment, data_dir: str | None = None) -> Federation:
    """Who holds what in an experiment: the same in every process. DataError where the data is missing or too small."""
    return _federation(experiment.data, experiment.seed, data_dir or os.environ.get(DATA_DIR))


@functools.lru_cache(maxsize=4)
def _dataset(name: str, data_dir: str | None) -> Dataset:
    return data.load(name, Path(data_dir) if data_dir else None)


@functools.lru_cache(maxsize=4)
def _federation(settings: Data, seed: int, data_dir: str | None) -> Federation:
    partitions: dict[str, data.Partition | None] = {
        "iid": data.iid,
        "dirichlet": functools.partial(data.dirichlet, alpha=settings.alpha),
        "shards": functools.partial(data.shards, per_device=settings.shards_per_device),
        "natural": None,
    }
    found = data.federate(
        _dataset(settings.name, data_dir),
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
