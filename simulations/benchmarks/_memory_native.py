"""Native training of benchmark `memory`: a client's training message, its peak predicted and measured."""

from __future__ import annotations

import numpy as np
import torch

from fedprune.budgets import Memory, natively
from fedprune.graph.message import of_text
from fedprune.training.lean import Lean
from fedprune.training.native import Model
from simulations.benchmarks._memory_device import EXAMPLES, SHAPES
from simulations.benchmarks.training import Case, given, message, ran

BATCH = 64
RUNTIME_BYTES = 83_500_000
"""Of a process that answers one message, without the channel that brings it, which is in a plan's figure."""
DENSITIES = (1.0, 0.1, 0.01)
WAYS = {
    "whole batches": Lean(),
    "recomputed": Lean(recompute=True),
    "recomputed, 8 at a time": Lean(micro_batch=8, recompute=True),
}


def measure(name: str, density: float, way: Lean) -> tuple[int, Memory]:
    """(bytes that a process came to, and was thought to come to), Flower and all."""
    case = Case(name, density, batch=BATCH)
    torch.manual_seed(0)
    params, kept, net = given(case)
    said = ran(case, "message", request=message(case, "native", way))
    assert not said["torch"], "a device that trains natively has loaded torch"
    predicted = natively.training_memory(
        Model(of_text(net, params), params),
        batch=BATCH,
        way=way,
        kept={key: int(np.count_nonzero(mask)) for key, mask in kept.items()},
        examples=EXAMPLES,
        example_bytes=int(np.prod(SHAPES[name])),
        runtime=RUNTIME_BYTES,
    )
    return int(said["peak_bytes"]), predicted
