"""Phase train: devices train the part that is theirs, the server averages every position over its owners."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from math import ceil

import numpy as np

from fedprune import draws, training
from fedprune.aggregation import Share, clipped, coverage_mean, coverage_median, coverage_trimmed
from fedprune.counter_rng import generator
from fedprune.experiment import Experiment, Training
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.jobs import Job, held, restored
from fedprune.federated.rounds.model import State, statistics
from fedprune.federated.rounds.ordering import ordered
from fedprune.wire.payload import Payload, count, number
from fedprune.federated.rounds.phases import Phase, Reply
from fedprune.graph import width
from fedprune.pruning import masks
from fedprune.pruning.schedules import cosine
from fedprune.training import Optimiser
from fedprune.training.lean import SubModel
from fedprune.training.quantised import quantised
from fedprune.types import Params, Tensor

ROUTE = "train"
_INNER = "inner/"
Aggregate = Callable[[Params, Sequence[Share]], Params]
"""(the server's values, what devices bring) -> joined values."""


def train(experiment: Experiment, round: int) -> Phase:
    """Local masked SGD in ``round``, at the round's learning rate."""

    def request(state: State, job: Job) -> Payload:
        params, kept = held(state, job)
        values = {"round": round, "learning_rate": learning_rate(experiment, round), **job.to_values()}
        return Payload(values, {**params, **_inner(state, job)}, kept)

    def reduce(state: State, replies: Sequence[Reply]) -> State:
        full = [Share(_in_full(state, r), state.masks_of(r.job.part), _examples(r)) for r in replies]
        shares = _clipped(state, full, experiment.training.clip_norm)
        joined = _averaged(state, replies, shares, _aggregate(experiment.training))
        return ordered(joined, shares, experiment.training.join)

    passes = functools.partial(_passes, experiment)
    return Phase(ROUTE, request, device, reduce, functools.partial(check, passes), {"examples": "train"})


def _inner(state: State, job: Job) -> Params:
    """Each smaller part's masks, on the positions that the device owns alone, and its statistics."""
    tensors: dict[str, Tensor] = {}
    own = state.masks_of(job.part)
    for index, name in enumerate(job.inner):
        part = state.parts[name]
        trained = {key: mask for key, mask in part.masks.items() if key not in part.buffers}
        tensors |= {f"{_INNER}{index}/mask/{key}": mask[own[key]] for key, mask in trained.items()}
        buffers = width.narrow(part.buffers, own) if job.structured else part.buffers
        tensors |= {f"{_INNER}{index}/{key}": value for key, value in buffers.items()}
    return tensors


def device(self: Device, request: Payload) -> Payload:
    """Train the epochs asked for; returns all parameters and buffers, and sums over the examples trained on."""
    settings, round, job = self.experiment.training, int(request.values["round"]), Job.of(request.values)
    model = self.model({name: value for name, value in request.tensors.items() if not name.startswith(_INNER)})
    optimiser = Optimiser(float(request.values["learning_rate"]), settings.momentum, settings.weight_decay)
    examples = self.parts.train
    if job.share < 1:
        some = generator(self.experiment.seed, "device", self.index, "share", round).permutation(len(examples))
        examples = examples.take(np.sort(some[: ceil(job.share * len(examples))]))
    batches = (
        batch
        for epoch in range(settings.epochs)
        for batch in self.shuffled(examples, settings.batch, "train", round, epoch)
    )
    inner = _inner_models(request, len(job.inner))
    each = 1 + min(job.inner_steps, len(inner))
    batches = (batch for batch in batches for _ in range(each))
    turns = [0] * (1 + len(inner))
    taken = _turns(len(inner), each, generator(self.experiment.seed, "device", self.index, "turn", round))

    def turn(step: int) -> int:
        chosen = next(taken)
        turns[chosen] += 1
        return chosen

    def draw_anew(step: int) -> None:
        draws.begin(self.number("train", round, step))

    rounded = round > self.experiment.rounds - settings.quantise_last
    with draws.seeded(self.number("train", round)), quantised(model) if rounded else nullcontext():
        outcome = training.train(
            model, batches, optimiser, request.masks, lean=job.lean, inner=inner, turn=turn if inner else None,
            before_step=draw_anew,
        )  # fmt: skip
    values = {"examples": len(examples), "loss": outcome.loss, "correct": outcome.correct, "seen": outcome.examples}
    buffers = {
        f"{_INNER}{index}/{name}": value.numpy()
        for index, each in enumerate(inner)
        for name, value in each.buffers.items()
    }
    return Payload({**values, **({"turns": turns} if inner else {})}, {**training.state_of(model), **buffers})


def _turns(inner: int, each: int, rng: np.random.Generator) -> Iterator[int]:
    """Which model each step trains, 0 the device's own: it and ``each`` - 1 smaller ones in turn, or any at random."""
    while True:
        if each > 1:
            yield from (0, *sorted((1 + rng.permutation(inner)[: each - 1]).tolist()))
        else:
            yield int(rng.integers(1 + inner))


def _inner_models(request: Payload, count: int) -> list[SubModel]:
    import torch

    found = []
    for index in range(count):
        prefix = f"{_INNER}{index}/"
        mine = {key.removeprefix(prefix): v for key, v in request.tensors.items() if key.startswith(prefix)}
        kept, buffers = {}, {}
        for key, value in mine.items():
            name = key.removeprefix("mask/")
            if name == key:
                buffers[name] = torch.from_numpy(value.copy())
            elif name in request.masks:
                kept[name] = np.zeros(request.masks[name].shape, np.bool_)
                kept[name][request.masks[name]] = value
            else:
                kept[name] = value.reshape(request.tensors[name].shape)
        found.append(SubModel(kept, buffers))
    return found


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
    return [clipped(state.params, share, norm, names) for share in shares] if norm else shares


def _averaged(state: State, replies: Sequence[Reply], shares: Sequence[Share], aggregate: Aggregate) -> State:
    """FedAvg over whoever owns a position, weighted by training examples (McMahan et al., 2017, alg. 1).

    Or another aggregate in its place, which robust ones are.

    Statistics of batch norms are averaged apart for each part, over the devices that trained it.
    """
    params = aggregate(state.params, shares)
    parts = {
        name: part._replace(buffers=_statistics(state, name, replies, aggregate)) for name, part in state.parts.items()
    }
    for part in list(parts.values())[:1]:
        params = {**params, **part.buffers}
    return State(state.round, masks.apply(params, state.masks), state.masks, state.memory, parts)


def _in_full(state: State, reply: Reply) -> Params:
    """The device's own part, in the server's shapes."""
    own = {name: value for name, value in reply.payload.tensors.items() if not name.startswith(_INNER)}
    return restored(state, reply.job, own)


def _examples(reply: Reply) -> float:
    return number(reply.payload, "examples")


def _statistics(state: State, name: str, replies: Sequence[Reply], aggregate: Aggregate) -> Params:
    """A part's statistics, over the devices that trained it, weighted by the examples that they trained it with."""
    part, shares = state.parts[name], []
    kept = {key: mask for key, mask in part.masks.items() if key in part.buffers}
    for payload, job in ((reply.payload, reply.job) for reply in replies):
        trained = (job.part, *job.inner)
        if name not in trained:
            continue
        index = trained.index(name)
        turns = payload.values.get("turns", [1])
        prefix = f"{_INNER}{index - 1}/" if index else ""
        found = restored(state, job, {key: payload.tensors[prefix + key] for key in part.buffers})
        shares.append(Share(found, kept, number(payload, "examples") * turns[index] / sum(turns)))
    return aggregate(part.buffers, shares)


def _passes(experiment: Experiment, job: Job) -> int:
    """How often a device with this job sees each of its examples in a round."""
    return experiment.training.epochs * (1 + min(job.inner_steps, len(job.inner)))


def check(passes: Callable[[Job], int], state: State, job: Job, payload: Payload) -> None:
    """A reply's numbers are plausible, its tensors are the model's, finite, and 0 outside the device's own part."""
    examples = count(payload, "examples", least=1)
    if payload.values.get("seen") is not None:
        seen = count(payload, "seen", most=examples * passes(job))
        count(payload, "correct", most=seen)
    expected, kept = held(state, job)
    buffers = _inner(state, job)
    like({**expected, **{key: value for key, value in buffers.items() if "/mask/" not in key}}, payload.tensors)
    for name, mask in kept.items():
        if np.any(payload.tensors[name][~mask]):
            raise ValueError(f"{name} holds weights outside the device's part of the model")
    if job.inner:
        turns = payload.values.get("turns")
        if not isinstance(turns, list) or len(turns) != 1 + len(job.inner) or sum(_counts(turns)) < 1:
            raise ValueError(f"turns is {turns!r:.40}, expected {1 + len(job.inner)} counts of steps")


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


def learning_rate(experiment: Experiment, round: int) -> float:
    """A cosine from the first round's learning rate to the last's; rounds count from 1."""
    first, last = experiment.training.learning_rate, experiment.training.final_learning_rate
    if last is None or experiment.rounds == 1:
        return first
    return cosine(first, last, end=experiment.rounds - 1)(round - 1)
