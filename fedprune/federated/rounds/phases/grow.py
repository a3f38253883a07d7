"""Phase grow: devices send the largest gradients of pruned weights, the server changes the masks (FedTiny)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedprune import draws
from fedprune.aggregation import merge_top_k
from fedprune.counter_rng import generator
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.jobs import Job, held
from fedprune.federated.rounds.model import State
from fedprune.wire.payload import Payload, count, number
from fedprune.federated.rounds.phases import Phase, Reply
from fedprune.pruning import masks
from fedprune.training import evidence
from fedprune.types import Evidence, Params, Pruner, TopK

ROUTE = "query.grow"
_AT, _GRAD = "at/", "grad/"


def grow(pruner: Pruner, counts: Mapping[str, int], round: int, seed: int) -> Phase:
    """Let ``pruner`` act in ``round`` on the devices' ``counts[layer]`` largest gradients of each layer."""

    def request(state: State, job: Job) -> Payload:
        return Payload({"round": round, "counts": dict(counts), **job.to_values()}, *held(state, job))

    def reduce(state: State, replies: Sequence[Reply]) -> State:
        grads = {
            name: merge_top_k(
                [(_top_k(r.payload, name), number(r.payload, "examples")) for r in replies], state.masks[name].shape
            )
            for name in counts
        }
        return update(state, pruner, grads, round, seed)

    def check(state: State, job: Job, payload: Payload) -> None:
        count(payload, "examples", least=1)
        expected = {prefix + name for name in counts for prefix in (_AT, _GRAD)}
        if unknown := sorted(payload.tensors.keys() - expected):
            raise ValueError(f"expected positions and gradients of the layers asked for, got {unknown[:3]} as well")
        for name, most in counts.items():
            at, value = payload.tensors.get(_AT + name), payload.tensors.get(_GRAD + name)
            if at is None or at.dtype != np.bool_ or at.shape != state.masks[name].shape:
                raise ValueError(f"{name}: expected positions as a mask of shape {state.masks[name].shape}")
            kept = int(np.count_nonzero(at))
            if value is None or value.dtype != np.float32 or value.shape != (kept,) or not np.isfinite(value).all():
                raise ValueError(f"{name}: expected {kept} finite gradients")
            if kept > most or np.any(at & state.masks[name]):
                raise ValueError(f"{name}: expected at most {most} gradients, all of pruned weights")

    return Phase(ROUTE, request, device, reduce, check, {"examples": "train"})


def update(state: State, pruner: Pruner, grads: Params, round: int, seed: int) -> State:
    """The state with masks updated by ``pruner`` from the weights, counter-based noise, and what gradients were sent.

    A gradient that nobody sent counts 0, as a missing entry of a top-k list does.
    """
    found = evidence_for(state, pruner, grads, round, seed)
    new = pruner.update(state.masks, found, round)
    masks.check(new, state.params)
    # a pruned weight is 0 already, so one that is grown starts at 0
    return replace(state, params=masks.apply(state.params, new), masks=new)


def evidence_for(state: State, pruner: Pruner, grads: Params, round: int, seed: int) -> Evidence:
    """What ``pruner`` reads: weights, noise by seed and round, and gradients, 0 where nobody sent one."""
    weights = {name: state.params[name] for name in state.masks}
    found: dict[str, Params] = {"weight": weights}
    if "grad" in pruner.needs:
        found["grad"] = {**{name: np.zeros(value.shape) for name, value in weights.items()}, **grads}
    if "noise" in pruner.needs:
        found["noise"] = evidence.noise({name: value.shape for name, value in weights.items()}, seed + round)
    return found


def device(self: Device, request: Payload) -> Payload:
    """Positions and signed gradients of the largest |∂L/∂θ| among the pruned weights of each layer asked for."""
    counts = {str(name): int(count) for name, count in request.values["counts"].items()}
    examples = self.parts.train
    round = int(request.values["round"])
    rng = generator(self.experiment.seed, "device", self.index, "grow", round)
    batch = Job.of(request.values).grow_batch or self.experiment.training.grow_batch
    chosen = examples.take(rng.permutation(len(examples))[:batch])
    model, inputs = self.model(request.tensors), self.dataset.normalise(chosen.inputs)
    with draws.seeded(self.number("grow", round)):
        found = evidence.top_gradients(model, inputs, chosen.labels, request.masks, counts)
    tensors = {}
    for name, top in found.items():
        at = np.zeros(request.masks[name].size, np.bool_)
        at[top.position] = True  # positions ascend, so the values keep their order
        tensors[_AT + name], tensors[_GRAD + name] = at.reshape(request.masks[name].shape), top.value
    return Payload({"examples": len(examples)}, tensors)


def _top_k(payload: Payload, name: str) -> TopK:
    return TopK(np.flatnonzero(payload.tensors[_AT + name]), payload.tensors[_GRAD + name])
