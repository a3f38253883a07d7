"""The nouns of the library: what is measured, scored, kept and passed between rooms.

A tensor is a numpy array everywhere but inside training and tracing, so that a device or a server can score, mask and
merge without torch. Mappings are keyed by parameter name, as in ``torch.nn.Module.state_dict``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from torch import nn

Tensor = npt.NDArray[Any]
BoolTensor = npt.NDArray[np.bool_]
FloatTensor = npt.NDArray[np.floating[Any]]

DeviceId = int | str
"""A device of a run: a number where one data set is dealt to devices, a name where each has data of its own."""

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
    examples: float
    """How many, or what they weigh together where they do not count alike."""


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


class Model(NamedTuple):
    """What a method decides on: the weights, which of them live, and what it keeps beside them."""

    params: Params
    """Every parameter and buffer; pruned positions are 0."""
    masks: Masks = MappingProxyType({})
    memory: Params = MappingProxyType({})
    """Named tensors of the method's own: first weights, a teacher, scores."""
    parts: Mapping[str, Part] = MappingProxyType({})
    """Smaller models nested in this one, by name, the largest first, where devices do not all train the same."""


class Part(NamedTuple):
    """What one device trains of a model.

    In a model that has masks itself a part is those of its weights that the part's masks keep. In one without, a part's
    masks are whole channels, of parameters and buffers alike: its devices hold a narrower model, and the server keeps
    the weights beyond it.
    """

    params: Params
    """Tensors of its own, such as batch-norm statistics; all others are the model's."""
    masks: Masks
    """What it keeps. Those of a smaller part are nested in those of every larger one."""


class Holder(NamedTuple):
    """A device, as a method sees it."""

    device: DeviceId
    part: str
    """The part that its budget holds; empty where all devices train the whole model."""
    round: int


class Ask(NamedTuple):
    """Evidence that a method wants of the devices."""

    kind: str
    """Name of a kind of evidence: a file of ``fedprune.measures``."""
    args: Any = None
    """What the kind wants to know."""
    apart: bool = False
    """Whether each device's answer is wanted by itself, and none is merged."""
    part: str = ""
    """Whose holders are asked; empty is the largest part."""
    masks: Masks = MappingProxyType({})
    """Masks within the model's own, under which it is measured; a parameter without one keeps its own."""


class Sgd(NamedTuple):
    """SGD with (heavy-ball) momentum and L2 weight decay on weights of two dimensions or more."""

    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 0.0


class Now(NamedTuple):
    """When a local step happens."""

    round: int
    step: int
    """Of the device in this round, counted from 0."""
    sgd: Sgd
    """What the experiment asks of plain training in this round."""


class Optimiser(NamedTuple):
    """How a device moves its weights."""

    init: Callable[[Mapping[str, torch.Tensor]], dict[str, Any]]
    """What is trained, parameters and memory by name -> the state that ``update`` keeps."""
    update: Callable[[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor], dict[str, Any], Now], None]
    """(what is trained, its gradients, state, now): move it, in place. What has no part in a step's loss is not
    among the gradients. Those of pruned weights are 0, and the weights are set to 0 afterwards."""
    slots: int = 1
    """Tensors of a weight's size that the state holds of each weight."""


Loss = Callable[..., "torch.Tensor"]
"""(net, params, inputs, labels, memory, now) -> scalar; ``net(params, inputs)`` are the logits of training, and
``net.still(params, inputs)`` those of evaluation, without gradients, with batch-norm statistics among its params;
``net.task`` is what the model is for, with a ``loss`` of its own."""


class Local(NamedTuple):
    """The device half of a method, built on the device; the default is plain masked SGD."""

    loss: Loss | None = None
    """None is the task's, a mean over the examples."""
    optimiser: Optimiser | None = None
    """None is the experiment's SGD."""
    examples: Callable[..., Tensor] | None = None
    """(net, params, inputs, labels, memory, rng) -> indices of those that it trains on in a round; None is all. It gets
    every input at once; ``net.still`` takes them in parts."""
    trains: tuple[str, ...] = ()
    """Names in memory that it also trains."""
    reads: tuple[str, ...] = ()
    """Names in memory that it reads."""
    reports: Mapping[str, Ask] = MappingProxyType({})
    """Evidence of its own trained part, which travels with the trained weights."""
    sends: Callable[[Params, Params], Params] | None = None
    """(trained params, trained memory) -> what goes back; None is all parameters and buffers, and what it trains of
    memory. A pure function, whose names and shapes are the same for all values."""
    around: Callable[[nn.Module], AbstractContextManager[None]] | None = None
    """Something done to the model while it is trained, such as rounding; where it replaces a module's ``forward``,
    ``net.still`` knows nothing of it."""
    turns: Callable[[int, np.random.Generator], Iterator[int]] | None = None
    """(number of smaller parts, rng) -> which model each step trains: the device's own (0) or one nested in it."""
    classes: bool = False
    """Whether it reads labels as classes, or outputs as logits of classes, which other tasks have not."""
    passes: int = 0
    """Forward passes of a step besides its own and before it, such as a teacher's; for the plan of a device's time."""


class Trained(NamedTuple):
    """What one device brings back."""

    params: Params
    """What it sent, in the server's shapes; positions that it does not own are 0."""
    masks: Masks
    """What it owns."""
    weight: float
    """Its number of training examples."""
    own: Params = MappingProxyType({})
    """What else it sent: what it trained of the method's memory, or what its ``Local.sends`` made."""
    reports: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({})
    """The evidence that travelled along."""


Found = Mapping[str, Any]
"""Answers to a method's asks, by name: merged evidence, or device -> evidence where it was asked apart. Evidence that
nobody could give is empty."""


def _whole(model: Model, holder: Holder) -> Part:
    return model.parts.get(holder.part) or Part({}, model.masks)


class Method(NamedTuple):
    """A published method, both of its halves; all pure, so that a run goes on from a model and a round alone."""

    start: Callable[[Params], Model]
    """Every parameter and buffer, pretrained -> the model before round 0."""
    part: Callable[[Model, Holder], Part] = _whole
    """What a device trains."""
    local: Local = Local()
    """How it trains that."""
    join: Callable[[Model, Mapping[DeviceId, Trained]], Model] = lambda model, trained: model
    """(the model with every weight averaged over its owners, what each device brought) -> model."""
    asks: Callable[[Model, int, Found], Mapping[str, Ask]] = lambda model, round, found: {}
    """(model, round, found) -> what is to be measured, by name; repeated until it asks nothing new."""
    act: Callable[[Model, Found, int], Model] = lambda model, found, round: model
    """(model, found, round) -> new masks, weights, memory. Round 0 comes before any training on devices."""
    pretraining: Callable[[Params, int, int], Masks] = lambda params, epoch, epochs: {}
    """(params, epoch, of how many) -> what the server's training on its public examples keeps from that epoch on,
    which is ahead and counted from 0; layers left out keep all that they have."""
