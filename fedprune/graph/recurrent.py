"""Operations with a hidden state that goes from step to step of a sequence: GRU, LSTM and the plain RNN."""

from dataclasses import dataclass

from fedprune.graph.operations import Operation, Parameter


@dataclass(frozen=True, eq=False)
class Gru(Operation):
    """All hidden states of a sequence, ``(1, T, 1, I)`` to ``(1, T, 1, H)``; the first is computed from zeros.

    ``r = s(W_r x + b_r + U_r h + c_r)``, ``z`` likewise, ``n = tanh(W_n x + b_n + r (U_n h + c_n))``,
    ``h' = (1 - z) n + z h``, where ``s(x) = 1 / (1 + exp(-x))``.
    """

    weight_ih: Parameter  # (3 H, I): W_r, W_z, W_n
    weight_hh: Parameter  # (3 H, H): U_r, U_z, U_n
    bias_ih: Parameter | None
    bias_hh: Parameter | None
    reverse: bool
    """Whether the last step is computed first."""


@dataclass(frozen=True, eq=False)
class Lstm(Operation):
    """All hidden states of a sequence, as `Gru`; the cell begins with zeros as well.

    ``i = s(W_i x + b_i + U_i h + c_i)``, ``f`` and ``o`` likewise, ``g`` likewise by tanh, ``cell' = f cell + i g``,
    ``h' = o tanh(cell')``.
    """

    weight_ih: Parameter  # (4 H, I): W_i, W_f, W_g, W_o
    weight_hh: Parameter  # (4 H, H)
    bias_ih: Parameter | None
    bias_hh: Parameter | None
    reverse: bool


@dataclass(frozen=True, eq=False)
class Rnn(Operation):
    """All hidden states of a sequence, as `Gru`: ``h' = tanh(W x + b + U h + c)``, or ``max(0, ...)`` of it."""

    weight_ih: Parameter  # (H, I)
    weight_hh: Parameter  # (H, H)
    bias_ih: Parameter | None
    bias_hh: Parameter | None
    reverse: bool
    nonlinearity: str
    """``tanh`` or ``relu``."""


Recurrent = Gru | Lstm | Rnn

GATES = {Gru: 3, Lstm: 4, Rnn: 1}
"""How many blocks of H rows the weights have."""


def states(op: Recurrent) -> int:
    """Return H, the values of a hidden state."""
    return int(op.weight_hh.value.shape[1])
