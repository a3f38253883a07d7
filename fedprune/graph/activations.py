"""Operations on values: arithmetic of two tensors, constants, reductions, and functions of one value."""

from dataclasses import dataclass

from fedprune.graph.operations import (
    FREE,
    AvgPool,
    Bounds,
    Conv2d,
    Linear,
    MaxPool,
    Operation,
    Parameter,
    TransposedConv2d,
)


@dataclass(frozen=True, eq=False)
class Constant(Operation):
    """A tensor of the model's own that is no layer's weight, such as an embedding of positions; it has no inputs."""

    value: Parameter  # of the shape of the output


@dataclass(frozen=True, eq=False)
class Add(Operation):
    """The sum of two tensors; one may be of size one along an axis of the other."""

    bounds: Bounds = FREE


@dataclass(frozen=True, eq=False)
class Subtract(Operation):
    """The first tensor less the second; one may be of size one along an axis of the other."""

    bounds: Bounds = FREE


@dataclass(frozen=True, eq=False)
class Multiply(Operation):
    """The product of two tensors; one may be of size one along an axis of the other, as a gate of channels is."""

    bounds: Bounds = FREE


@dataclass(frozen=True, eq=False)
class Divide(Operation):
    """The first tensor by the second; one may be of size one along an axis of the other."""

    bounds: Bounds = FREE


@dataclass(frozen=True, eq=False)
class Maximum(Operation):
    """The larger of two tensors, value by value."""


@dataclass(frozen=True, eq=False)
class Minimum(Operation):
    """The smaller of two tensors, value by value."""


Binary = Add | Subtract | Multiply | Divide | Maximum | Minimum
"""Operations on two tensors, value by value."""

Bounded = Conv2d | TransposedConv2d | Linear | MaxPool | AvgPool | Add | Subtract | Multiply | Divide
"""Operations that clip their own output."""


@dataclass(frozen=True, eq=False)
class Reduce(Operation):
    """The mean, largest or smallest over ``axes``, which the output has with size one or not at all."""

    function: str
    """mean, max or min; a sum is a mean, multiplied."""
    axes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Clip(Operation):
    """``min(max(x, low), high)``; ReLU and ReLU6 are its only bounds in a traced graph."""

    bounds: Bounds


@dataclass(frozen=True, eq=False)
class Softmax(Operation):
    """``exp(x) / sum exp(x)`` over an axis."""

    axis: int = 1


@dataclass(frozen=True, eq=False)
class LogSoftmax(Operation):
    """``x - log sum exp(x)`` over an axis."""

    axis: int = 1


@dataclass(frozen=True, eq=False)
class Sigmoid(Operation):
    """``1 / (1 + exp(-x))``."""


@dataclass(frozen=True, eq=False)
class Tanh(Operation):
    """``tanh(x)``."""


@dataclass(frozen=True, eq=False)
class HardSwish(Operation):
    """``x min(max(x + 3, 0), 6) / 6``."""


@dataclass(frozen=True, eq=False)
class Gelu(Operation):
    """``x Φ(x)``, or its form with a hyperbolic tangent."""

    approximate: bool


@dataclass(frozen=True, eq=False)
class LeakyRelu(Operation):
    """``max(x, 0) + slope min(x, 0)``."""

    slope: float


@dataclass(frozen=True, eq=False)
class PRelu(Operation):
    """``max(x, 0) + weight min(x, 0)``, with a weight a channel (axis 1) or one of all."""

    weight: Parameter  # (channels,) or (1,)


@dataclass(frozen=True, eq=False)
class Elu(Operation):
    """``x`` where it is positive, else ``exp(x) - 1``."""


@dataclass(frozen=True, eq=False)
class Abs(Operation):
    """``|x|``."""


@dataclass(frozen=True, eq=False)
class Exp(Operation):
    """``exp(x)``."""


@dataclass(frozen=True, eq=False)
class Rsqrt(Operation):
    """``1 / sqrt(x + epsilon)``."""

    epsilon: float


@dataclass(frozen=True, eq=False)
class Widen(Operation):
    """The same values; an int8 file holds them, and what is computed of them, in 16 bits until they are narrowed."""


@dataclass(frozen=True, eq=False)
class Narrow(Operation):
    """The same values; an int8 file holds them in 8 bits again."""


Unary = Clip | Sigmoid | Tanh | HardSwish | Gelu | LeakyRelu | Elu | Abs | Exp | Rsqrt | Widen | Narrow
"""Functions of one value, the same for all of a tensor."""
