"""Phase evaluate: devices test the global model on their test parts; the server adds up losses and what judges."""

import math
from collections.abc import Sequence

from fedprune import training
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.jobs import Job, held
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases import Phase, Reply, divergence
from fedprune.federated.rounds.phases.sums import check_sums
from fedprune.models import draws
from fedprune.tasks import CLASSIFICATION, Task
from fedprune.training import Outcome
from fedprune.training.divergence import Diverged, largest
from fedprune.training.native import evaluate as evaluated
from fedprune.types import Params
from fedprune.wire.payload import Payload, count

ROUTE = "evaluate"
TEST = "test"
_BATCH = 250


def evaluate(task: Task = CLASSIFICATION, on: str = TEST) -> Phase[None]:
    """Test the current model, or a part of it, on this part of each device's data; the state stays as it is."""

    def checked(state: State, job: Job, payload: Payload) -> None:
        check(task, payload)

    return Phase(ROUTE, _request, device, reduce, checked, {"seen": on})


def _request(state: State, job: Job) -> Payload:
    return Payload(job.to_values(), *held(state, job))


def device(self: Device, request: Payload) -> Payload:
    """Sums of the loss and of what the metric is made of, and count, over the part that the experiment judges by.

    Or, alone, that the model has diverged.
    """
    batch = Job.of(request.values).batch or _BATCH
    examples = self.parts.test if self.experiment.evaluate_on == TEST else self.parts.development
    if (native := self.native(request, request.tensors)) is not None:
        outcome = evaluated(native, self.batches(examples, batch), batch, self.task)
        return _reply(outcome, request.tensors)
    model = self.model(request.tensors)
    with draws.seeded(self.number("evaluate")):  # the same in every round, so that only the model differs
        outcome = training.evaluate(model, self.batches(examples, batch), self.task)
    return _reply(outcome, request.tensors)


def _reply(outcome: Outcome, params: Params) -> Payload:
    if not math.isfinite(outcome.loss):
        return divergence.reply(Diverged(outcome.loss, *largest(params)))
    return Payload({"loss": outcome.loss, **outcome.sums, "seen": outcome.examples})


def reduce(state: State, replies: Sequence[Reply]) -> None:
    """Nothing: losses and hits add up for the line of metrics alone."""


def check(task: Task, payload: Payload) -> None:
    """Sums alone, of no more than so many examples give."""
    if payload.tensors:
        raise ValueError(f"expected counts alone, got the tensors {sorted(payload.tensors)[:3]}")
    check_sums(task, payload, count(payload, "seen"))
