"""The floor of benchmark `simulation`: the loop one would write in torch and numpy, for one experiment alone."""

import functools
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from fedprune.data import Examples
from fedprune.data.loading import federation, load_dataset
from fedprune.experiment import Experiment, from_json, to_json
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.model import State
from fedprune.training.batches import as_input
from fedprune.types import Params

Round = Callable[[State, int], State]
"""(state, round from 1) -> the state after that round of training."""


def plain(experiment: Experiment, drive: Callable[[Round], None], *, processes: int) -> None:
    """Each device by torch's own optimiser, and numpy's average: no Flower, no messages, no checks.

    With several processes each trains a fixed share of the devices and returns one sum.
    """
    members = federation(experiment).devices
    total = sum(len(parts.train_indices) for parts in members)
    shares = [range(first, len(members), processes) for first in range(processes)]

    def one(map_shares: Callable[..., Iterable[Params]], state: State, round: int) -> State:
        sums = list(map_shares(functools.partial(_share, experiment, state.params, round), shares))
        params = {
            name: (sum(part[name] for part in sums) / total).astype(value.dtype)
            if value.dtype == np.float32
            else np.maximum.reduce([part[name] for part in sums])
            for name, value in state.params.items()
        }
        return State(round, params)

    if processes == 1:
        drive(functools.partial(one, map))
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        drive(functools.partial(one, pool.map))


def _share(experiment: Experiment, params: Params, round: int, devices: Sequence[int]) -> Params:
    """Σ n θ over some devices in float64, each trained from ``params``; counters as they are."""
    import torch
    from torch.nn import functional

    settings, sums, private = experiment.training, {}, _private(to_json(experiment))
    for device, examples in (private[index] for index in devices):
        model = device.model(params).train()
        groups = [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim <= 1]},
        ]
        optimiser = torch.optim.SGD(groups, settings.learning_rate, settings.momentum)
        for epoch in range(settings.epochs):
            for inputs, labels in device.shuffled(examples, settings.batch, "train", round, epoch):
                loss = functional.cross_entropy(model(as_input(inputs)), torch.from_numpy(labels))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        for name, value in model.state_dict().items():
            own = value.numpy()
            if own.dtype == np.float32:
                sums[name] = sums.get(name, 0) + own.astype(np.float64) * len(examples)
            else:
                sums[name] = np.maximum(sums.get(name, 0), own)
    return sums


@functools.cache
def _private(experiment: str) -> list[tuple[Device, Examples]]:
    """Every device of an experiment in JSON, and its training examples in memory."""
    given = from_json(experiment)
    schema, members = load_dataset(given.data.name).schema, federation(given).devices
    return [(Device(index, given, schema, parts), parts.train) for index, parts in enumerate(members)]
