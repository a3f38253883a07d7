"""How aten operations on values are read: arithmetic, reductions, and functions of one value."""

from collections.abc import Callable
from dataclasses import replace
from math import inf

import numpy as np

from fedprune.graph.activations import (
    Abs,
    Add,
    Clip,
    Constant,
    Divide,
    Elu,
    Exp,
    Gelu,
    HardSwish,
    LeakyRelu,
    LogSoftmax,
    Maximum,
    Minimum,
    Multiply,
    PRelu,
    Rsqrt,
    Sigmoid,
    Softmax,
    Subtract,
    Tanh,
)
from fedprune.graph.calls import Call, Read, Step, canonical, canonical_axis
from fedprune.graph.moving import Slice
from fedprune.graph.operations import RELU, RELU6, Bounds, Operation, Parameter
from fedprune.graph.reading_reductions import reduce, vector_norm
from fedprune.types import FloatTensor

_LEAST = 1e-12
"""Added before a square root, which has no slope at 0."""


def clip(call: Call) -> Operation | tuple[Step, ...]:
    fixed = {"relu": RELU, "relu6": RELU6}
    low, high = (call.arguments.get(names[0], call.arguments.get(names[1])) for names in _ENDS)
    bounds = fixed.get(call.name) or Bounds(-inf if low is None else float(low), inf if high is None else float(high))
    source = call.first()
    if bounds in (RELU, RELU6):
        return Clip((source,), call.output, bounds)
    steps = list[Step]()
    for kind, end in ((Maximum, bounds.low), (Minimum, bounds.high)):
        if abs(end) != inf:
            constant, made = _number(call, end, f"{kind.__name__}.end")
            result = f"{call.output}.{kind.__name__}"
            steps += [made, kind((source, constant), result)]
            source = result
    return _ending(call, steps)


_ENDS = (("min_val", "min"), ("max_val", "max"))


def _ending(call: Call, steps: list[Step]) -> tuple[Step, ...]:
    # the last step makes the call's output
    op = steps[-1]
    assert isinstance(op, Operation)
    return (*steps[:-1], replace(op, output=call.output))


def _number(call: Call, value: float, label: str) -> tuple[str, Step]:
    name, shape = f"{call.output}.{label}", canonical((1,) * max(call.rank, 2))
    value_of = Parameter(name, np.full(shape, value, np.float32))
    return name, (Constant((), name, value_of), shape)


def binary(kind: Callable[[tuple[str, str], str], Operation]) -> Read:
    """The reader of ``kind(self, other)``; a constant may stand on either side."""

    def read(call: Call) -> tuple[Step, ...]:
        if "other" not in call.arguments:
            raise call.unsupported("over everything is not covered")
        return _two(call, kind)

    return read


def _two(
    call: Call,
    kind: Callable[[tuple[str, str], str], Operation],
    other: Callable[[FloatTensor], FloatTensor] = lambda value: value,
) -> tuple[Step, ...]:
    rank = len(call.plain_shape)
    a, before = call.operand("self", rank)
    scale = call.arguments.get("alpha", 1)
    b, between = call.operand("other", rank, lambda value: other(value) * scale)
    if scale != 1 and not between:
        scaled, (number, made) = f"{call.output}.scaled", _number(call, float(scale), "alpha")
        between, b = [made, Multiply((b, number), scaled)], scaled
    return (*before, *between, kind((a, b), call.output))


def divide(call: Call) -> tuple[Step, ...]:
    if call.arguments.get("rounding_mode"):
        raise call.unsupported("rounds")
    if call.constant(call.arguments["other"]) is not None:
        return _two(call, Multiply, lambda value: 1 / value)
    return _two(call, Divide)


def reversed_difference(call: Call) -> tuple[Step, ...]:
    turned = replace(
        call, arguments={**call.arguments, "self": call.arguments["other"], "other": call.arguments["self"]}
    )
    return _two(turned, Subtract)


def negative(call: Call) -> tuple[Step, ...]:
    number, made = _number(call, -1.0, "minus")
    return (made, Multiply((call.first(), number), call.output))


def power(call: Call) -> tuple[Step, ...]:
    source, exponent = call.first(), call.arguments.get("exponent", 0.5)
    if exponent == 2:
        return (Multiply((source, source), call.output),)
    if exponent == -0.5:
        return (Rsqrt((source,), call.output, _LEAST),)
    if exponent != 0.5:
        raise call.unsupported(f"to the power of {exponent} is not covered; 2, 0.5 and -0.5 are")
    inverse = f"{call.output}.inverse"
    return (Rsqrt((source,), inverse, _LEAST), Multiply((source, inverse), call.output))


def square(call: Call) -> Operation:
    return Multiply((call.first(), call.first()), call.output)


def silu(call: Call) -> tuple[Operation, ...]:
    source, gate = call.first(), f"{call.output}.gate"
    return (Sigmoid((source,), gate), Multiply((source, gate), call.output))


def hard_sigmoid(call: Call) -> tuple[Step, ...]:
    """``min(max(x + 3, 0), 6) / 6``."""
    three, made = _number(call, 3.0, "three")
    sixth, more = _number(call, 1 / 6, "sixth")
    moved, clipped = f"{call.output}.moved", f"{call.output}.clipped"
    return (
        made,
        Add((call.first(), three), moved),
        Clip((moved,), clipped, RELU6),
        more,
        Multiply((clipped, sixth), call.output),
    )


def gated(call: Call) -> tuple[Step, ...]:
    """glu: the first half times the sigmoid of the second."""
    source, axis = call.first(), canonical_axis(call.arguments["dim"], call.rank)
    half = call.shapes[source][axis] // 2
    a, b, gate = (f"{call.output}.{part}" for part in ("first", "second", "gate"))
    return (
        Slice((source,), a, axis, 0, half, 1),
        Slice((source,), b, axis, half, 2 * half, 1),
        Sigmoid((b,), gate),
        Multiply((a, gate), call.output),
    )


def gelu(call: Call) -> Operation:
    return Gelu((call.first(),), call.output, call.arguments.get("approximate") == "tanh")


def leaky_relu(call: Call) -> Operation:
    return LeakyRelu((call.first(),), call.output, float(call.arguments["negative_slope"]))


def prelu(call: Call) -> Operation:
    return PRelu((call.first(),), call.output, call.weight())


def elu(call: Call) -> Operation | tuple[Step, ...]:
    """``scale (max(x, 0) + alpha (exp(min(x, 0)) - 1))``."""
    source, alpha, scale = call.first(), float(call.arguments.get("alpha", 1)), float(call.arguments.get("scale", 1))
    if call.name == "selu":
        alpha, scale = 1.6732632423543772, 1.0507009873554805
    if (alpha, scale) == (1, 1):
        return Elu((source,), call.output)
    if call.arguments.get("input_scale", 1) != 1 or (call.name == "celu" and alpha != 1):
        raise call.unsupported("scales its input")
    names = [f"{call.output}.{part}" for part in ("above", "below", "bent", "low", "high")]
    zero, first_made = _number(call, 0.0, "zero")
    factor, made = _number(call, alpha * scale, "factor")
    times, more = _number(call, scale, "times")
    return (
        first_made, made, more,
        Clip((source,), names[0], RELU),
        Minimum((source, zero), names[1]),
        Elu((names[1],), names[2]),
        Multiply((names[2], factor), names[3]),
        Multiply((names[0], times), names[4]),
        Add((names[3], names[4]), call.output),
    )  # fmt: skip


def softmax(kind: type[Softmax] | type[LogSoftmax]) -> Read:
    return lambda call: kind((call.tensor("self"),), call.output, canonical_axis(call.arguments["dim"], call.rank))


def masked_fill(call: Call) -> tuple[Step, ...]:
    """Constant places given a value; one of minus infinity, or nearly, is added, as what a softmax must not see is."""
    rank = len(call.plain_shape)
    mask, value = (call.constant(call.arguments[key]) for key in ("mask", "value"))
    if mask is None or value is None:
        raise call.unsupported("fills places that depend on the input")
    source, before = call.operand("self", rank)
    there = mask.value.reshape(canonical((1,) * (rank - mask.value.ndim) + mask.value.shape)) != 0
    names, steps = (f"{call.output}.kept", f"{call.output}.filled", f"{call.output}.others"), [*before]
    if float(value.value) > _BELOW_ALL:
        kept = Parameter(mask.name, (~there).astype(np.float32))
        steps += [(Constant((), names[0], kept), there.shape), Multiply((source, names[0]), names[2])]
        source = names[2]
    filled = Parameter(mask.name, np.where(there, value.value, 0).astype(np.float32))
    return (*steps, (Constant((), names[1], filled), there.shape), Add((source, names[1]), call.output))


_BELOW_ALL = -1e4


def unary(kind: type[Operation]) -> Read:
    return lambda call: kind((call.first(),), call.output)


def rsqrt(call: Call) -> Operation:
    return Rsqrt((call.first(),), call.output, 0.0)


VALUES: dict[str, Read] = {
    **dict.fromkeys(("relu", "relu6", "hardtanh", "clamp", "clamp_min"), clip),
    "add": binary(Add),
    "sub": binary(Subtract),
    "rsub": reversed_difference,
    "mul": binary(Multiply),
    **dict.fromkeys(("div", "divide", "true_divide"), divide),
    **dict.fromkeys(("maximum", "max"), binary(Maximum)),
    **dict.fromkeys(("minimum", "min"), binary(Minimum)),
    "neg": negative,
    **dict.fromkeys(("pow", "sqrt"), power),
    "square": square,
    "silu": silu,
    "hardsigmoid": hard_sigmoid,
    "glu": gated,
    "gelu": gelu,
    "leaky_relu": leaky_relu,
    "prelu": prelu,
    **dict.fromkeys(("elu", "celu", "selu"), elu),
    "linalg_vector_norm": vector_norm,
    "softmax": softmax(Softmax),
    "masked_fill": masked_fill,
    "log_softmax": softmax(LogSoftmax),
    "sigmoid": unary(Sigmoid),
    "tanh": unary(Tanh),
    "hardswish": unary(HardSwish),
    "abs": unary(Abs),
    "exp": unary(Exp),
    "rsqrt": rsqrt,
    "mean": reduce("mean"),
    "sum": reduce("sum"),
    "amax": reduce("max"),
    "amin": reduce("min"),
}
