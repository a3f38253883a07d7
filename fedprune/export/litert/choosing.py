"""Which ranges an int8 file is written with: those of several whose file agrees best with torch."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from fedprune.export import litert
from fedprune.export.litert.calibration import Ranges
from fedprune.export.litert.rounding import rounded
from fedprune.graph import Graph, run
from fedprune.types import FloatTensor, Tensor

_BATCH = 64

Error = Callable[[FloatTensor, FloatTensor], tuple[float, ...]]
"""(outputs of torch, outputs of a file) -> how far they are apart, the first number first; less is better."""


class Way(NamedTuple):
    """How the ranges of an int8 file come about."""

    rule: str
    """A name of `calibration.RULES`."""
    corrected: bool = False
    """Whether biases make up for the rounding, see `rounding.rounded`."""

    def __str__(self) -> str:
        return f"{self.rule}, biases corrected" if self.corrected else self.rule


def squares(wanted: FloatTensor, given: FloatTensor) -> tuple[float, ...]:
    """Return the mean squared difference relative to the variance of what is wanted: of any task."""
    return (float(np.mean((given - wanted) ** 2) / max(float(np.var(wanted)), 1e-30)),)


def classes(wanted: FloatTensor, given: FloatTensor) -> tuple[float, ...]:
    """Return the share of examples (of a map: positions) of another class, then `squares`: of a classification."""
    return (float(np.mean(wanted.argmax(1) != given.argmax(1))), *squares(wanted, given))


def choose(graph: Graph, ranges: Mapping[str, Ranges], inputs: Tensor, error: Error = classes) -> Way:
    """Return the way, of each rule's ``ranges`` with biases as they are and corrected, whose file is least apart.

    The first wins a tie, and biases as they are; also where no file can be run here. Files run on the fast kernels.

    Raises ``UnsupportedOperation`` as `write_int8`, and ``ValueError`` as `run`.
    """
    outputs = [run(graph, inputs[at : at + _BATCH])[graph.outputs[0]] for at in range(0, len(inputs), _BATCH)]
    wanted = np.concatenate(outputs)

    def apart(way: Way) -> tuple[float, ...]:
        own = ranges[way.rule]
        made = rounded(graph, own, inputs, correct=True).graph if way.corrected else graph
        return error(wanted, litert.run(litert.write_int8(made, own), inputs).reshape(wanted.shape))

    ways = [Way(rule, corrected) for corrected in (False, True) for rule in ranges]
    try:
        return min(ways, key=apart)
    except RuntimeError:
        return ways[0]
