"""Phase evaluate: devices test the global model on their test parts; the server adds up losses and hits."""

import math
from collections.abc import Sequence

from fedprune import training
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.jobs import Job, held
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases import Phase, Reply, divergence
from fedprune.models import draws
from fedprune.training.divergence import Diverged, largest
from fedprune.wire.payload import Payload, count

ROUTE = "evaluate"
_BATCH = 250


def evaluate() -> Phase[None]:
    """Test the current model, or a part of it; the state stays as it is."""
    return Phase(ROUTE, _request, device, reduce, check, {"seen": "test"})


def _request(state: State, job: Job) -> Payload:
    return Payload(job.to_values(), *held(state, job))


def device(self: Device, request: Payload) -> Payload:
    """Loss sum, hits and count over the device's test part; or, alone, that the model has diverged."""
    batch = Job.of(request.values).batch or _BATCH
    model = self.model(request.tensors)
    with draws.seeded(self.number("evaluate")):  # the same in every round, so that only the model differs
        outcome = training.evaluate(model, self.batches(self.parts.test, batch))
    if not math.isfinite(outcome.loss):
        return divergence.reply(Diverged(outcome.loss, *largest(model.state_dict())))
    return Payload({"loss": outcome.loss, "correct": outcome.correct, "seen": outcome.examples})


def reduce(state: State, replies: Sequence[Reply]) -> None:
    """Nothing: losses and hits add up for the line of metrics alone."""


def check(state: State, job: Job, payload: Payload) -> None:
    """Counts alone, no more hits than examples."""
    if payload.tensors:
        raise ValueError(f"expected counts alone, got the tensors {sorted(payload.tensors)[:3]}")
    if count(payload, "correct") > count(payload, "seen"):
        raise ValueError("more hits than examples")
