"""Peak memory of a device's process, predicted from the graph of the model that it trains."""

from collections.abc import Mapping, Sequence
from math import ceil, prod
from typing import NamedTuple

from fedprune.budgets.passes import Step
from fedprune.budgets.storage import stored_bytes
from fedprune.graph import BatchNorm, Graph, parameters
from fedprune.training.optimisers import PLAIN_STEPS, Steps
from fedprune.types import Local, Params

_FLOAT = 4
_HOLES = 0.6
"""Room lost in glibc's heap, per byte of activations: an aligned tensor does not fit where one of its size was freed.

About this in every shipped model; nothing where `training.lean.return_freed_memory` is in force.
"""


class Extra(NamedTuple):
    """What a method's own local steps take besides those of plain SGD.

    A pass without gradients takes nothing, such as a teacher's: the step's own takes more, and comes after it.
    """

    trained: int = 0
    """Values of its memory that a device trains along: they travel both ways."""
    read: int = 0
    """Values of its memory that a device reads."""
    slots: int = 1
    """Values that are kept of each trained one: by the optimiser, and where FedProx's term pulls it back to."""
    chooses: bool = False
    """Whether it holds every example as floats before it trains, to choose some, and computes them in batches."""


NOTHING = Extra()


def extra_of(local: Local, memory: Params, steps: Steps = PLAIN_STEPS) -> Extra:
    """What ``local`` takes, where ``memory`` has (at least) what it trains and reads, and every step is one of
    ``steps``. KeyError where it has not."""
    trained, read = (sum(memory[name].size for name in names) for names in (local.trains, local.reads))
    optimiser = local.optimiser or (steps.optimiser(()) if steps.optimiser is not None else None)
    slots = (optimiser.slots if optimiser is not None else 1) + (steps.proximal > 0)
    return Extra(int(trained), int(read), slots, local.examples is not None)


class Memory(NamedTuple):
    """Bytes of a device's process at its fullest moment, by what takes them; a part not there at the time is 0."""

    weights: int = 0
    """The model: parameters, buffers, and masks as it trains under them; and what of a method's memory it trains."""
    gradients: int = 0
    """Of all that is trained."""
    optimiser: int = 0
    """Momentum, or what another optimiser keeps; and what FedProx's term pulls back to."""
    activations: int = 0
    """Those kept, their gradients, and what kernels take while they compute."""
    top_k: int = 0
    """Choosing the largest gradients of a layer."""
    link: int = 0
    """The request, encoded and decoded, and the reply."""
    data: int = 0
    """Stored examples, and batches as floats."""
    runtime: int = 0
    """The process before it has a model: `Profile.runtime_bytes`."""
    phase: str = "train"
    """What the process does at that moment: train, reply, choose, grow or evaluate."""

    @property
    def total(self) -> int:
        """What the peak of the process will be."""
        return sum(part for part in self if isinstance(part, int))


def training_memory(
    graph: Graph,
    *,
    batch: int,
    micro_batch: int = 0,
    recompute: Sequence[str] = (),
    sparse: bool = False,
    kept: Mapping[str, int] | None = None,
    examples: int = 0,
    example_bytes: int = 0,
    evaluate_batch: int = 0,
    grow_batch: int = 0,
    grown: Mapping[str, int] | None = None,
    inner: int = 0,
    extra: Extra = NOTHING,
    runtime: int = 0,
) -> Memory:
    """The fullest moment of a round on a device that trains ``graph``, traced before batch norm is folded.

    ``micro_batch``, ``recompute`` (names as of `training.lean.blocks`) and ``sparse`` are those of `Lean`; ``kept``
    counts the kept weights of each masked parameter. ``examples`` of ``example_bytes`` each are the device's, held
    with the data set. Batches of 0 leave the phases evaluate and grow out; ``grown`` counts the gradients sent.
    ``inner`` sub-models are taken to have a mask of each masked parameter. ``extra`` is what a method's own steps add.
    """
    kept = kept or {}
    sizes = {p.name: int(p.value.size) for op in graph.operations for p in parameters(op)}
    buffers = {p.name for op in graph.operations if isinstance(op, BatchNorm) for p in (op.mean, op.variance)}
    model = _FLOAT * sum(sizes.values())
    trained = {name: size for name, size in sizes.items() if name not in buffers}
    masked = sum(sizes[name] for name in kept)
    left = {name: kept.get(name, size) for name, size in trained.items()}

    masks = {name: sizes[name] for name in kept}
    codes = stored_bytes(masks, kept, 0)["entropy"]
    encoded = _FLOAT * (sum(left.values()) + sum(sizes[name] for name in buffers))
    request = encoded + model + (1 + inner) * (codes + masked)  # as it came, its tensors, its masks
    asked = request + 2 * _FLOAT * (extra.trained + extra.read)  # with a method's memory
    own = _FLOAT * extra.trained

    example = _FLOAT * prod(graph.shapes[graph.input])
    stored = 2 * examples * example_bytes  # the data set, and the copy of the device's own part
    common = Memory(weights=model, link=request, data=stored, runtime=runtime)
    moments = []

    holes = 0.0 if micro_batch or recompute or sparse else _HOLES
    parts = ceil(batch / micro_batch) if micro_batch else 1
    within = sum(kept.values()) if sparse else masked  # what a sub-model's mask is over
    nested = (inner + _FLOAT) * within if inner else 0  # the masks, and the weights of the one whose turn it is
    step = Step(graph, ceil(batch / parts), kept if sparse else {}, parts > 1, holes=holes).run(recompute)
    velocity = _FLOAT * sum(left.values() if sparse else trained.values())
    lean_weights = _FLOAT * (sum(left.values()) + sum(sizes[n] for n in buffers)) + masked
    moments.append(
        common._replace(
            weights=(lean_weights if sparse else model + _FLOAT * masked) + nested + own,
            gradients=step.gradients + own,
            optimiser=extra.slots * (velocity + own),
            activations=step.peak - step.gradients + own,  # what a loss makes of it and keeps
            link=asked,
            data=stored + 2 * batch * example,  # one trained on, one being made or just over
        )
    )
    values = _FLOAT * sum(kept.values())
    reply = model + values + encoded + 2 * own
    moments.append(common._replace(weights=model + own, link=asked + reply, phase="reply"))
    if extra.chooses:
        held = Step(graph, batch, holes=holes).infer().peak
        inputs = 2 * examples * example  # as floats, and again in the order that a model wants them in
        choosing = common._replace(activations=held, data=stored + inputs, phase="choose")
        moments.append(choosing._replace(weights=model + own, link=asked))
    if evaluate_batch:
        held = Step(graph, evaluate_batch, holes=holes).infer().peak
        moments.append(common._replace(activations=held, data=stored + 2 * evaluate_batch * example, phase="evaluate"))
    if grow_batch:
        grown = grown or {}
        grow = Step(graph, grow_batch, one_gradient=True, holes=holes).run()
        # A copy of the gradient, its absolute values with and without what is kept, sorted; three masks.
        largest = max((4 * _FLOAT + 3) * sizes[name] for name in grown) if grown else 0
        lists = sum((_FLOAT + 8) * count for count in grown.values())
        moments.append(
            common._replace(
                activations=grow.peak,
                top_k=largest + lists,
                data=stored + 2 * grow_batch * example,
                phase="grow",
            )
        )
    return max(moments, key=lambda memory: memory.total)
