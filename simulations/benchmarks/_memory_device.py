"""A device's process for benchmark `memory`: takes a request from a file, trains, encodes the reply, says its peak.

Run as ``python -m simulations.benchmarks._memory_device [REQUEST]``; without a request it says its profile.
"""

import json
import os
import pickle
import sys
import threading
import time
from pathlib import Path

import numpy as np

from fedprune.budgets import measure
from fedprune.counter_rng import generator
from fedprune.data import Dataset, Examples
from fedprune.federated.link import client
from fedprune.federated.link.records import from_records, to_records
from fedprune.federated.rounds.device import Device
from fedprune.wire.payload import Payload

SHAPES = {
    "resnet8": (3, 32, 32),
    "resnet20": (3, 32, 32),
    "resnet18": (3, 32, 32),
    "vgg11": (3, 32, 32),
    "mobilenet": (3, 96, 96),
    "dscnn": (1, 49, 10),
    "har_cnn": (9, 128),
    "digits_cnn": (1, 8, 8),
}
EXAMPLES = 128


def main() -> None:
    watch = Watch()
    if len(sys.argv) > 1:
        with open(sys.argv[1], "rb") as file:
            records = pickle.load(file)
        answer(records)
    else:
        print(json.dumps(measure()._asdict()))
        return
    print(json.dumps({"peak_bytes": watch.peak_bytes()}))


def answer(records: object) -> object:
    """What the client does with a message's content; the request's values say how to train."""
    request = from_records(records)  # type: ignore[arg-type]
    device = client._open(str(request.values["experiment"]), 0, None)
    return to_records(_half(device, request), request.masks)


def _half(self: Device, request: Payload) -> Payload:
    """The device's half of phase train, in little memory."""
    from fedprune import training
    from fedprune.training import Lean, Optimiser

    settings, model, examples = self.experiment.training, self.model(request.tensors), self.parts.train
    batches = self.shuffled(examples, settings.batch, "train", 1, 0)
    lean = Lean(**request.values["lean"])
    outcome = training.train(model, batches, Optimiser(0.01), request.masks, lean=lean)
    values = {"examples": len(examples), "loss": outcome.loss, "correct": outcome.correct, "seen": outcome.examples}
    return Payload(values, training.state_of(model))


class Watch:
    """The largest resident set of this process: the kernel's own mark where there is one, else sampled."""

    def __init__(self) -> None:
        self._status = Path("/proc/self/status")
        self._sampled = 0
        if not self._status.exists():
            threading.Thread(target=self._sample, daemon=True).start()

    def peak_bytes(self) -> int:
        if not self._status.exists():
            return self._sampled
        line = next(line for line in self._status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    def _sample(self) -> None:
        import psutil

        process = psutil.Process(os.getpid())
        while True:
            self._sampled = max(self._sampled, process.memory_info().rss)
            time.sleep(0.002)


def _data(name: str) -> Dataset:
    shape, rng = SHAPES[name], generator(0, "benchmark", "memory")
    stored = rng.integers(256, size=(EXAMPLES, *shape), dtype=np.uint8)
    labels = np.arange(EXAMPLES, dtype=np.int64) % 10
    ones = np.ones((1,) * len(shape), np.float32)
    return Dataset(
        name=name,
        train=Examples(stored, labels),
        test=Examples(stored[:10], labels[:10]),
        classes=tuple(str(label) for label in range(10)),
        input_shape=shape,
        mean=0.5 * ones,
        std=0.29 * ones,
        scale=1 / 255,
    )


def images(data_dir: Path | None = None) -> Dataset:
    """As large as CIFAR-10's."""
    return _data("resnet8")


def photographs(data_dir: Path | None = None) -> Dataset:
    """As large as the visual wake words'."""
    return _data("mobilenet")


def spectrograms(data_dir: Path | None = None) -> Dataset:
    """As large as the keywords'."""
    return _data("dscnn")


def windows(data_dir: Path | None = None) -> Dataset:
    """As large as UCI HAR's."""
    return _data("har_cnn")


def digits(data_dir: Path | None = None) -> Dataset:
    """As large as the 8 x 8 digits."""
    return _data("digits_cnn")


if __name__ == "__main__":
    main()
