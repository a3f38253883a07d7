"""The nouns of the library: what is measured, scored, kept and passed between rooms.

A tensor is a numpy array everywhere but inside training and tracing, so that a device or a server can score, mask and
merge without torch. Mappings are keyed by parameter name, as in ``torch.nn.Module.state_dict``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Tensor = npt.NDArray[Any]
BoolTensor = npt.NDArray[np.bool_]
FloatTensor = npt.NDArray[np.floating[Any]]

Params = Mapping[str, Tensor]
"""Named parameters (or buffers) of a model."""

Scores = Mapping[str, Tensor]
"""Real scores of the shape of what they score; the higher is kept first."""

Masks = Mapping[str, Tensor]
"""Boolean tensors; True is kept. A parameter without a mask is dense."""

Densities = Mapping[str, float]
"""Kept fraction of each layer, in [0, 1]."""

Evidence = Mapping[str, Mapping[str, Tensor]]
"""Measured quantities: kind (``weight``, ``grad``, ``noise``, ...) -> layer -> value."""

Criterion = Callable[..., Tensor]
"""A pure function of evidence; its parameter names are the kinds of evidence it needs."""

Allocation = Callable[[Scores, float], Densities]
"""(scores, density) -> density of each layer."""

Schedule = Callable[[int], float]
"""Value at a step (a round of the server, or a step of an optimiser: whoever calls it says which)."""


class Moments(NamedTuple):
    """Mean and variance of each channel of one normalisation layer, over ``examples`` examples."""

    mean: Tensor
    variance: Tensor
    examples: int


class TopK(NamedTuple):
    """The largest entries of a flattened tensor: distinct positions and their signed values."""

    position: Tensor
    value: Tensor


class Granularity(NamedTuple):
    """What is kept or dropped together: units pooled from scores, and masks spread from kept units."""

    pool: Callable[[Scores], Scores]
    """Scores of single weights -> scores of units."""
    spread: Callable[[Masks, Masks], Masks]
    """(kept units, any masks of the weights' shapes) -> masks of the weights."""


def _grows_nothing(masks: Masks, step: int) -> Mapping[str, int]:
    return {}


class Pruner(NamedTuple):
    """A rule that turns masks into new masks, given evidence. It holds no state."""

    needs: frozenset[str]
    """Kinds of evidence that ``update`` reads."""
    update: Callable[[Masks, Evidence, int], Masks]
    """(masks, evidence, step) -> masks."""
    grows: Callable[[Masks, int], Mapping[str, int]] = _grows_nothing
    """(masks, step) -> how many pruned positions of each layer ``update`` would grow; layers left out grow none. It
    lets a device send only so many of its largest gradients."""


class Method(NamedTuple):
    """What a published method decides; the rooms above run it, in a simulation or over a fleet."""

    candidates: Callable[[Params], Sequence[Masks]]
    """Prunable weights, pretrained on public data -> coarse masks to choose among; one means no choice, an empty mask
    a dense model."""
    update: Pruner | None = None
    """How the masks change after each round; None keeps them."""
    merge: Callable[[Sequence[Moments]], Moments] | None = None
    """How devices' BN statistics are merged before candidates are compared; None compares with the pretrained ones."""
    structured: bool = False
    """Masks are blocks of whole channels over all parameters and buffers: a device holds a narrower model."""
    ordered_dropout: bool = False
    """A device also trains, step by step, the smaller models nested in its own, each as often (FjORD)."""
