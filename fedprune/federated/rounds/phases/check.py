"""Phase check: devices run a finished model's files on their test parts, beside torch, and say how each does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import ceil, inf
from typing import Any

import numpy as np

from fedprune import training
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases import Phase, Reply
from fedprune.federated.rounds.phases.sums import check_sums
from fedprune.models import draws
from fedprune.pruning.parts import statistics
from fedprune.tasks import CLASSIFICATION, Task, added, zeros
from fedprune.training import native
from fedprune.types import DeviceId, Params, Tensor
from fedprune.wire.payload import Payload, count, number, one_line

ROUTE = "query.check"
FILE = "file/"
"""Prefix of tensors: the bytes of a file."""
SLOW = "tflm"
"""The form whose interpreter is slow, so that it runs on some of the examples."""
_BATCH = 250
_LONGEST = 400

Told = Mapping[str, Any]
"""``examples`` of the test part, the task's sums of torch, ``forms``: of each examples, sums, agree, or why not."""


def check(files: Mapping[str, bytes], share: float, task: Task = CLASSIFICATION) -> Phase[dict[DeviceId, Told]]:
    """Run the files of a model, by form, on devices' test parts; `SLOW` on a ``share`` of the examples."""

    def request(state: State, job: Job) -> Payload:
        content = {FILE + form: np.frombuffer(file, np.uint8) for form, file in files.items()}
        # where channels are gone, so are their statistics: devices take masks of what is trained alone
        kept = {name: mask for name, mask in state.masks.items() if name not in statistics(state.params)}
        return Payload({"share": share, **job.to_values()}, {**state.params, **content}, kept)

    def checked(state: State, job: Job, payload: Payload) -> None:
        _check([*files], task, payload)

    return Phase(ROUTE, request, device, reduce, checked, {"examples": "test"})


def device(self: Device, request: Payload) -> Payload:
    """How each form does on the device's test part, as sums.

    An experiment with ``privacy.epsilon`` learns nothing, unless it has ``privacy.evaluate``.
    """
    files = {name.removeprefix(FILE): value for name, value in request.tensors.items() if name.startswith(FILE)}
    examples, privacy = self.parts.test, self.experiment.privacy
    nothing, task = {"examples": 0, **zeros(self.task), "agree": 0, "why": ""}, self.task
    found: dict[str, dict[str, Any]] = {form: {**nothing} for form in files}
    if privacy.epsilon and not privacy.evaluate:
        examples = examples.take(np.arange(0))
    few = ceil(min(1.0, number(request, "share", least=0)) * len(examples))
    slow = {*np.unique(np.linspace(0, len(examples) - 1, few).astype(np.int64)).tolist()} if few else set()
    own = {name: value for name, value in request.tensors.items() if not name.startswith(FILE)}
    batch = Job.of(request.values).batch or _BATCH
    predict, drawn = _predictor(self, request, own, batch)
    sums, at = zeros(task), 0
    with drawn:
        for inputs, labels in self.batches(examples, batch):
            wanted = predict(inputs, labels)
            sums = added(sums, task.sums(wanted, labels))
            some = np.array([row in slow for row in range(at, at + len(labels))])
            at += len(labels)
            for form, file in files.items():
                rows = some if form == SLOW else np.ones(len(labels), np.bool_)
                if rows.any() and not found[form]["why"]:
                    try:
                        given = _outputs(form, file.tobytes(), inputs[rows], wanted.shape[1:])
                    except (RuntimeError, ValueError, ImportError) as error:
                        found[form] = {**nothing, "why": one_line(str(error) or type(error).__name__)}
                        continue
                    more = {"examples": int(rows.sum()), **task.sums(given, labels[rows])}
                    more["agree"] = task.agree(given, wanted[rows])
                    found[form] |= added(more, found[form])
    return Payload({"examples": len(examples), **sums, "forms": found})


def _predictor(
    self: Device, request: Payload, params: Params, most: int
) -> tuple[Callable[[Tensor, Tensor], Tensor], AbstractContextManager[None]]:
    """(outputs of the model that was trained, of at most so many inputs with their labels, within what it is asked)."""
    if (own := self.native(request, params)) is not None:
        run = native.at_rest(own, most)
        return lambda inputs, labels: run(inputs, labels)[0], nullcontext()
    model = self.model(params)
    return lambda inputs, labels: training.predict(model, [(inputs, labels)]), draws.seeded(self.number("check"))


def _outputs(form: str, file: bytes, inputs: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What a file makes of the inputs, in torch's order of axes. RuntimeError, ValueError or ImportError, why not."""
    from fedprune.export import litert, tflm

    outputs: Tensor = tflm.run(file, inputs)[0] if form == SLOW else litert.run(file, inputs)
    if outputs.shape[1:] == shape:
        return outputs
    if outputs.size == len(inputs) * int(np.prod(shape)) and (
        outputs.ndim <= 2 or _long(outputs.shape[1:]) == _long(shape)
    ):
        return outputs.reshape(len(inputs), *shape)
    raise ValueError(f"its outputs have shape {outputs.shape[1:]}, torch's {shape}")


def _long(shape: tuple[int, ...]) -> list[int]:
    """The extents of axes that are more than one place long: files hold sequences as images of a row."""
    return [extent for extent in shape if extent != 1]


def reduce(state: State, replies: Sequence[Reply]) -> dict[DeviceId, Told]:
    """Device -> what it says."""
    return {reply.device: reply.payload.values for reply in replies}


def _check(forms: Sequence[str], task: Task, payload: Payload) -> None:
    """ValueError where a reply contradicts itself, or is none."""
    if payload.tensors:
        raise ValueError(f"expected counts alone, got the tensors {sorted(payload.tensors)[:3]}")
    examples = count(payload, "examples")
    check_sums(task, payload, examples)
    told = payload.values.get("forms")
    if (
        not isinstance(told, dict)
        or told.keys() != {*forms}
        or not all(isinstance(each, dict) for each in told.values())
    ):
        raise ValueError(f"forms is {told!r:.60}, expected {', '.join(forms)}")
    for each in told.values():
        tried = count(Payload(each), "examples", most=examples)
        check_sums(task, Payload(each), tried)
        check_sums(task._replace(names=("agree",), most=1 if task.agreement.unit == "%" else inf), Payload(each), tried)
        why = each.get("why")
        if not isinstance(why, str) or len(why) > _LONGEST or not (why.isprintable() or not why):
            raise ValueError(f"why is {why!r:.40}, expected a line of text")
