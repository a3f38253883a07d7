"""Phase train: devices train the part that is theirs, the server averages every position over its owners."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedprune import measures, tasks
from fedprune.aggregation import Share, clipped, coverage_mean, coverage_median, coverage_trimmed
from fedprune.experiment import Experiment, Training
from fedprune.federated.rounds.jobs import Job, held, restored
from fedprune.federated.rounds.model import State, without_own
from fedprune.federated.rounds.phases import Phase, Reply
from fedprune.federated.rounds.phases.learning_rates import learning_rate
from fedprune.federated.rounds.phases.local_steps import (
    INNER,
    LOCAL,
    OWN,
    REPORT,
    ROUTE,
    device,
    everything,
    own_tensors,
)
from fedprune.federated.rounds.phases.server_step import owned_by_any, stepped
from fedprune.federated.rounds.phases.sums import check_sums
from fedprune.graph import width
from fedprune.pruning import masks
from fedprune.pruning.parts import statistics
from fedprune.tasks import CLASSIFICATION, Task
from fedprune.types import Ask, Local, Method, Model, Params, Tensor, Trained
from fedprune.wire.payload import Payload, count, number

__all__ = ["ROUTE", "check", "learning_rate", "like", "train"]

Aggregate = Callable[[Params, Sequence[Share]], Params]
"""(the server's values, what devices bring) -> joined values."""


def train(
    experiment: Experiment, round: int, method: Method, locals: Mapping[str, Local] | None = None
) -> Phase[State]:
    """A method's local steps in ``round``, at the round's learning rate; parts may have ``locals`` of their own."""

    def local(job: Job) -> Local:
        return (locals or {}).get(job.part, method.local)

    def request(state: State, job: Job) -> Payload:
        params, kept = held(state, job)
        values = {"round": round, "learning_rate": learning_rate(experiment, round), **job.to_values()}
        if (own := local(job)) != Local():
            values[LOCAL] = True
        read = {OWN + name: state.memory[name] for name in (*own.reads, *own.trains)}
        return Payload(values, {**params, **_inner(state, job), **read}, kept)

    def reduce(state: State, replies: Sequence[Reply]) -> State:
        replies = [_weighed(reply, experiment.training.most_examples) for reply in replies]
        full = [Share(_in_full(state, r), state.masks_of(r.job.part), _examples(r)) for r in replies]
        shares = _clipped(state, full, experiment.training.clip_norm)
        joined = _averaged(state, replies, shares, _aggregate(experiment.training))
        joined = _stepped(experiment.training, state, joined, shares)
        trained = {
            reply.device: Trained(
                share.params, share.masks, share.weight, _own(reply.payload), _reports(reply.payload, local(reply.job))
            )
            for reply, share in zip(replies, shares, strict=True)
        }
        model = method.join(joined.model(), trained)
        # a method may have put back what is pruned
        return joined.of(model._replace(params=masks.apply(model.params, model.masks)))

    def checked(state: State, job: Job, payload: Payload) -> None:
        check(functools.partial(_passes, experiment), local(job), state, job, payload, tasks.named(experiment.task))

    def more(state: State, job: Job) -> int:
        if local(job) == Local():
            return 0
        params, kept = held(state, job)
        own, model = local(job), Model(params, kept)
        sent = (own.sends or everything)(params, {name: state.memory[name] for name in own.trains})
        reports = sum(measures.find(ask.kind).answers(ask.args, model) for ask in own.reports.values())
        return reports + sum(value.nbytes for name, value in sent.items() if name not in params)

    reported = {f"{name}/examples": _part(ask) for name, ask in method.local.reports.items()}
    return Phase(ROUTE, request, device, reduce, checked, {"examples": "train", **reported}, "examples", more=more)


def _part(ask: Ask) -> str:
    return measures.part_of(measures.find(ask.kind), ask.args)


def _inner(state: State, job: Job) -> Params:
    """Each smaller part's masks, on the positions that the device owns alone, and its statistics."""
    tensors: dict[str, Tensor] = {}
    own = state.masks_of(job.part)
    for index, name in enumerate(job.inner):
        part = state.parts[name]
        trained = {key: mask for key, mask in part.masks.items() if key not in part.params}
        tensors |= {f"{INNER}{index}/mask/{key}": mask[own[key]] for key, mask in trained.items()}
        buffers = width.narrow(part.params, own) if job.structured else part.params
        tensors |= {f"{INNER}{index}/{key}": value for key, value in buffers.items()}
    return tensors


def _aggregate(settings: Training) -> Aggregate:
    named: dict[str, Aggregate] = {
        "mean": coverage_mean,
        "median": coverage_median,
        "trimmed": functools.partial(coverage_trimmed, trim=settings.trim),
    }
    return named[settings.aggregate]


def _clipped(state: State, shares: Sequence[Share], norm: float) -> Sequence[Share]:
    """Weights alone: statistics of batch norms are in other units, and may rightly move far."""
    floats = (name for name, value in state.params.items() if np.issubdtype(value.dtype, np.floating))
    names = [name for name in floats if name not in statistics(state.params)]
    if not norm:
        return shares
    return [clipped(state.params, share, norm, [name for name in names if name in share.params]) for share in shares]


def _averaged(state: State, replies: Sequence[Reply], shares: Sequence[Share], aggregate: Aggregate) -> State:
    """FedAvg over whoever owns a position, weighted by training examples (McMahan et al., 2017, alg. 1).

    Or another aggregate in its place, which robust ones are. What a device does not send stays as it is.

    Statistics of batch norms are averaged apart for each part, over the devices that trained it.
    """
    sent = [name for name in state.params if all(name in share.params for share in shares)]
    params = {**state.params, **aggregate({name: state.params[name] for name in sent}, _of(shares, sent))}
    shared = without_own(state).parts
    parts = {name: part._replace(params=_statistics(state, name, replies, aggregate)) for name, part in shared.items()}
    for part in list(parts.values())[:1]:
        params = {**params, **part.params}
    own = [Share(_own(reply.payload), {}, _examples(reply)) for reply in replies]
    trained = [name for name in state.memory if own and all(name in share.params for share in own)]
    memory = {**state.memory, **aggregate({name: state.memory[name] for name in trained}, _of(own, trained))}
    return state.of(Model(masks.apply(params, state.masks), state.masks, memory, parts))


def _stepped(settings: Training, before: State, joined: State, shares: Sequence[Share]) -> State:
    """The joined state after the server's optimiser; what no device trained stays, and what is pruned is 0."""
    if settings.server_optimiser == "none":
        return joined
    owned = owned_by_any(list(before.params), [share.masks for share in shares])
    owned |= {name: np.asarray(False) for name in before.params if not all(name in share.params for share in shares)}
    params, moments = stepped(settings, before.params, joined.params, owned, before.moments)
    return replace(joined, params=masks.apply(params, joined.masks), moments=moments)


def _of(shares: Sequence[Share], names: Sequence[str]) -> list[Share]:
    return [share._replace(params={name: share.params[name] for name in names}) for share in shares]


def _in_full(state: State, reply: Reply) -> Params:
    """The device's own part, in the server's shapes."""
    return restored(state, reply.job, own_tensors(reply.payload))


def _own(payload: Payload) -> Params:
    return {name.removeprefix(OWN): value for name, value in payload.tensors.items() if name.startswith(OWN)}


def _report(payload: Payload, name: str) -> Payload:
    """A report as an answer of its kind."""
    head, values = f"{REPORT}{name}/", f"{name}/"
    return Payload(
        {key.removeprefix(values): value for key, value in payload.values.items() if key.startswith(values)},
        {key.removeprefix(head): value for key, value in payload.tensors.items() if key.startswith(head)},
    )


def _reports(payload: Payload, local: Local) -> dict[str, Mapping[str, Tensor]]:
    return {
        name: measures.find(ask.kind).merge([_report(payload, name)], ask.args) for name, ask in local.reports.items()
    }


def _weighed(reply: Reply, most: int) -> Reply:
    """The reply as one of at most so many examples; 0 is no limit."""
    values = reply.payload.values
    if not most or values["examples"] <= most:
        return reply
    return reply._replace(payload=reply.payload._replace(values={**values, "examples": most}))


def _examples(reply: Reply) -> float:
    return number(reply.payload, "examples")


def _statistics(state: State, name: str, replies: Sequence[Reply], aggregate: Aggregate) -> Params:
    """A part's statistics, over the devices that trained it, weighted by the examples that they trained it with."""
    part, shares = state.parts[name], []
    kept = {key: mask for key, mask in part.masks.items() if key in part.params}
    for payload, job in ((reply.payload, reply.job) for reply in replies):
        trained = (job.part, *job.inner)
        if name not in trained:
            continue
        index = trained.index(name)
        turns = payload.values.get("turns", [1])
        prefix = f"{INNER}{index - 1}/" if index else ""
        sent = {key: payload.tensors[prefix + key] for key in part.params if prefix + key in payload.tensors}
        # what is not sent stays: statistics of a batch norm that is frozen
        found = {**part.params, **restored(state, job, sent)}
        shares.append(Share(found, kept, number(payload, "examples") * turns[index] / sum(turns)))
    return aggregate(part.params, shares)


def _passes(experiment: Experiment, job: Job) -> int:
    """How often a device with this job sees each of its examples in a round."""
    return experiment.training.epochs * (1 + min(job.inner_steps, len(job.inner)))


def check(
    passes: Callable[[Job], int], local: Local, state: State, job: Job, payload: Payload, task: Task = CLASSIFICATION
) -> None:
    """A reply's numbers are plausible, its tensors are those asked for, finite, and 0 outside the device's own part."""
    examples = count(payload, "examples", least=1)
    if payload.values.get("seen") is not None:
        seen = count(payload, "seen", most=examples * passes(job))
        check_sums(task, payload, seen)
    params, kept = held(state, job)
    buffers = {key: value for key, value in _inner(state, job).items() if "/mask/" not in key}
    trained = {name: state.memory[name] for name in local.trains}
    sent = (local.sends or everything)(params, trained)
    expected = {name if name in params else OWN + name: value for name, value in sent.items()}
    given = {name: value for name, value in payload.tensors.items() if not name.startswith(REPORT)}
    like({**expected, **buffers}, given)
    for name, mask in kept.items():
        if name in given and np.any(given[name][~mask]):
            raise ValueError(f"{name} holds weights outside the device's part of the model")
    if job.inner:
        turns = payload.values.get("turns")
        if not isinstance(turns, list) or len(turns) != 1 + len(job.inner) or sum(_counts(turns)) < 1:
            raise ValueError(f"turns is {turns!r:.40}, expected {1 + len(job.inner)} counts of steps")
    reported = [name for name in payload.tensors if name.startswith(REPORT)]
    known = tuple(f"{REPORT}{name}/" for name in local.reports)
    if unknown := [name for name in reported if not name.startswith(known)]:
        raise ValueError(f"{unknown[0]!r:.80} is a report that nobody asked for")
    for name, ask in local.reports.items():
        measures.find(ask.kind).check(_report(payload, name), ask.args, Model(params, kept))


def _counts(values: Sequence[object]) -> list[int]:
    return [count(Payload({"turns": value}), "turns", most=2**53) for value in values]


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
        if name.endswith(".running_var") and (value < 0).any():
            raise ValueError(f"{name} holds a negative variance")
