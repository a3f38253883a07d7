"""Phase train: devices train the sparse model locally, the server averages what they own."""

from collections.abc import Sequence

import numpy as np

from fedprune import masks, training
from fedprune.aggregation import Share, coverage_mean
from fedprune.experiment import Experiment
from fedprune.federated.device import Device
from fedprune.federated.payload import Payload, number
from fedprune.federated.phases import Phase, Reply
from fedprune.federated.state import State
from fedprune.schedules import cosine
from fedprune.training import Optimiser
from fedprune.types import Params

ROUTE = "train"


def train(experiment: Experiment, round: int) -> Phase:
    """Local masked SGD in ``round``, at the round's learning rate."""

    def request(state: State) -> Payload:
        return Payload({"round": round, "learning_rate": learning_rate(experiment, round)}, state.params, state.masks)

    return Phase(ROUTE, request, device, reduce, check)


def device(self: Device, request: Payload) -> Payload:
    """Train the epochs asked for; returns all parameters and buffers, and sums over the examples trained on."""
    settings, round = self.experiment.training, int(request.values["round"])
    model = self.model(request.tensors)
    optimiser = Optimiser(float(request.values["learning_rate"]), settings.momentum, settings.weight_decay)
    examples = self.parts.train
    batches = (
        batch
        for epoch in range(settings.epochs)
        for batch in self.shuffled(examples, settings.batch, "train", round, epoch)
    )
    outcome = training.train(model, batches, optimiser, request.masks)
    values = {"examples": len(examples), "loss": outcome.loss, "correct": outcome.correct, "seen": outcome.examples}
    return Payload(values, training.state_of(model))


def reduce(state: State, replies: Sequence[Reply]) -> State:
    """FedAvg over whoever owns a position, weighted by training examples (McMahan et al., 2017, alg. 1)."""
    shares = [Share(r.payload.tensors, state.masks, number(r.payload, "examples")) for r in replies]
    params = coverage_mean(state.params, shares)
    return State(state.round, masks.apply(params, state.masks), state.masks, state.memory)


def check(state: State, payload: Payload) -> None:
    """A reply's numbers are plausible, its tensors are the model's and finite."""
    number(payload, "examples", least=1)
    like(state.params, payload.tensors)


def like(expected: Params, given: Params) -> None:
    """ValueError where ``given`` has not exactly the names, shapes and types of ``expected``, or is not finite."""
    if given.keys() != expected.keys():
        raise ValueError(
            f"expected the tensors of the model; these differ: {sorted(given.keys() ^ expected.keys())[:3]}"
        )
    for name, value in given.items():
        if value.shape != expected[name].shape or value.dtype != expected[name].dtype:
            raise ValueError(
                f"{name} is {value.dtype}{value.shape}, expected {expected[name].dtype}{expected[name].shape}"
            )
        if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
            raise ValueError(f"{name} holds a value that is not finite")


def learning_rate(experiment: Experiment, round: int) -> float:
    """A cosine from the first round's learning rate to the last's; rounds count from 1."""
    first, last = experiment.training.learning_rate, experiment.training.final_learning_rate
    if last is None or experiment.rounds == 1:
        return first
    return cosine(first, last, end=experiment.rounds - 1)(round - 1)
