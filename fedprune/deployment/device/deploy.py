"""Phase deploy: devices get a model of a run that has ended, try it, and use it from then on if it is no worse."""

import functools
import os
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from fedprune.deployment.device import models as shelf
from fedprune.deployment.device import trial
from fedprune.deployment.device.models import Card
from fedprune.deployment.device.trial import Trial, TrialError
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases import Phase, Reply
from fedprune.federated.rounds.phases.sums import check_sums
from fedprune.tasks import ACCURACY, CLASSIFICATION, Task, entry, zeros
from fedprune.types import DeviceId
from fedprune.wire.payload import Payload, count, number, one_line

ROUTE = "query.deploy"
MODELS_DIR = "FEDPRUNE_MODELS_DIR"
"""Environment variable naming a device's folder of models; ~/.fedprune/models where there is none."""
MODEL = "model"
_BATCH = 250
_LONGEST = 400  # letters of a reason


_Line = Annotated[str, Meta(max_length=_LONGEST)]


class _Asked(msgspec.Struct):
    sha256: _Line
    run: _Line
    tier: _Line


def deploy(files: Mapping[str, bytes], run: str, task: Task = CLASSIFICATION) -> Phase[dict[DeviceId, dict[str, Any]]]:
    """Bring devices the .tflite file of their job's part, which is a tier's name here; ``run`` is where it is from.

    It comes to what each of them says of it, see `reduce`.
    """

    def request(state: State, job: Job) -> Payload:
        content = files[job.part]
        values = {"sha256": shelf.name(content), "run": run, "tier": job.part}
        return Payload(values, {MODEL: np.frombuffer(content, np.uint8)})

    def check(state: State, job: Job, payload: Payload) -> None:
        _check(task, payload, shelf.name(files[job.part]))

    return Phase(ROUTE, request, device, functools.partial(reduce, task=task), check, {"seen": "test"})


def device(self: Device, request: Payload) -> Payload:
    """Keep the model, try it and the one in use on the test part, and take it into use unless it is worse.

    An experiment with ``privacy.epsilon`` learns whether it was, but no counts, unless it has ``privacy.evaluate``.
    """
    if request.tensors.keys() != {MODEL}:
        raise ValueError(f"a model is brought with other tensors than {MODEL}: {sorted(request.tensors)[:3]}")
    try:
        asked = msgspec.convert(request.values, _Asked)
    except msgspec.ValidationError as error:
        raise ValueError(f"not a request of {ROUTE}: {error}") from error
    content, stated = request.tensors[MODEL].tobytes(), asked.sha256
    folder = _folder()
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link; models are kept in a folder of the device's own alone: remove the link")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = shelf.in_use(folder)
    if shelf.name(content) != stated:
        wrong = f"what came is not what was sent: its SHA-256 is not {stated:.16}…"
        return _reply(self, None, None, before, wrong, used=bool(before and before.sha256 == stated))
    file = shelf.put(folder, content)
    same = before is not None and before.sha256 == stated
    examples = self.parts.test
    with tempfile.TemporaryDirectory() as name:
        trial.lay_out(Path(name), self.experiment, self.schema, len(examples), self.batches(examples, _BATCH))
        new, why = _tried(file, Path(name))
        old, why_old = new if same else None, ""
        if new and before and not same:  # where the new one does not run, nothing is to be compared
            old, why_old = _tried(folder / shelf.CURRENT, Path(name))
    task = self.task
    value, earlier = (each and _value(task, each.sums, each.seen) for each in (new, old))
    worse = value is not None and earlier is not None and task.metric.better(earlier, value)
    if new is None:
        reason = f"already in use, but now {why}" if same else why
    elif same:
        reason = "already in use"
    elif worse:
        reason = "gets less right than the one in use" if task.classes else f"its {task.metric.name} is worse"
    elif not new.seen:
        reason = "no test examples here: taken into use without a test"
    else:
        reason = f"the one before could not be tested: {why_old}" if why_old else ""
    if new is not None and not worse:
        previous = before.sha256 if before else None
        card = Card(
            stated, asked.run, asked.tier, time=datetime.now(UTC).isoformat(timespec="seconds"),
            previous=before.previous if same and before else previous,
        )  # fmt: skip
        if task.metric == ACCURACY:
            card = msgspec.structs.replace(card, accuracy=value)
        else:
            card = msgspec.structs.replace(card, metric=task.metric, value=value)
        shelf.take(folder, card)
    shelf.tidy(folder)
    used = same or (new is not None and not worse)
    return _reply(self, new, old, shelf.in_use(folder), reason, used=used)


def reduce(state: State, replies: Sequence[Reply], task: Task = CLASSIFICATION) -> dict[DeviceId, dict[str, Any]]:
    """Device -> what it said of the model that it got.

    ``used``, ``reason``; ``accuracy`` and ``accuracy_before`` on its test part, of the new model and of the one that
    was in use, or what `tasks.entry` has of another metric; ``latency_ms`` (median, 90 %); ``memory_bytes``, see
    `trial.Trial`; and ``in_use``, which model is: its sha256, run and accuracy. None stands for what could not be found
    out.
    """
    return {reply.device: _told(task, reply.payload.values) for reply in replies}


def _told(task: Task, values: Mapping[str, Any]) -> dict[str, Any]:
    seen, now = values["seen"], values["in_use"]
    value = _value(task, values, seen)
    before = _value(task, {name: values[BEFORE + name] for name in task.names}, seen)
    latency = values["latency_ms"]
    return {
        "used": values["used"],
        "reason": values["reason"],
        **_NO_ACCURACY,
        **entry(task.metric, value=value, before=before),
        "latency_ms": None if latency is None else {"median": latency[0], "p90": latency[1]},
        "memory_bytes": values["peak_bytes"],
        "in_use": now and {**now, "accuracy": None, **entry(task.metric, value=value if values["used"] else before)},
    }


BEFORE = "before_"
_NO_ACCURACY = {"accuracy": None, "accuracy_before": None}  # where another metric is told


def _tried(file: Path, examples: Path) -> tuple[Trial | None, str]:
    try:
        return trial.attempt(file, examples), ""
    except TrialError as error:
        return None, str(error)


def _reply(self: Device, new: Trial | None, old: Trial | None, now: Card | None, reason: str, *, used: bool) -> Payload:
    privacy = self.experiment.privacy
    counted = new if privacy.evaluate or not privacy.epsilon else None
    values = {
        "device": self.who,
        "seen": counted.seen if counted else 0,
        **(counted.sums if counted else zeros(self.task)),
        **{BEFORE + name: old.sums[name] if counted and old else None for name in self.task.names},
        "latency_ms": [new.median_ms, new.p90_ms] if new else None,
        "peak_bytes": new.memory_bytes if new else None,  # memory_bytes is what the whole process may use
        "used": used,
        "reason": one_line(reason) if reason else "",
        "in_use": {"sha256": now.sha256, "run": now.run} if now else None,
    }
    return Payload(values)


def _check(task: Task, payload: Payload, sha256: str) -> None:
    """ValueError where a reply contradicts itself, or is none."""
    if payload.tensors:
        raise ValueError(f"expected counts alone, got the tensors {sorted(payload.tensors)[:3]}")
    values = payload.values
    seen, earlier = count(payload, "seen"), tuple(BEFORE + name for name in task.names)
    check_sums(task, payload, seen)
    if any(values.get(name) is not None for name in earlier):
        check_sums(task._replace(names=earlier), payload, seen)
    if values.get("peak_bytes") is not None:
        count(payload, "peak_bytes")
    latency = values.get("latency_ms")
    if latency is not None:
        if not isinstance(latency, list) or len(latency) != 2:
            raise ValueError(f"latency_ms is {latency!r:.40}, expected the median and that of nine in ten")
        for each in latency:
            number(Payload({"latency_ms": each}), "latency_ms", least=0)
    reason = values.get("reason")
    if not isinstance(reason, str) or len(reason) > _LONGEST or not (reason.isprintable() or not reason):
        raise ValueError(f"reason is {reason!r:.40}, expected a line of text")
    now = values.get("in_use")
    if now is not None and not (
        isinstance(now, dict)
        and now.keys() == {"sha256", "run"}
        and all(isinstance(each, str) and len(each) <= _LONGEST and each.isprintable() for each in now.values())
    ):
        raise ValueError(f"in_use is {now!r:.40}, expected a sha256 and a run")
    if values.get("used") is not (now is not None and now["sha256"] == sha256):
        raise ValueError(f"used is {values.get('used')!r:.20}, but in use is {now!r:.100}")


def _value(task: Task, sums: Mapping[str, Any], seen: int) -> float | None:
    """The metric; None where there is no example, or a sum is not finite."""
    if not seen or any(sums[name] is None for name in task.names):
        return None
    return task.value({**{name: sums[name] for name in task.names}, "seen": seen})


def _folder() -> Path:
    return Path(os.environ.get(MODELS_DIR) or Path.home() / ".fedprune" / "models")
