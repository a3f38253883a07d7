"""One process of benchmark `training`: trains a model as a job says, and prints what a step and the process took.

Run as ``python -m simulations.benchmarks._training_device FOLDER``, with job.json and params.npz in it.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from fedprune.types import Params, Sgd, Tensor

SGD = Sgd(0.01, 0.9)


def main() -> None:
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    ways = {"native": natively, "torch": in_torch, "bytes": of_bytes, "message": of_a_message}
    found = ways[job["way"]](job, folder)
    print(json.dumps({"peak_bytes": peak_bytes(), **found, "torch": "torch" in sys.modules}))


def peak_bytes() -> int:
    """Of this process, so far."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def batches(job: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """The same noise for all."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(job["batch"], *job["shape"])).astype(np.float32)
    return [(inputs, rng.integers(0, 10, job["batch"]))] * job["steps"]


class Clock:
    """Processor seconds between batches, of which the least is a step's."""

    def __init__(self, of: list[tuple[Tensor, Tensor]]) -> None:
        self._of, self.seconds = of, list[float]()

    def __iter__(self) -> Any:
        started = None
        for batch in self._of:
            if started is not None:
                self.seconds.append(time.process_time() - started)
            started = time.process_time()
            yield batch
        assert started is not None
        self.seconds.append(time.process_time() - started)


def weights(folder: Path) -> Params:
    with np.load(folder / "params.npz") as file:
        return {name: file[name] for name in file.files}


def natively(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    from fedprune.training import native
    from fedprune.training.lean import Lean

    params = weights(folder)
    masks = {name.removeprefix("mask/"): value for name, value in params.items() if name.startswith("mask/")}
    model = native.model(job["net"], {name: value for name, value in params.items() if "/" not in name})
    clock = Clock(batches(job))
    native.train(model, clock, SGD, masks, examples=job["batch"], lean=Lean(recompute=job["recompute"]))
    return {"seconds": min(clock.seconds[:-1])}


def of_bytes(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a device does with a training message, from its bytes to the reply's, and no library to bring them."""
    from fedprune.training import native
    from fedprune.training.lean import Lean, return_freed_memory
    from fedprune.wire.payload import Payload, from_blobs, to_blobs

    return_freed_memory()
    blobs = {path.stem: path.read_bytes() for path in folder.glob("*.blob")}
    request = from_blobs({}, blobs, lazily=True)
    model, lean = native.model(job["net"], request.tensors), Lean(recompute=job["recompute"])
    _, trained = native.train(model, batches(job), SGD, request.masks, examples=job["batch"], lean=lean)
    reply = to_blobs(Payload({}, trained), request.masks)
    said = peak_bytes()
    from fedprune.budgets import natively as budgets

    arena = budgets.training(model, request.masks, job["batch"], lean).total
    return {"peak_bytes": said, "arena_bytes": arena, "reply_bytes": len(reply["tensors"])}


def in_torch(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    import torch

    from fedprune import models, training

    training.one_thread()
    params = weights(folder)
    masks = {name.removeprefix("mask/"): value for name, value in params.items() if name.startswith("mask/")}
    model = models.build(job["model"], tuple(job["shape"]), 10)
    if len(job["shape"]) == 3:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    training.load_state(model, {name: value for name, value in params.items() if "/" not in name})
    clock = Clock(batches(job))
    training.train(model, clock, SGD, masks if job["masked"] else None)
    return {"seconds": min(clock.seconds[:-1])}


def of_a_message(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a device does with a message of Flower's, from its bytes to the reply's."""
    from flwr.app import Context, RecordDict

    from fedprune.federated.link import client
    from fedprune.federated.link.bundle import Part
    from fedprune.federated.rounds.phases import local_steps
    from fedprune.wire.payload import REFUSED

    with open(folder / "request", "rb") as file:
        part = Part(local_steps.ROUTE, "1", pickle.load(file))
    context = Context(0, 0, {"partition-id": 0}, RecordDict(), {})
    started = time.process_time()
    reply = client._reply(local_steps.device, part, context)
    assert REFUSED not in client.values_of(reply)
    return {"seconds": time.process_time() - started}


if __name__ == "__main__":
    main()
