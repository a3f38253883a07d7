"""How aten operations that reduce axes are read: means, sums, extremes, norms of vectors."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedprune.graph.activations import (
    Constant,
    Multiply,
    Reduce,
    Rsqrt,
)
from fedprune.graph.calls import Call, Read, Step, canonical_axis
from fedprune.graph.moving import Reshape
from fedprune.graph.operations import GlobalMean, Operation, Parameter

_LEAST = 1e-12
"""Added before a square root, which has no slope at 0."""


def reduce(function: str) -> Read:
    """The reader of a reduction, over the axes that the call names or over all but the batch."""

    def read(call: Call) -> tuple[Step, ...]:
        return reduced(call, call.tensor("self"), call.arguments.get("dim"), function)

    return read


def reduced(call: Call, source: str, named: Sequence[int] | int | None, function: str) -> tuple[Step, ...]:
    plain: Sequence[int] = [named] if isinstance(named, int) else named or range(call.rank)
    axes = tuple(sorted(canonical_axis(axis, call.rank) for axis in plain))
    before = call.shapes[source]
    channels = before[1] if len(before) == 4 and before[0] == 1 else 0
    if function == "mean" and axes in ((2, 3), (3,)) and call.shape in ((1, channels), (1, channels, 1, 1)):
        return (GlobalMean((source,), call.output),)
    if function != "sum":
        return _reduced_to(call, Reduce((source,), call.output, function, axes), before)
    name, count = f"{call.output}.count", np.prod([before[axis] for axis in axes])
    ones = (1,) * len(call.shape)
    made = (Constant((), name, Parameter(name, np.full(ones, count, np.float32))), ones)
    mean, kept = f"{call.output}.average", tuple(1 if axis in axes else size for axis, size in enumerate(before))
    shaped = f"{call.output}.shaped"
    return (
        (Reduce((source,), mean, "mean", axes), kept),
        (Reshape((mean,), shaped), call.shape),
        made,
        Multiply((shaped, name), call.output),
    )


def _reduced_to(call: Call, op: Reduce, before: tuple[int, ...]) -> tuple[Step, ...]:
    kept = tuple(1 if axis in op.axes else size for axis, size in enumerate(before))
    if call.shape == kept:
        return (op,)
    whole = f"{call.output}.kept"
    return ((replace(op, output=whole), kept), Reshape((whole,), call.output))


def vector_norm(call: Call) -> tuple[Step, ...]:
    """``sqrt(sum x^2)``."""
    if call.arguments["ord"] != 2:
        raise call.unsupported(f"of order {call.arguments['ord']} is not covered; 2 is")
    source, names = call.first(), [f"{call.output}.{part}" for part in ("squares", "sum", "inverse")]
    squares = Multiply((source, source), names[0])
    whole = {**call.shapes, names[0]: call.shapes[source]}
    *steps, total = reduced(replace(call, shapes=whole), names[0], call.arguments["dim"], "sum")
    assert isinstance(total, Operation)
    shape = call.shape
    return (
        squares, *steps, (replace(total, output=names[1]), shape),
        (Rsqrt((names[1],), names[2], _LEAST), shape),
        Multiply((names[1], names[2]), call.output),
    )  # fmt: skip
