"""A device's process for benchmark `memory`: takes a request from a file, trains, encodes the reply, says its peak.

Run as ``python -m simulations.benchmarks._memory_device [REQUEST]``; without a request it says its profile.
"""

import json
import os
import pickle
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedprune.budgets import measure
from fedprune.counter_rng import generator
from fedprune.data import Dataset, Examples
from fedprune.federated.link import client
from fedprune.federated.link.records import from_records, to_records
from fedprune.federated.rounds.device import Device
from fedprune.training.losses import distilled, plain_loss
from fedprune.training.straight_through import top_k_mask
from fedprune.types import Local, Now, Optimiser
from fedprune.wire.payload import Payload

if TYPE_CHECKING:
    import torch

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
DATA = {
    (3, 32, 32): "images",
    (3, 96, 96): "photographs",
    (1, 49, 10): "spectrograms",
    (9, 128): "windows",
    (1, 8, 8): "digits",
}
"""Shape of an example -> the function here that makes a data set of them."""
EXAMPLES = 128
MEMORY, SCORE, WEIGHT = "memory/", "score/", "weight/"
"""What names of tensors begin with: a method's memory, in it what is trained, and what is read."""


def plain(names: Iterable[str]) -> Local:
    """Masked SGD."""
    return Local()


def taught(names: Iterable[str]) -> Local:
    """By a teacher of the model's own size, which travels along."""
    return Local(loss=distilled(""), reads=tuple(names), passes=1)


def scored(names: Iterable[str]) -> Local:
    """Scores of weights that stay where they are, half of which count at a time (lottery jackpots)."""

    def loss(net: Any, params: Any, inputs: Any, labels: Any, memory: Any, now: Now) -> Any:
        found = {n.removeprefix(SCORE): score for n, score in memory.items() if n.startswith(SCORE)}
        made = {n: top_k_mask(score, score.numel() // 2) * memory[WEIGHT + n] for n, score in found.items()}
        return plain_loss(net, {**params, **made}, inputs, labels, memory, now)

    trained = tuple(name for name in names if name.startswith(SCORE))
    return Local(loss=loss, trains=trained, reads=tuple(set(names) - set(trained)))


def adaptive(names: Iterable[str]) -> Local:
    """Adam (Kingma and Ba, 2015, algorithm 1)."""

    def init(trained: Any) -> dict[str, Any]:
        return {
            name: (tensor.new_zeros(tensor.shape), tensor.new_zeros(tensor.shape)) for name, tensor in trained.items()
        }

    def update(trained: Any, grads: Any, state: dict[str, Any], now: Now) -> None:
        for name, grad in grads.items():
            first, second = state[name]
            first.mul_(0.9).add_(grad, alpha=0.1)
            second.mul_(0.999).addcmul_(grad, grad, value=0.001)
            size = (second / (1 - 0.999 ** (now.step + 1))).sqrt_().add_(1e-8)
            trained[name].addcdiv_(first, size, value=-0.001 / (1 - 0.9 ** (now.step + 1)))

    return Local(optimiser=Optimiser(init, update, slots=2))


LOCALS = {local.__name__: local for local in (plain, taught, scored, adaptive)}


def main() -> None:
    watch = Watch()
    if len(sys.argv) > 1:
        with open(sys.argv[1], "rb") as file:
            records = pickle.load(file)
        answer(records)
    else:
        print(json.dumps(measure(torch=True)._asdict()))
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
    from fedprune.training.lean import Lean
    from fedprune.types import Sgd

    settings, examples = self.experiment.training, self.parts.train
    model = self.model({name: value for name, value in request.tensors.items() if not name.startswith(MEMORY)})
    batches = self.shuffled(examples, settings.batch, "train", 1, 0)
    lean, memory = Lean(**request.values["lean"]), _memory(request)
    local = LOCALS[str(request.values["local"])](memory)
    outcome = training.train(model, batches, Sgd(0.01), request.masks, lean=lean, local=local, memory=memory)
    values = {"examples": len(examples), "loss": outcome.loss, "correct": outcome.correct, "seen": outcome.examples}
    own = {MEMORY + name: memory[name].numpy().copy() for name in local.trains}
    return Payload(values, {**training.state_of(model), **own})


def _memory(request: Payload) -> "dict[str, torch.Tensor]":
    """What is trained is copied, what is read is the request's."""
    import torch

    named = {n.removeprefix(MEMORY): value for n, value in request.tensors.items() if n.startswith(MEMORY)}
    return {n: torch.from_numpy(value.copy() if n.startswith(SCORE) else value) for n, value in named.items()}


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
