"""False replies of one device, over fedprune's local grid: each is dropped with its reason, and changes nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedprune import __version__
from fedprune.counter_rng import generator
from fedprune.experiment import Experiment, load
from fedprune.federated.link.asking import Link
from fedprune.federated.link.client import client_app
from fedprune.federated.link.local_grid import LocalGrid
from fedprune.federated.link.records import from_records, to_records
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State, read
from fedprune.federated.rounds.phases.train import train
from fedprune.runs.folder import RunFolder
from fedprune.runs.pretraining import pretrain
from fedprune.runs.setting import Setting, prepare
from fedprune.types import Tensor
from fedprune.wire.payload import Payload
from simulations.benchmarks._rounds import drive
from simulations.benchmarks.soak.outcome import FAILED, HELD, Failed, Hazard, Outcome
from simulations.benchmarks.soak.stage import DIGITS

_LIAR, _DEVICES, _NODE = 2, 4, 1000
_FUZZ = 400
Change = Callable[[Message, Message], Message | None]
"""(request, honest reply) -> what arrives; None where nothing does."""


class _Changed(LocalGrid):
    """A local grid on which one device's replies to one phase are changed."""

    def __init__(self, change: Change, route: str = "train") -> None:
        super().__init__(client_app, _DEVICES)
        self.change, self.route, self.honest = change, route, dict[str, Message]()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Every reply, the liar's changed; what it computes is kept, as the same request asks for the same."""
        messages = list(messages)
        for asked, reply in zip(messages, super().send_and_receive(messages, timeout=timeout), strict=True):
            if asked.metadata.dst_node_id == _NODE + _LIAR and asked.metadata.message_type == self.route:
                if (changed := self.change(asked, reply)) is not None:
                    yield changed
            else:
                yield reply


def _payload(change: Callable[[Payload], Payload]) -> Change:
    def changed(asked: Message, reply: Message) -> Message:
        known = from_records(asked.content).masks
        return Message(to_records(change(from_records(reply.content, known))), reply_to=asked)

    return changed


def _tensor(of: Callable[[Tensor], Tensor], axes: int = 1) -> Change:
    """One tensor with so many axes, changed."""

    def change(payload: Payload) -> Payload:
        name = next(key for key, value in payload.tensors.items() if value.ndim == axes and value.dtype == np.float32)
        return payload._replace(tensors={**payload.tensors, name: of(payload.tensors[name])})

    return _payload(change)


def _values(**values: Any) -> Change:
    return _payload(lambda payload: payload._replace(values={**payload.values, **values}))


def _without(payload: Payload) -> Payload:
    return payload._replace(tensors=dict(list(payload.tensors.items())[1:]))


def _filled(value: float) -> Change:
    def fill(tensor: Tensor) -> Tensor:
        wrong = tensor.copy()
        wrong.flat[-1] = value
        return wrong

    return _tensor(fill)


def _outside(payload: Payload) -> Payload:
    name = next(key for key, value in payload.tensors.items() if value.ndim == 4 and (value == 0).mean() > 0.5)
    value = payload.tensors[name]
    return payload._replace(tensors={**payload.tensors, name: np.where(value == 0, np.float32(9), value)})


def _own_masks(payload: Payload) -> Payload:
    name = next(key for key, value in payload.tensors.items() if value.ndim == 4)
    return payload._replace(masks={name: np.ones(payload.tensors[name].shape, np.bool_)})


def _raw(reply: Message, tensors: bytes, to: Message) -> Message:
    array = Array(dtype="uint8", shape=(len(tensors),), stype="fedprune.wire", data=tensors)
    records = RecordDict({**reply.content.array_records, **reply.content.config_records})
    records["fedprune.tensors"] = ArrayRecord({"tensors": array})
    return Message(records, reply_to=to)


def _encoded(reply: Message) -> bytes:
    return bytes(reply.content.array_records["fedprune.tensors"]["tensors"].data)


def _nested(asked: Message, reply: Message) -> Message:
    text = b'{"a":' + b"[" * 20000 + b"]" * 20000 + b"}"
    return Message(RecordDict({"fedprune.tensors": ArrayRecord(), "fedprune.values": ConfigRecord({"json": text})}),
                   reply_to=asked)  # fmt: skip


LIES: Mapping[str, tuple[Change, str]] = {
    "NaN": (_filled(np.nan), "not finite"),
    "infinity": (_filled(np.inf), "not finite"),
    "minus infinity": (_filled(-np.inf), "not finite"),
    "a shape that broadcasts": (_tensor(lambda a: a[:1]), "expected float32"),
    "a scalar for a matrix": (_tensor(lambda a: np.float32(1).reshape(()), 2), "expected float32"),
    "bools for floats": (_tensor(lambda a: a > 0), "is bool"),
    "doubles": (_tensor(lambda a: a.astype(np.float64)), "is float64"),
    "a name too many": (
        _payload(lambda p: p._replace(tensors={**p.tensors, "more": np.ones(3, np.float32)})), "these differ",
    ),
    "a name too few": (_payload(_without), "these differ"),
    "a mask outside the plan": (_payload(_own_masks), "expected no masks"),
    "weights outside the plan": (_payload(_outside), "outside the device's part"),
    "a negative count": (_values(examples=-5), "examples is -5"),
    "a count beyond its data": (_values(examples=10**9), "but the device said"),
    "another version": (_values(of="0.0.0 00000000"), "runs fedprune 0.0.0"),
    "another request's answer": (_values(of=f"{__version__} 00000000"), "a reply to another request"),
    "another device's name": (_values(device=1), "now says that it is device 1"),
    "an oversized message": (_values(note="x" * 10**7), "bytes, expected"),
    "values nested without end": (_nested, "not a fedprune message"),
    "random bytes": (lambda asked, reply: _raw(reply, generator(0, "noise").bytes(5000), asked), ""),
    "half a message": (lambda asked, reply: _raw(reply, _encoded(reply)[: len(_encoded(reply)) // 2], asked), ""),
}  # fmt: skip
"""What arrives, and a part of the reason that must be given."""


def experiment(retries: int = 0) -> Experiment:
    """The digits over four devices, with a phase grow."""
    settings = ["rounds=1", f"data.devices={_DEVICES}", "data.examples=400", "pretraining.epochs=1", "method.pool=1",
                "method.period=1", f"retries={retries}", "training.epochs=1"]  # fmt: skip
    if retries:
        settings.append("least_replies=1.0")
    return load(Path(DIGITS), settings)


@functools.cache
def _setting(retries: int = 0) -> tuple[Setting, State]:
    setting = prepare(experiment(retries), DIGITS)
    return setting, pretrain(setting)


def run(path: Path, change: Change, route: str = "train", retries: int = 0) -> tuple[State, list[dict[str, Any]]]:
    """(last state, metrics) of a whole run."""
    setting, first = _setting(retries)
    folder = RunFolder(path)
    folder.begin(setting.experiment)
    with _Changed(change, route) as grid:
        drive(grid, setting, folder, first)
    return read(folder.checkpoint), folder.rows()


def same(one: State, other: State) -> bool:
    """Whether both hold the same weights, bit for bit."""
    return one.params.keys() == other.params.keys() and all(
        one.params[name].tobytes() == other.params[name].tobytes() for name in one.params
    )


def _verdict(wrong: list[str], asked: int, seen: str) -> Outcome:
    happened = f"{asked} runs went on to their end without that reply" if asked else ""
    if wrong:
        return Outcome(happened, f"{len(wrong)} of {asked}: {'; '.join(wrong[:3])}", seen, FAILED)
    return Outcome(happened, "that device's word in that phase alone", seen, HELD)


def lies(folder: Path, few: int | None = None) -> Outcome:
    """Every lie, or a few, in a run of its own, against a run in which that device does not answer."""
    silent, _ = run(folder / "silent", lambda asked, reply: None)
    honest, _ = run(folder / "honest", lambda asked, reply: reply)
    if same(silent, honest):
        raise Failed("the device makes no difference, so that nothing is shown")
    wrong, seen = [], ""
    told_apart = dict(list(LIES.items())[:few])
    for index, (name, (change, reason)) in enumerate(told_apart.items()):
        state, rows = run(folder / str(index), change)
        told = [(row["phase"], why) for row in rows for why in row.get("faults", {}).values()]
        if not same(state, silent):
            wrong.append(f"{name}: another model")
        elif [phase for phase, _ in told] != ["train"] or reason not in told[0][1]:
            wrong.append(f"{name}: said {told}")
        seen = seen or f"in the metrics, for each: e.g. {told[0][1] if told else told}"
    return _verdict(wrong, len(told_apart), seen)


def replayed(folder: Path) -> Outcome:
    """A device answers every later phase with its first reply to it."""
    _, first = _setting()
    longer = load(Path(DIGITS), ["rounds=2", f"data.devices={_DEVICES}", "data.examples=400", "pretraining.epochs=1",
                                 "method.pool=1", "retries=0", "training.epochs=1"])  # fmt: skip
    kept: list[Message] = []

    def replay(asked: Message, reply: Message) -> Message:
        kept.append(reply)
        return Message(kept[0].content, reply_to=asked)

    def silent(asked: Message, reply: Message) -> Message | None:
        return reply if asked.metadata.group_id == "1" else None

    states, told = [], ""
    for name, change in (("replay", replay), ("silent", silent)):
        kept_in = RunFolder(folder / name)
        kept_in.begin(longer)
        with _Changed(change) as grid:
            drive(grid, prepare(longer, DIGITS), kept_in, first)
        states.append(read(kept_in.checkpoint))
        said = {(row["round"], row["phase"]): row.get("faults", {}) for row in kept_in.rows()}
        told = told or "; ".join(said[2, "train"].values())
    wrong = [] if same(*states) else ["another model"]
    return _verdict(wrong if "another request" in told else [*wrong, f"said {told}"], 1, told)


def fuzz(folder: Path, messages: int = _FUZZ) -> Outcome:
    """Hundreds of damaged encodings of a good reply: cut, with bytes changed, with noise in the middle."""
    setting, state = _setting()
    rng = generator(0, "fuzz")
    reasons: dict[str, int] = {}
    accepted = stumbled = 0
    good: list[Message] = []
    state = State(0, state.params)
    damaged: list[bytes] = []

    def change(asked: Message, reply: Message) -> Message:
        good[:] = good or [reply]
        return _raw(good[0], damaged[-1], asked) if damaged else reply

    with _Changed(change) as grid:
        grid.send_and_receive = functools.partial(_answered, grid, good, change)  # type: ignore[method-assign]
        link = Link(grid, setting.experiment)
        fleet = link.meet(_DEVICES, state)
        phase = train(setting.experiment, 1, setting.method)
        link.ask(phase, state, fleet, {_LIAR: Job()}, 1, 0.0)
        whole = _encoded(good[0])
        for number in range(messages):
            damaged.append(_damage(whole, number, rng))
            step = link.ask(phase, state, fleet, {_LIAR: Job()}, 1, 0.0)
            for why in step.row["faults"].values():
                stumbled += "damaged reply:" in why
                reasons[why.partition(":")[0][:40]] = reasons.get(why.partition(":")[0][:40], 0) + 1
            accepted += not step.row["faults"]
            if not all(np.isfinite(value).all() for value in (step.answer or state).params.values()):
                raise Failed(f"message {number} of the fuzz brought a value that is not finite into the model")
            if number % 4 == 0 and not step.row["faults"]:
                raise Failed(f"a message cut short at {len(damaged[-1])} of {len(whole)} bytes was accepted")
    most = sorted(reasons, key=lambda why: -reasons[why])[:3]
    lost = f"nothing; {accepted} were good messages still, with other finite weights" if accepted else "nothing"
    seen = f"a reason for each of {messages - accepted}, such as {'; '.join(most)}" + f"; {stumbled} stumbled" * bool(
        stumbled
    )
    return Outcome(f"{messages} damaged messages were judged", lost, seen, HELD)


def _answered(
    grid: _Changed, good: list[Message], change: Change, messages: Iterable[Message], *, timeout: float | None = None
) -> Iterator[Message]:
    """Replies as before, but the liar computes its good one once."""
    for asked in messages:
        if good and asked.metadata.message_type == "train":
            asked.metadata.__dict__["_message_id"] = "again"
            yield change(asked, good[0])  # type: ignore[misc]
        else:
            yield from _Changed.send_and_receive(grid, [asked], timeout=timeout)


def _damage(whole: bytes, number: int, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(len(whole)))
    if number % 4 == 0:
        return whole[:at]
    if number % 4 == 1:  # where names, shapes and codes are
        at = int(rng.integers(min(200, len(whole))))
    noise = rng.bytes(1 if number % 4 < 3 else 64)
    return whole[:at] + noise + whole[at + len(noise) :]


HAZARDS = {
    "false_replies": Hazard(f"{len(LIES)} kinds of false replies", lies, 240, functools.partial(lies, few=4)),
    "replayed_reply": Hazard("a device repeats an earlier reply", replayed, 180, replayed),
    "fuzzed_replies": Hazard(f"{_FUZZ} damaged messages", fuzz, 240, functools.partial(fuzz, messages=60)),
}
