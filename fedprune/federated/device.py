"""A device as its phases see it: its parts of the data, and models to load a state into."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedprune import data, models, training, width
from fedprune.counter_rng import generator
from fedprune.data import Dataset, DeviceData, Examples, Federation
from fedprune.experiment import Data, Experiment
from fedprune.models import Slot
from fedprune.types import Params, Tensor

if TYPE_CHECKING:
    from torch import nn

DATA_DIR = "FEDPRUNE_DATA_DIR"
"""Environment variable naming the folder of data sets, where neither the device nor the run says one."""


@dataclass(frozen=True, eq=False)
class Device:
    """One device in one run."""

    index: int
    experiment: Experiment
    dataset: Dataset
    parts: DeviceData

    def slots(self) -> Mapping[str, Slot]:
        """What the state of the experiment's model holds, by name."""
        return models.slots(self.experiment.model, self.dataset.input_shape, len(self.dataset.classes))

    def model(self, params: Params) -> nn.Module:
        """The experiment's model with these parameters and buffers, narrower where they are.

        One model serves a process: the last call's.
        """
        what = self.experiment.model, self.dataset.input_shape, len(self.dataset.classes)
        model = _model(*what, tuple((name, value.shape) for name, value in params.items()))
        training.load_state(model, params)
        return model

    def batches(self, examples: Examples, size: int) -> Iterable[tuple[Tensor, Tensor]]:
        """All examples in stored order, in batches of at most ``size``."""
        return in_order(self.dataset, examples, size)

    def shuffled(self, examples: Examples, size: int, *names: str | int) -> Iterable[tuple[Tensor, Tensor]]:
        """All examples in an order that seed, device and ``names`` decide, augmented where the experiment says so."""
        rng = generator(self.experiment.seed, "device", self.index, *names)
        return shuffled(self.dataset, examples, size, rng, augment=self.experiment.training.augment)


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


def one_thread() -> None:
    """Compute with one thread, so that a result does not depend on which process, or how many, computed it."""
    import torch

    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


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
    return data.federate(
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


@functools.lru_cache(maxsize=3)
def _model(
    name: str, input_shape: tuple[int, ...], classes: int, shapes: tuple[tuple[str, tuple[int, ...]], ...]
) -> nn.Module:
    import torch

    one_thread()
    model = models.build(name, input_shape, classes)
    if len(input_shape) == 3:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    whole = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if whole.keys() != dict(shapes).keys() or whole == dict(shapes):
        return model
    return models.checked(name, width.fit(model, dict(shapes)), input_shape, classes)
