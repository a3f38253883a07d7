"""What crosses the link: the wire's bytes, mask codes, payloads, what a device is asked, what a server is answered."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import msgspec
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedprune import experiment as _experiment
from fedprune import wire
from fedprune.counter_rng import uniforms
from fedprune.data import agreement
from fedprune.data.agreement import is_agreed
from fedprune.data.loading import known_of
from fedprune.experiment import Privacy
from fedprune.federated.link import bundle
from fedprune.federated.link.checks import Asked, asked, checked
from fedprune.federated.link.client import client_app
from fedprune.federated.link.local_grid import LocalGrid
from fedprune.federated.link.records import from_records, size, stamp, to_records
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases import Reply, agree, check
from fedprune.pruning import patterns
from fedprune.runs import forms
from fedprune.types import Masks, Params
from fedprune.wire.payload import Payload
from simulations.benchmarks.fuzzing import honest
from simulations.benchmarks.fuzzing.mutate import SEPARATOR
from simulations.benchmarks.fuzzing.target import Target

_LIMIT = 2**20
_TENSORS, _VALUES = "fedprune.tensors", "fedprune.values"
_CLEAN = ("ValueError", "WireError", "ExperimentError", "ModelError", "DataError")


def _known() -> Masks:
    return {"conv": uniforms(0, "known", (8, 4, 3, 3)) < 0.2}


def _tensors() -> Params:
    kept, noise = _known()["conv"], uniforms(1, "values", (8, 4, 3, 3)).astype(np.float32)
    long = uniforms(2, "long", 20_000)
    return {
        "conv": np.where(kept, noise, np.float32(0)),
        "bias": noise[0, 0, 0],
        "steps": np.asarray(7, np.int64),
        "coded": long < 0.12,
        "sparse": np.where(long < 0.03, long, 0).astype(np.float16),
        "bytes": np.frombuffer(b"a file of bytes" * 20, np.uint8),
        "drawn": wire.seed_mask(3, "drawn", (900,), 300),
        "patterned": patterns.n_of_m(uniforms(4, "patterned", (12, 20, 3, 3)), 1, 8),
    }


def _wire_seeds() -> Sequence[bytes]:
    tensors, seeds = _tensors(), {"drawn": (3, "drawn")}
    return [
        wire.encode(tensors, _known(), seeds),
        wire.encode({key: tensors[key] for key in ("conv", "bias", "steps")}),
        wire.encode({"coded": tensors["coded"], "drawn": tensors["drawn"]}, seeds=seeds),
        wire.encode({}),
    ]


def _wire(data: bytes) -> None:
    wire.decode(data, _known(), _LIMIT)


def _mask_seeds() -> Sequence[bytes]:
    found = []
    for count in (0, 9, 300, 20_000):
        for density in (0, 0.002, 0.12, 0.38, 0.5, 0.88, 1):
            found.append(str(count).encode() + SEPARATOR + wire.encode_mask(uniforms(0, "m", count) < density))
    return [*found, b"900" + SEPARATOR + wire.encode_mask(_tensors()["drawn"], (3, "drawn"))]


def _masks(data: bytes) -> None:
    count, _, code = data.partition(SEPARATOR)
    shape = int(count) if count.isdigit() and len(count) < 20 else 300
    wire.decode_mask(code, (shape,), _LIMIT)


def _records(values: bytes, masks: bytes, tensors: bytes) -> RecordDict:
    arrays = {
        name: Array(dtype="uint8", shape=(len(data),), stype="fedprune.wire", data=data)
        for name, data in (("masks", masks), ("tensors", tensors))
        if data
    }
    return RecordDict({_TENSORS: ArrayRecord(arrays), _VALUES: ConfigRecord({"json": values})})


def _parts(records: RecordDict) -> list[bytes]:
    arrays, values = records.array_records[_TENSORS], records.config_records[_VALUES]["json"]
    assert isinstance(values, bytes)
    return [values, *(bytes(arrays[name].data) if name in arrays else b"" for name in ("masks", "tensors"))]


def _in_three(data: Sequence[bytes]) -> RecordDict:
    return _records(*[*data, b"", b"", b""][:3])


def _twisted(records: RecordDict, known: Masks) -> Iterator[RecordDict]:
    """A message whose bytes are right, but whose tensors or masks are not those of its phase."""
    given = from_records(records, known)
    for name in [name for name in given.tensors if "/mask/" not in name][:3]:
        value, others = given.tensors[name], {key: each for key, each in given.tensors.items() if key != name}
        wrong = [
            value[: len(value) // 2] if value.ndim else value.reshape(1),
            value[:0] if value.ndim else value,
            np.concatenate([value, value]) if value.ndim else value,
            value.reshape(-1),
            value[..., None],
            value.astype(np.float64),
            value > 0,
            np.full_like(value, np.nan) if value.dtype.kind == "f" else ~value,
        ]
        kept = {key: mask for key, mask in given.masks.items() if key != name}
        for tensors in ({**others, name: each} for each in wrong):
            yield to_records(Payload(given.values, tensors, kept), {k: v for k, v in known.items() if k != name})
        yield to_records(Payload(given.values, others, kept), known)
        yield to_records(Payload(given.values, {**others, "more": value, f"0/{name}": value}, kept), known)
    for name, mask in list(given.masks.items())[:1]:
        for masks in ({**given.masks, name: ~mask}, {**given.masks, name: mask[:1]}, {**given.masks, "more": mask}):
            values = {key: np.zeros_like(value) for key, value in given.tensors.items()}
            with suppress(wire.WireError):
                yield to_records(Payload(given.values, values, masks))


def _payload_seeds() -> Sequence[bytes]:
    return [SEPARATOR.join(_parts(each.request)) for each in honest.exchanged().values()]


def _payloads(data: bytes) -> None:
    records = _in_three(data.split(SEPARATOR))
    size(records)
    stamp(records, "train", "1")
    from_records(records, max_bytes=_LIMIT)


@functools.cache
def _private() -> str:
    made = honest.setting().experiment
    return _experiment.to_json(msgspec.structs.replace(made, privacy=Privacy(epsilon=0.5)))


@functools.cache
def _texts() -> tuple[str, ...]:
    return _experiment.to_json(honest.setting().experiment), _private(), _experiment.to_json(honest.own())


def _request_seeds() -> Sequence[bytes]:
    """Each message's ``route round`` and content; of a bundle, those of its parts after its own route."""
    every = honest.exchanged()
    plain = [[f"{each.phase.route} 1".encode(), *_parts(each.request)] for each in every.values()]
    noised = []
    for name in ("train", "evaluate"):
        values, *rest = _parts(every[name].request)
        changed = msgspec.json.decode(values) | {"experiment": _private()}
        noised.append([f"{every[name].phase.route} 1".encode(), msgspec.json.encode(changed), *rest])
    several = [[b"query.several 1|" + b"|".join(each[0] for each in two), *two[0][1:], *two[1][1:]]
               for two in ((plain[1], plain[4]), noised)]  # fmt: skip
    twisted = [[f"{each.phase.route} 1".encode(), *_parts(wrong)]
               for each in every.values() for wrong in _twisted(each.request, {})]  # fmt: skip
    # the honest ones often enough, so that one change in them is tried most
    return [SEPARATOR.join(each) for each in (*(10 * [*plain, *noised, *several]), *twisted)]


@functools.cache
def _app() -> object:
    LocalGrid(client_app, 1)  # so that messages can be made in this process
    return client_app()


class Foreign(Exception):
    """A part of a bundle failed with an error that is no clean refusal."""


def _requests(data: bytes) -> None:
    head, *rest = data.split(SEPARATOR)
    words = head.decode(errors="replace").split("|")
    route, _, group = words[0].partition(" ")
    records = [_in_three(rest[at : at + 3]) for at in range(0, max(1, len(rest)), 3)]
    if any(_other_work(each) for each in records):
        return
    content = records[0]
    if len(words) > 1:
        names = [word.partition(" ") for word in words[1:]]
        content = bundle.pack(bundle.Part(a, b, each) for (a, _, b), each in zip(names, records, strict=False))
    message = Message(content, dst_node_id=1, message_type=route, group_id=group)
    reply = _app()(message, honest.context())  # type: ignore[operator]
    for part in bundle.unpack(reply.content) if route == bundle.ROUTE else ():
        why = bundle.why_failed(part.records)
        if why is not None and not why.startswith(_CLEAN):
            raise Foreign(why)


def _other_work(records: RecordDict) -> bool:
    """Whether a message's experiment is a good one still, but another: who may say so may ask for years of work."""
    with suppress(Exception):
        text = msgspec.json.decode(records.config_records[_VALUES]["json"]).get("experiment")  # type: ignore[arg-type]
        if text is not None and text not in _texts():
            _experiment.from_json(str(text))
            return True
    return False


@functools.cache
def _asked() -> Mapping[str, Asked]:
    return {name: asked(each.phase, each.state, each.job, 1, from_records(each.request), each.request)
            for name, each in honest.exchanged().items()}  # fmt: skip


def _reply_seeds() -> Sequence[bytes]:
    every = honest.exchanged().items()
    plain = [[name.encode(), *_parts(each.reply)] for name, each in every]
    twisted = [[name.encode(), *_parts(wrong)]
               for name, each in every for wrong in _twisted(each.reply, from_records(each.request).masks)]  # fmt: skip
    return [SEPARATOR.join(each) for each in (*(8 * plain), *twisted)]


def _replies(data: bytes) -> None:
    name, *rest = data.split(SEPARATOR)
    judged = _asked().get(name.decode(errors="replace")) or _asked()["train"]
    one = honest.exchanged()[next(key for key, value in _asked().items() if value is judged)]
    if one.phase.route == agree.ROUTE:
        _agreements(one, judged, rest)
        return
    holds = {"train": 30, "development": 5, "test": 10}
    _, payload = checked(_in_three(rest), judged, honest.DEVICE, holds)
    if "refused" in payload.values:
        return
    _, good = checked(one.reply, judged, honest.DEVICE, holds)
    after = one.phase.reduce(one.state, [Reply(0, good, one.job), Reply(1, payload, one.job)])
    if one.phase.route == check.ROUTE:
        outcome = forms.checked(after, None)
        by_form = (each["agreement"] for each in outcome.forms.values())
        shares = [outcome.accuracy, *outcome.by_device.values(), *by_form]
        if not all(share is None or 0 <= share <= 1 for share in shares):
            raise Foreign(f"shares of examples are {shares}")
        return
    found = {**after.params, **after.notes} if isinstance(after, State) else (after or {})
    for key, value in found.items():
        if not np.isfinite(value).all():
            raise Foreign(f"{key} is no longer finite")


def _agreements(one: honest.Exchanged, judged: Asked, rest: Sequence[bytes]) -> None:
    """What a server makes of a device's word on its data, beside another's."""
    says, payload = checked(_in_three(rest), judged)
    _, good = checked(one.reply, judged)
    if "refused" in payload.values or says is None:
        return
    told = one.phase.reduce(one.state, [Reply("attic", good, one.job), Reply(says, payload, one.job)])
    agreed = agreement.agree(honest.own().data, told)
    known = known_of(agreed)
    constants = known.schema.mean, known.schema.std
    if not is_agreed(agreed.settings) or not all(np.isfinite(each).all() for each in constants):
        raise Foreign("no agreement, or one by numbers that are not finite")
    for notice in agreed.notices:
        if not notice.isprintable():
            raise Foreign(f"a notice that is no line: {notice!r:.60}")


TARGETS = {
    "wire": Target(_wire_seeds, _wire, (wire.WireError,)),
    "masks": Target(_mask_seeds, _masks, (wire.WireError,)),
    "payloads": Target(_payload_seeds, _payloads, (ValueError,)),
    "requests": Target(_request_seeds, _requests, (ValueError,)),
    "replies": Target(_reply_seeds, _replies, (ValueError,)),
}
