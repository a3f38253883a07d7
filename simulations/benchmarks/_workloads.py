"""What benchmark `simulation` trains: three federations, with data that needs no file and a net of 1.8 k parameters."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn

from fedprune.counter_rng import generator
from fedprune.data import Dataset, Examples
from fedprune.experiment import Experiment, parse


class Workload(NamedTuple):
    """One federation to train, and for how long."""

    title: str
    experiment: Experiment
    """``rounds`` of it are timed, the first as start-up."""


def workloads(quick: bool) -> dict[str, Workload]:
    """Key of a figure -> workload; ``quick`` gives the first alone, with fewer rounds."""
    small = Workload("digits_cnn, 10 devices, 2 steps", _experiment("digits", "digits_cnn", 10, 6 if quick else 40))
    if quick:
        return {"S1": small}
    return {
        "S1": small,
        "S2": Workload("CNN of 1.8 k, 100 devices, 1 step", _experiment(_named("many"), _named("tiny_cnn"), 100, 15)),
        "S3": Workload("resnet8, 10 devices, 4 steps", _experiment(_named("images"), "resnet8", 10, 5)),
    }


def many(data_dir: Path | None = None) -> Dataset:
    """100 × 32 training examples, as small as digits."""
    return _noise("many", 3200, (1, 8, 8))


def images(data_dir: Path | None = None) -> Dataset:
    """10 × 256 training examples, as large as CIFAR-10's."""
    return _noise("images", 2560, (3, 32, 32))


def tiny_cnn(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Two convolutions of stride 2 and a linear layer: 1,746 parameters at (1, 8, 8), 10 classes."""
    channels = input_shape[0]
    return nn.Sequential(
        *(nn.Conv2d(channels, 8, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(8, 14, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()),
        nn.Linear(14 * -(-input_shape[1] // 4) * -(-input_shape[2] // 4), classes),
    )


def _named(function: str) -> str:
    return f"{__name__}:{function}"


def _experiment(data: str, model: str, devices: int, rounds: int) -> Experiment:
    """IID, so that every device does the same work and no process waits for another."""
    kept = {"public": 0.05, "development": 0.1, "test": 0.2} if data == "digits" else {"public": 0, "development": 0}
    return parse(
        {
            "name": "benchmark",
            "data": {"name": data, "partition": "iid", "devices": devices, **kept},
            "model": model,
            "method": {"name": "fedavg"},
            "rounds": rounds,
        },
        "benchmark",
    )


def _noise(name: str, count: int, shape: tuple[int, ...]) -> Dataset:
    """Random pixels with random labels; a test split of one example a class, which nobody reads."""
    rng = generator(0, "benchmark", name)

    def examples(labels: np.ndarray) -> Examples:
        return Examples(rng.integers(256, size=(len(labels), *shape), dtype=np.uint8), labels.astype(np.int64))

    return Dataset(
        name=name,
        train=examples(rng.integers(10, size=count)),
        test=examples(np.arange(10)),
        classes=tuple(str(label) for label in range(10)),
        input_shape=shape,
        mean=np.full((1, 1, 1), 0.5, np.float32),
        std=np.full((1, 1, 1), 0.29, np.float32),
        scale=1 / 255,
    )
