"""Phase ranges: devices measure the range of every activation of the finished model, which its int8 file needs.

So nobody but the devices needs examples. The server learns two numbers of each tensor, over all devices together.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from fedprune.budgets import arena_bytes
from fedprune.counter_rng import generator
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases import Phase, Reply
from fedprune.graph import Graph
from fedprune.graph.message import from_message, to_message
from fedprune.training import evidence, one_thread
from fedprune.types import FloatTensor
from fedprune.wire.payload import Payload

ROUTE = "query.ranges"
_RANGES = "ranges"
_MOST = 500  # examples of a device: as many as of the server's public ones, where they are asked instead
_BATCH = 64
_MOST_VALUES = 2**28  # of a batch


def ranges(graph: Graph, part: str) -> Phase[State]:
    """Measure the ranges of ``graph``, which is the finished model of ``part``, into the state's memory."""

    def request(state: State, job: Job) -> Payload:
        values, tensors = to_message(graph)
        return Payload({"graph": values, **job.to_values()}, tensors)

    def reduce(state: State, replies: Sequence[Reply]) -> State:
        given = [reply.payload.tensors[_RANGES] for reply in replies]
        # (tensors, 2): the least of the least, the greatest of the greatest
        merged = np.stack([np.min(given, axis=0)[:, 0], np.max(given, axis=0)[:, 1]], axis=1)
        return replace(state, notes={**state.notes, _key(part): merged})

    def check(state: State, job: Job, payload: Payload) -> None:
        if payload.tensors.keys() != {_RANGES}:
            raise ValueError(f"expected the ranges of activations alone, got {sorted(payload.tensors)[:3]}")
        found, shape = payload.tensors[_RANGES], (len(graph.shapes), 2)
        if found.dtype != np.float32 or found.shape != shape:
            raise ValueError(f"ranges are {found.dtype}{found.shape}, expected float32{shape}")
        if not np.isfinite(found).all() or np.any(found[:, 0] > 0) or np.any(found[:, 1] < 0):
            raise ValueError("ranges are not finite, or one is without zero")

    return Phase(ROUTE, request, device, reduce, check)


def device(self: Device, request: Payload) -> Payload:
    """The least and the greatest value, and zero, of every tensor of the graph over the device's training part."""
    one_thread()
    graph, job = from_message(request.values["graph"], request.tensors), Job.of(request.values)
    # the job's batch fits with the tensors that are alive at once; here all of them are
    values = sum(prod(shape) for shape in graph.shapes.values())
    batch = max(1, int(arena_bytes(graph) / values * job.batch) if job.batch else min(_BATCH, _MOST_VALUES // values))
    examples = self.parts.train
    order = generator(self.experiment.seed, "device", self.index, "ranges").permutation(len(examples))
    seen = self.batches(examples.take(order[:_MOST]), batch)
    return Payload({}, {_RANGES: evidence.ranges(graph, (inputs for inputs, _ in seen))})


def measured(state: State, part: str) -> FloatTensor | None:
    """The ranges of the finished model of ``part``, (tensors, 2); None where devices have not measured them."""
    return state.notes.get(_key(part))


def _key(part: str) -> str:
    return f"{_RANGES}/{part}"
